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
from tests.scenes import scene3d

PACKAGE = Path(str(splat.__file__)).parent


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
    with pytest.raises(ValueError, match=r"backend 'cpu' takes float32 here, got torch\.float64"):
        choose_backend(torch.zeros(1, dtype=torch.float64), "cpu")


def test_second_derivatives_are_refused_and_first_ones_with_create_graph_are_not() -> None:
    scene = scene3d(5)
    gaussians, image = splat.Gaussians.random(5, sh_degree=1).requires_grad_(), torch.rand(1, 12, 12, 3)
    cameras = splat.Cameras.orbit(1, radius=4, width=12, height=12)
    leaf = image.clone().requires_grad_(True)
    angles = torch.zeros(5, requires_grad=True)
    axes = (torch.zeros(5, 2), angles)
    drawn, _ = splat.rasterize_image(torch.rand(5, 2) * 12, axes, torch.rand(5, 3), (12, 12))
    scene.means.requires_grad_(True)
    with_absgrad, _, _ = splat.rasterization(
        *(scene.means, scene.quats, scene.scales, scene.opacities, scene.sh0[:, 0]),
        *(scene.viewmats, scene.Ks, scene.width, scene.height),
        absgrad=True,
    )
    for value, at in (
        (splat.render(gaussians, cameras).color.square().sum(), gaussians.means),
        (splat.render(gaussians, cameras).color.square().sum(), gaussians.sh0),
        (splat.photometric_loss(leaf, image), leaf),
        (drawn.square().sum(), angles),
        (with_absgrad.square().sum(), scene.means),
    ):
        (first,) = torch.autograd.grad(value, at, create_graph=True)
        with pytest.raises(RuntimeError, match=r"splat::\w+ has no second derivatives; backend='reference'"):
            torch.autograd.grad(first.sum(), at)


def test_threads_are_set_and_bad_numbers_refused() -> None:
    threads = splat.get_num_threads()
    splat.set_num_threads(3)
    assert splat.get_num_threads() == 3
    splat.set_num_threads(threads)
    with pytest.raises(ValueError, match=r"n must be in 1 \.\. 1024, got 100000"):
        splat.set_num_threads(100_000)
    with pytest.raises(TypeError, match=r"n must be an int, got float 2\.0"):
        splat.set_num_threads(2.0)  # type: ignore[arg-type]
    assert splat.get_num_threads() == threads


def test_import_splat_is_light_and_every_public_name_loads() -> None:
    code = (
        "import sys, splat\n"
        "assert 'torch' not in sys.modules, 'torch is loaded with the first name that needs it'\n"
        "values = {name: getattr(splat, name) for name in splat.__all__}\n"
        "import splat.rendering, splat.compat.rasterization\n"
        "assert callable(splat.render) and callable(splat.rasterization) and dir(splat) == sorted(values)\n"
        "splat.nothing\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert "AttributeError: module 'splat' has no attribute 'nothing'" in done.stderr, done.stderr
