"""The examples and the short scripts run from a clone alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("words", "leaves"),
    [
        (["examples/01_train_and_fly.py", "{out}/fly.webp", "20"], "fly.webp"),
        (["examples/02_gsplat_code.py", "20"], None),
        (["scripts/train_scene.py", "scenes/saharov", "{out}", "20"], "report.html"),
    ],
)
def test_it_runs(words: list[str], leaves: str | None, tmp_path: Path) -> None:
    command = [word.format(out=tmp_path) for word in words]
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT, timeout=200)
    assert leaves is None or (tmp_path / leaves).stat().st_size > 1000
