"""scripts/gpu_checks.py without a GPU: that it runs, and that what fails or dies is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    script = [
        sys.executable,
        str(root / "scripts" / "gpu_checks.py"),
        "--device",
        "cpu",
        "--no-bench",
        "--out",
        str(out),
    ]
    return subprocess.run([*script, "--out", str(out)], cwd=root, capture_output=True, text=True, timeout=250)


def test_every_check_runs(tmp_path: Path) -> None:
    done = run(ROOT, tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("all well\n"), done.stdout + done.stderr
    checks = json.loads((tmp_path / "gpu_checks.json").read_text())["checks"]
    assert len(checks) > 10 and not any(c["failure"] for c in checks)


def test_what_fails_or_dies_is_told_and_the_rest_runs(tmp_path: Path) -> None:
    """In a copy whose checks are few and bad."""
    root = tmp_path / "copy"
    (root / "scripts").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "splat").symlink_to(ROOT / "splat")
    shutil.copy(ROOT / "scripts" / "gpu_checks.py", root / "scripts")
    (root / "tests" / "__init__.py").touch()
    (root / "tests" / "device_checks.py").write_text(
        "import os\n"
        "class Target:\n    def __init__(self, device): pass\n"
        "def wrong(t): assert False, 'wrong'\n"
        "def lost(t): raise RuntimeError('CUDA error: an illegal memory access')\n"
        "def dies(t): os.abort()\n"
        "def good(t): pass\n"
        "CHECKS = {'wrong': wrong, 'lost': lost, 'good': good, 'dies': dies, 'better': good}\n"
        "NEEDS_CUDA = set()\n"
    )
    done = run(root, tmp_path / "out")
    assert done.returncode == 1 and "failed: wrong, lost, dies\n" in done.stdout, done.stdout + done.stderr
    checks = json.loads((tmp_path / "out" / "gpu_checks.json").read_text())["checks"]
    assert [c["name"] for c in checks] == ["wrong", "lost", "good", "dies", "better"]
    assert checks[3]["failure"].startswith("the process died") and not checks[4]["failure"]
