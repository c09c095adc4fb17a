"""Which GPUs the CUDA kernels can run on, and why not on the others."""

from __future__ import annotations

from functools import cache

import torch


def cuda_versions() -> tuple[int, int]:
    """CUDA's version, 1000 * major + 10 * minor: the one that the kernels were built with, and the newest that the
    driver knows. 0: there is none."""
    from splat.core import ops  # which imports this module

    built, driver = torch.ops.splat.cuda_versions() if ops.available else (0, 0)
    return built, driver


def knows_cuda_stream() -> bool:
    """Whether torch's CUDA library is loaded and tells its current stream, in which the kernels run."""
    from splat.core import ops

    return ops.available and bool(torch.ops.splat.knows_cuda_stream())


def version_text(version: int) -> str:
    """13020 -> 13.2"""
    return f"{version // 1000}.{version % 1000 // 10}"


@cache
def cuda_problem(device: torch.device) -> str | None:
    """Why the CUDA kernels cannot run on this GPU and what to do about it, in one line; None where they can."""
    from splat.core import ops

    archs = ops.cuda_archs()
    if not archs:
        return "this build has no CUDA kernels; rebuild splat where nvcc is installed"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build; install one that is (pytorch.org)"
    built, driver = cuda_versions()
    if driver // 1000 < built // 1000:
        return _old_driver(built, driver)
    if not knows_cuda_stream():
        return f"torch {torch.__version__} does not tell its CUDA stream; is it a complete CUDA build?"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no GPU; look at nvidia-smi and CUDA_VISIBLE_DEVICES"
    capability, name = torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device)
    return _unserved(archs, capability, f"{device} ({name})", built, driver)


def _old_driver(built: int, driver: int) -> str:
    """A driver runs what was built with a CUDA of its own major version or an older one."""
    if not driver:
        return "no NVIDIA driver answers; install one, or look at nvidia-smi"
    # Before CUDA 12 nvcc knew no C++20.
    rebuild = f", or rebuild splat with the nvcc of CUDA {driver // 1000}" if driver >= 12000 else ""
    return (
        f"the NVIDIA driver is for CUDA {version_text(driver)}, but splat was built with CUDA {version_text(built)}; "
        f"update the driver to one for CUDA {built // 1000}{rebuild}"
    )


def _parse(arch: str) -> tuple[tuple[int, int], str]:
    """ "120f" -> (12, 0), "f" """
    number = arch.rstrip("af")
    return divmod(int(number), 10), arch.removeprefix(number)


def _has_code(arch: str, gpu: tuple[int, int]) -> bool:
    """Whether the machine code of an architecture runs on a GPU: that of sm_XY on X.Y and on later ones of the same X,
    that of sm_XYa on X.Y alone."""
    made, kind = _parse(arch)
    return gpu == made or (kind != "a" and gpu[0] == made[0] and gpu > made)


def _unserved(archs: list[str], gpu: tuple[int, int], name: str, built: int, driver: int) -> str | None:
    """The architecture of a GPU against those in the library."""
    if any(_has_code(arch, gpu) for arch in archs):
        return None
    # The PTX of the last one runs on everything newer, where the driver's compiler is no older than the PTX.
    (last, kind), this = _parse(archs[-1]), f"{gpu[0]}{gpu[1]}"
    if kind or gpu < last:
        where = "where nvcc is installed" if gpu >= (7, 5) else "and the nvcc of CUDA 12"  # the last that knows it
        known = ", ".join(f"sm_{arch}" for arch in archs)
        return f"splat was built for {known}, but {name} is sm_{this}; rebuild it with SPLAT_CUDA_ARCHS={this} {where}"
    if driver < built:
        return (
            f"{name} is sm_{this}, newer than splat's kernels (sm_{archs[-1]}, CUDA {version_text(built)}), and the "
            f"driver, for CUDA {version_text(driver)}, is too old to translate them; update it, or rebuild splat with "
            f"SPLAT_CUDA_ARCHS={this}"
        )
    return None
