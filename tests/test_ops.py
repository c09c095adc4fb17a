"""Loading, choice of the backend, and the library without its compiled part."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import splat
from splat.core.ops import choose_backend

PACKAGE = Path(splat.__file__).parent


def test_without_the_compiled_library_the_reference_draws_and_says_so(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "splat", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    code = (
        "import splat\n"
        "view = splat.render(splat.Gaussians.random(20), splat.Cameras.orbit(1, radius=4, width=20, height=16))\n"
        "print(tuple(view.color.shape), float(view.alpha.max()) > 0)\n"
        "splat.fit_image(view.color[0].detach().clamp(0, 1), splat.FitConfig(n=5, time=0.5))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "(1, 16, 20, 3) True" in done.stdout
    said = [line for line in done.stderr.splitlines() if "RuntimeWarning" in line]
    assert len(said) == 1 and "slow reference backend: _C.abi3.so was not built" in said[0]


def test_every_instruction_set_draws_the_same_picture() -> None:
    code = (
        "import torch, splat\n"
        "gaussians = splat.Gaussians.random(300, sh_degree=1)\n"
        "view = splat.render(gaussians, splat.Cameras.orbit(1, radius=3, width=64, height=48))\n"
        "print(torch.ops.splat.cpu_isa(), float(view.color.double().sum()))\n"
    )
    results = {}
    for isa in ("base", "v3", "v4"):
        environment = {"SPLAT_CPU_ISA": isa, "PYTHONPATH": str(PACKAGE.parent)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        name, total = done.stdout.split()
        results[name] = float(total)
    assert "base" in results
    assert max(results.values()) - min(results.values()) < 1e-5 * abs(results["base"])


def test_the_backend_follows_the_tensor_the_argument_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_backend(torch.zeros(1)) == "cpu"
    assert choose_backend(torch.zeros(1, dtype=torch.float64)) == "reference"
    assert choose_backend(torch.zeros(1), "reference") == "reference"
    monkeypatch.setenv("SPLAT_BACKEND", "reference")
    assert choose_backend(torch.zeros(1)) == "reference"
    monkeypatch.setenv("SPLAT_BACKEND", "gpu")
    with pytest.raises(ValueError, match="backend must be one of reference, cpu, cuda, got 'gpu'"):
        choose_backend(torch.zeros(1))
    monkeypatch.delenv("SPLAT_BACKEND")
    with pytest.raises(ValueError, match="backend 'cuda' cannot take tensors on cpu"):
        choose_backend(torch.zeros(1), "cuda")


def test_threads_are_set_and_bad_numbers_refused() -> None:
    threads = splat.get_num_threads()
    splat.set_num_threads(3)
    assert splat.get_num_threads() == 3
    splat.set_num_threads(threads)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        splat.set_num_threads(0)
