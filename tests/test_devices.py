"""GPUs that the CUDA kernels cannot run on, tensors on the wrong device, and what torch says when it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from splat import Cameras, Gaussians, photometric_loss, rasterization, rasterize_image, render
from splat.cli import main
from splat.core import devices, ops
from splat.core.adam import adam_step
from splat.core.binning import TileLists, bin_splats
from splat.core.devices import cuda_problem
from splat.core.ops import choose_backend
from splat.core.project import Splats2D, project
from splat.core.project_image import project_image
from splat.core.rasterize import rasterize
from splat.core.rasterize_l2 import rasterize_l2, to_tiles
from splat.core.sh import sh_colors
from splat.image.model import ImageGaussians
from splat.metrics import psnr, ssim
from tests.scenes import scene3d, splats2d

# GPUs


@dataclass
class Machine:
    """What torch and the library say about a machine."""

    gpus: tuple[tuple[str, tuple[int, int]], ...] = (("NVIDIA H100", (9, 0)),)
    archs: str = "80 90"
    versions: tuple[int, int] = (13000, 13010)
    """Of the kernels' CUDA, and of the driver's."""
    torch_cuda: str | None = "13.0"


Install = Callable[[Machine], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    def put(machine: Machine) -> None:
        cuda_problem.cache_clear()
        monkeypatch.setattr(ops, "cuda_archs", machine.archs.split)
        monkeypatch.setattr(devices, "cuda_versions", lambda: machine.versions)
        monkeypatch.setattr(devices, "knows_cuda_stream", lambda: True)
        monkeypatch.setattr(torch.version, "cuda", machine.torch_cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(machine.gpus))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(machine.gpus))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: machine.gpus[device.index][0])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: machine.gpus[device.index][1])

    yield put
    cuda_problem.cache_clear()


def gpu(major: int, minor: int) -> tuple[tuple[str, tuple[int, int]], ...]:
    return (("X", (major, minor)),)


SERVED = [
    ("the same", Machine(gpu(8, 0))),
    ("a later one of the same major", Machine(gpu(8, 9))),
    ("the last of several", Machine(gpu(9, 0))),
    ("between majors that are built, by the lower one", Machine(gpu(10, 3), "80 100 120")),
    ("newer than all, by PTX", Machine(gpu(12, 1))),
    ("newer than all, by PTX of the same CUDA as the driver's", Machine(gpu(10, 0), versions=(13010, 13010))),
    ("PTX is of the one that is listed last", Machine(gpu(10, 0), "90 80")),
    ("a later one of the family", Machine(gpu(10, 3), "100f")),
    ("exactly the one with all its features", Machine(gpu(9, 0), "90a")),
    ("a driver of the same major is enough for machine code", Machine(versions=(13020, 13000))),
    ("a driver of a later major", Machine(versions=(12080, 13000))),
]


@pytest.mark.parametrize("machine", [m for _, m in SERVED], ids=[name for name, _ in SERVED])
def test_gpus_that_the_kernels_run_on(machine: Machine, install: Install) -> None:
    install(machine)
    assert cuda_problem(torch.device("cuda", 0)) is None


UNSERVED = [
    (
        "older",
        Machine((("Tesla V100", (7, 0)),)),
        "splat was built for sm_80, sm_90, but cuda:0 (Tesla V100) is sm_70; "
        "rebuild it with SPLAT_CUDA_ARCHS=70 and the nvcc of CUDA 12",
    ),
    (
        "older, known to every nvcc",
        Machine(gpu(7, 5)),
        "splat was built for sm_80, sm_90, but cuda:0 (X) is sm_75; "
        "rebuild it with SPLAT_CUDA_ARCHS=75 where nvcc is installed",
    ),
    (
        "the same major, lower minor",
        Machine(gpu(8, 0), "86 90"),
        "splat was built for sm_86, sm_90, but cuda:0 (X) is sm_80; "
        "rebuild it with SPLAT_CUDA_ARCHS=80 where nvcc is installed",
    ),
    (
        "between majors that are built",
        Machine(gpu(11, 0), "100 120"),
        "splat was built for sm_100, sm_120, but cuda:0 (X) is sm_110; "
        "rebuild it with SPLAT_CUDA_ARCHS=110 where nvcc is installed",
    ),
    (
        "newer than code without PTX for others",
        Machine(gpu(10, 0), "90a"),
        "splat was built for sm_90a, but cuda:0 (X) is sm_100; "
        "rebuild it with SPLAT_CUDA_ARCHS=100 where nvcc is installed",
    ),
    (
        "a later one than code for one alone",
        Machine(gpu(10, 3), "100a"),
        "splat was built for sm_100a, but cuda:0 (X) is sm_103; "
        "rebuild it with SPLAT_CUDA_ARCHS=103 where nvcc is installed",
    ),
    (
        "newer than all, PTX too new for the driver",
        Machine(gpu(10, 0), versions=(13020, 13000)),
        "cuda:0 (X) is sm_100, newer than splat's kernels (sm_90, CUDA 13.2), and the driver, for CUDA 13.0, is too "
        "old to translate them; update it, or rebuild splat with SPLAT_CUDA_ARCHS=100",
    ),
    (
        "old driver",
        Machine(versions=(13000, 12040)),
        "the NVIDIA driver is for CUDA 12.4, but splat was built with CUDA 13.0; "
        "update the driver to one for CUDA 13, or rebuild splat with the nvcc of CUDA 12",
    ),
    (
        "driver too old for any build",
        Machine(versions=(12080, 11080)),
        "the NVIDIA driver is for CUDA 11.8, but splat was built with CUDA 12.8; update the driver to one for CUDA 12",
    ),
    ("no driver", Machine(versions=(13000, 0)), "no NVIDIA driver answers; install one, or look at nvidia-smi"),
    ("no GPU", Machine(()), f"torch {torch.__version__} sees no GPU; look at nvidia-smi and CUDA_VISIBLE_DEVICES"),
    (
        "torch for the CPU",
        Machine(torch_cuda=None),
        f"torch {torch.__version__} is not a CUDA build; install one that is (pytorch.org)",
    ),
    (
        "built without kernels",
        Machine(archs=""),
        "this build has no CUDA kernels; rebuild splat where nvcc is installed",
    ),
]


@pytest.mark.parametrize(("machine", "message"), [u[1:] for u in UNSERVED], ids=[u[0] for u in UNSERVED])
def test_gpus_that_the_kernels_do_not_run_on(machine: Machine, message: str, install: Install) -> None:
    install(machine)
    assert cuda_problem(torch.device("cuda", 0)) == message
    tensor: Any = SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.float32)
    with pytest.raises(RuntimeError) as caught:
        choose_backend(tensor)
    assert str(caught.value) == f"{message}; or use .cpu() tensors or backend='reference'"
    assert choose_backend(tensor, "reference") == "reference"


def test_each_gpu_is_looked_at_once(install: Install) -> None:
    install(Machine((("H100", (9, 0)), ("V100", (7, 0)))))
    tensors: Any = [SimpleNamespace(device=torch.device("cuda", i), dtype=torch.float32) for i in range(2)]
    for _ in range(2):
        assert choose_backend(tensors[0]) == "cuda"
        with pytest.raises(RuntimeError, match=r"cuda:1 \(V100\) is sm_70"):
            choose_backend(tensors[1])
    assert cuda_problem.cache_info().misses == 2


def test_a_device_without_a_backend_is_named() -> None:
    with pytest.raises(ValueError, match="no backend takes tensors on meta; use tensors on cpu or cuda"):
        choose_backend(torch.zeros(1, device="meta"))


def test_the_library_knows_the_cuda_that_it_was_built_with() -> None:
    built, driver = devices.cuda_versions()
    assert built >= 12000 if ops.cuda_archs() else (built, driver) == (0, 0)
    assert driver == 0 or driver >= 10000


INFO = [
    (
        Machine((("Tesla V100", (7, 0)), ("NVIDIA H100", (9, 0)))),
        "cuda       yes (not yet tested on a GPU)\n"
        "           kernels for sm_80, sm_90 and newer, of CUDA 13.0; driver for CUDA 13.1\n"
        "           cuda:0: Tesla V100, sm_70 (no: splat was built for sm_80, sm_90, but cuda:0 (Tesla V100) is sm_70; "
        "rebuild it with SPLAT_CUDA_ARCHS=70 and the nvcc of CUDA 12)\n"
        "           cuda:1: NVIDIA H100, sm_90\n",
    ),
    (
        Machine((("A", (9, 0)), ("B", (8, 6))), versions=(13000, 12040)),
        "cuda       no: the NVIDIA driver is for CUDA 12.4, but splat was built with CUDA 13.0; "
        "update the driver to one for CUDA 13, or rebuild splat with the nvcc of CUDA 12\n"
        "           kernels for sm_80, sm_90 and newer, of CUDA 13.0; driver for CUDA 12.4\n"
        "           cuda:0: A, sm_90\n"
        "           cuda:1: B, sm_86\n",
    ),
    (
        Machine((), torch_cuda=None, versions=(13000, 0)),
        f"cuda       no: torch {torch.__version__} is not a CUDA build; install one that is (pytorch.org)\n"
        "           kernels for sm_80, sm_90 and newer, of CUDA 13.0; no NVIDIA driver\n",
    ),
    (
        Machine((), archs="", versions=(0, 0)),
        "cuda       no: this build has no CUDA kernels; rebuild splat where nvcc is installed\n",
    ),
]


@pytest.mark.parametrize(("machine", "lines"), INFO, ids=["two GPUs", "old driver", "torch for the CPU", "no kernels"])
def test_info_says_what_the_kernels_run_on(
    machine: Machine, lines: str, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(machine)
    with pytest.raises(SystemExit) as end:
        main(["info"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text[text.index("cuda ") :] == lines


# Tensors on another device: "meta" stands for it

LISTS = ("offsets", "entries", "masks", "splat_offsets", "slots")
SPLATS = ("means2d", "depths", "conics", "opacities", "radii")
Tensors = dict[str, Tensor]


def of_scene(*names: str) -> Tensors:
    scene = scene3d(6)
    return {name: getattr(scene, name) for name in names}


def of_drawing() -> Tensors:
    splats, colors = splats2d(6, 20, 16)
    tiles = bin_splats(splats, width=20, height=16)
    lists = {f"tiles.{name}": getattr(tiles, name) for name in LISTS}
    return {name: getattr(splats, name) for name in SPLATS} | {"colors": colors} | lists


def of_image() -> Tensors:
    shapes = {"means": torch.rand(6, 2) * 12, "log_scales": torch.zeros(6, 2), "angles": torch.zeros(6)}
    return shapes | {"colors": torch.rand(6, 3)}


def draw(call: Callable[..., Any], **t: Any) -> Any:
    splats = Splats2D(**{name: t.pop(name, DRAWING[name]) for name in SPLATS})
    tiles = TileLists(**{name: t.pop(f"tiles.{name}") for name in LISTS}, totals=torch.zeros(2), width=20, height=16)
    return call(splats, t.pop("colors"), tiles, **t)


def draw_scene(background: Tensor, ids: Tensor, **t: Tensor) -> Any:
    cameras = Cameras.orbit(2, radius=4, width=20, height=16)
    return render(Gaussians(**t), cameras, background=background, ids=ids)


def draw_picture(log_scales: Tensor, angles: Tensor, means: Tensor, colors: Tensor, **t: Tensor) -> Any:
    return rasterize_image(means, (log_scales, angles), colors, (12, 12), **t)


SCENE = of_scene("means", "quats", "scales", "opacities", "viewmats", "Ks")
COLORED = of_scene("means", "viewmats", "sh0", "shN") | {"radii": torch.ones(2, 6, 2, dtype=torch.int32)}
GAUSSIANS = Gaussians.random(6, sh_degree=1).parameters() | {"background": torch.zeros(3), "ids": torch.arange(6)}
DRAWING, PICTURE = of_drawing(), of_image()
PAIR = {"image": torch.rand(12, 12, 3), "target": torch.rand(12, 12, 3)}
ADAM = {name: torch.zeros(6, 2) for name in ("param", "grad", "exp_avg", "exp_avg_sq")}
SIZE = {"width": 20, "height": 16}
CALLS: dict[str, tuple[Callable[..., Any], Tensors]] = {
    "project": (partial(project, **SIZE), SCENE),
    "sh_colors": (partial(sh_colors, degree=2), COLORED),
    "bin_splats": (
        lambda ids, **t: bin_splats(Splats2D(**t), **SIZE, ids=ids),
        {name: DRAWING[name] for name in SPLATS} | {"ids": torch.arange(6)},
    ),
    "rasterize": (partial(draw, rasterize), DRAWING | {"backgrounds": torch.zeros(1, 3)}),
    "rasterize_l2": (
        partial(draw, rasterize_l2),
        {k: v for k, v in DRAWING.items() if k not in ("depths", "radii")}  # which it does not look at
        | {name: to_tiles(torch.zeros(16, 20, 3)) for name in ("target_tiles", "weight_tiles")},
    ),
    "render": (draw_scene, GAUSSIANS),
    "rasterization": (
        partial(rasterization, **SIZE),
        SCENE | {"colors": torch.rand(6, 3), "backgrounds": torch.ones(2, 3)},
    ),
    "project_image": (
        partial(project_image, **SIZE),
        {name: PICTURE[name] for name in ("means", "log_scales", "angles")} | {"opacities": torch.ones(6)},
    ),
    "rasterize_image": (
        draw_picture,
        PICTURE | {"opacities": torch.ones(6), "depths": torch.ones(6), "background": torch.zeros(3)},
    ),
    "ImageGaussians.query": (
        lambda points, **t: ImageGaussians(**t, **SIZE).query(points),
        PICTURE | {"points": torch.zeros(4, 2)},
    ),
    "Cameras": (partial(Cameras, **SIZE), of_scene("viewmats", "Ks")),
    "photometric_loss": (photometric_loss, PAIR),
    "psnr": (psnr, PAIR),
    "ssim": (ssim, PAIR),
    "adam_step": (partial(adam_step, learning_rate=0.1), ADAM | {"steps": torch.ones(6, dtype=torch.int32)}),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_tensor_on_another_device_is_named(name: str) -> None:
    call, tensors = CALLS[name]
    call(**tensors)
    for moved in list(tensors)[1:]:
        with pytest.raises(ValueError, match=rf"{moved} must be on the device of [\w.]+, cpu, got meta") as caught:
            call(**tensors | {moved: tensors[moved].to("meta")})
        assert "\n" not in str(caught.value)


def test_parts_on_several_devices_are_not_joined() -> None:
    gaussians, cameras = Gaussians.random(2), Cameras.orbit(1, radius=4, **SIZE)
    far = SimpleNamespace(**vars(cameras) | {"viewmats": cameras.viewmats.to("meta")})
    with pytest.raises(ValueError, match=r"parts\[1\] must be on the device of parts\[0\], cpu, got meta"):
        Gaussians.concat([gaussians, gaussians.to("meta")])
    with pytest.raises(ValueError, match=r"parts\[1\] must be on the device of parts\[0\], cpu, got meta"):
        Cameras.concat([cameras, far])  # type: ignore[list-item]


# Errors from below


def test_an_op_that_fails_names_itself_and_says_what_torch_said() -> None:
    count = 1 << 50  # a copy of such a tensor is larger than the address space
    vectors, quats = torch.zeros(1, 3).expand(count, 3), torch.zeros(1, 4).expand(count, 4)
    shapes = (vectors, quats, vectors, None, torch.zeros(1).expand(count))
    said = "you tried to allocate" if torch.__version__ >= "2.13" else "torch said why on stderr"
    with pytest.raises(RuntimeError, match=rf"^splat::project: .*{said}"):
        torch.ops.splat.project(
            *shapes, torch.eye(4)[None], torch.eye(3)[None], 8, 8, 0.3, 0.01, 1e10, 0.0, 0, False, False
        )
    with pytest.raises(RuntimeError, match=r"^splat::adam: .*steps must have shape \[rows of param\], got \[2\]"):
        torch.ops.splat.adam(*ADAM.values(), torch.ones(2, dtype=torch.int32), 0.1, 0.9, 0.99, 1e-15)


def test_torchs_stream_is_found_in_a_library_that_only_torch_loaded(tmp_path: Path) -> None:
    """torch loads its CUDA library for itself alone (RTLD_LOCAL): a weak symbol of ours would not see it."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("needs a C++ compiler to make a stand-in for torch's CUDA library")
    source = tmp_path / "cuda.cpp"
    source.write_text('extern "C" int aoti_torch_get_current_cuda_stream(int, void** s) { *s = nullptr; return 0; }')
    library = tmp_path / "libtorch_cuda.so"
    command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libtorch_cuda.so", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    look = "import torch, splat.core.ops; print(torch.ops.splat.knows_cuda_stream())"
    load = f"import ctypes; ctypes.CDLL({str(library)!r}); "
    answers = [
        subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout.strip()
        for text in (look, load + look)
    ]
    assert answers == ["True" if torch.version.cuda else "False", "True"]
