"""Builds splat/_C.abi3.so ahead of time with g++ (and nvcc, where there is one and cuda_ext/cuda has kernels).

torch's CUDAExtension refuses a CPU build of torch, so the compilers are called here directly. The library is loaded by
torch.ops.load_library and uses only torch's stable ABI: no Python version and no torch version is baked in.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
SOURCE = Path("cuda_ext")
NVCC = os.environ.get("NVCC", "nvcc")
# Compiled once; every other file of cuda_ext/cpu is a kernel, compiled once per instruction set.
SHARED = {"parallel.cpp", "dispatch.cpp", "depth_order.cpp"}
X86_ISAS = {"base": [], "v3": ["-march=x86-64-v3"], "v4": ["-march=x86-64-v4"]}
FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
# -ffast-math is never used: at link time it turns on flush-to-zero for the whole Python process.
KERNEL_FLAGS = ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
# scripts/cuda_report.py reads these two literals.
NVCC_FLAGS = ["-std=c++20", "-O3", "-Icuda_ext/include"]
# binning.cu computes the same tiles in several places, which must agree to the bit: the compiler fuses no operations.
NVCC_EXTRA = {"binning.cu": ["-fmad=false"]}


def torch_flags() -> tuple[list[str], list[str]]:
    import torch
    from torch.utils.cpp_extension import include_paths, library_paths

    includes = [f"-isystem{p}" for p in include_paths()]
    defines = [
        "-DTORCH_TARGET_VERSION=0x020b000000000000",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
    ]
    link = [f"-L{p}" for p in library_paths()] + ["-ltorch_cpu", "-lc10", "-ltorch"]
    link += ["-ldl"] if platform.system() == "Linux" else []
    return includes + defines, link


def cuda_archs() -> list[str]:
    """GPU architectures to build for, highest last: those of SPLAT_CUDA_ARCHS, or the usual ones that this nvcc knows;
    none without nvcc or with SPLAT_CUDA_ARCHS=none."""
    asked = os.environ.get("SPLAT_CUDA_ARCHS")
    if shutil.which(NVCC) is None or asked == "none":
        return []
    if asked:
        return asked.replace(";", " ").replace(",", " ").split()
    listed = subprocess.run([NVCC, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout.split()
    return [a for a in ("80", "86", "89", "90", "100", "120") if f"compute_{a}" in listed]


def nvcc_command(archs: list[str]) -> list[str]:
    code = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs]
    code.append(f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}")  # PTX, for what comes later
    host = ["-Xcompiler", "-fPIC,-fvisibility=hidden"]
    return [NVCC, *NVCC_FLAGS, "--threads", "2", *code, *host]


def objects(build: Path) -> list[tuple[Path, list[str]]]:
    """Each object file with the command that makes it (compiler first, without -c and -o)."""
    cxx = os.environ.get("CXX", "g++")
    include = [f"-I{SOURCE / 'include'}", f"-I{SOURCE / 'cpu'}"]
    isas = X86_ISAS if platform.machine() in ("x86_64", "AMD64") else {"base": []}
    plan: list[tuple[Path, list[str]]] = []
    for source in sorted((SOURCE / "cpu").glob("*.cpp")):
        if source.name in SHARED:
            has = [f"-DSPLAT_HAS_{name.upper()}" for name in isas]
            plan.append((build / f"{source.stem}.o", [cxx, *FLAGS, *include, *has, str(source)]))
            continue
        for name, march in isas.items():
            flags = [*FLAGS, *KERNEL_FLAGS, *march, f"-DSPLAT_ISA={name}"]
            plan.append((build / f"{source.stem}.{name}.o", [cxx, *flags, *include, str(source)]))
    compile_torch, _ = torch_flags()
    archs = cuda_archs()
    tag = "_".join(archs) or "cpu"
    for source in sorted((SOURCE / "torch").glob("*.cpp")):
        flags = [*FLAGS, *include, *compile_torch, f'-DSPLAT_CUDA_ARCHS="{" ".join(archs)}"']
        flags += [] if archs else ["-DSPLAT_WITHOUT_CUDA"]
        plan.append((build / f"torch_{source.stem}.{tag}.o", [cxx, *flags, str(source)]))
    if archs:
        for source in sorted((SOURCE / "cuda").glob("*.cu")):
            command = [*nvcc_command(archs), *NVCC_EXTRA.get(source.name, []), str(source)]
            plan.append((build / f"cuda_{source.stem}.{tag}.o", command))
    return plan


def depends_changed(target: Path, headers: float, source: str) -> bool:
    return not target.exists() or target.stat().st_mtime < max(headers, (ROOT / source).stat().st_mtime)


def build_library(output: Path, build: Path) -> None:
    build.mkdir(parents=True, exist_ok=True)
    sources = [*(ROOT / SOURCE).rglob("*.h"), *(ROOT / SOURCE).rglob("*.cuh"), ROOT / "setup.py"]
    headers = max(p.stat().st_mtime for p in sources)
    plan = objects(build)

    def run(command: list[str]) -> None:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.stderr:
            print(done.stderr, file=sys.stderr)
        if done.returncode:
            raise RuntimeError(f"failed: {' '.join(command)}")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        stale = [(o, c) for o, c in plan if depends_changed(o, headers, c[-1])]
        list(pool.map(lambda oc: run([*oc[1], "-c", "-o", str(oc[0])]), stale))
    _, link = torch_flags()
    partial = output.with_name(output.name + ".partial")
    output.parent.mkdir(parents=True, exist_ok=True)
    linker = [os.environ.get("CXX", "g++"), "-shared", "-pthread"]
    if cuda_archs():  # nvcc knows where its static runtime is; with it the library needs no CUDA where it is loaded
        linker = [NVCC, "-shared", "--cudart", "static", "-Xcompiler", "-pthread"]
    run([*linker, "-o", str(partial), *[str(o) for o, _ in plan], *link])
    partial.replace(output)


class BuildLibrary(build_ext):
    """Puts splat/_C.abi3.so beside the package; without a compiler the package still installs (reference backend)."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".abi3.so"

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        if shutil.which(os.environ.get("CXX", "g++")) is None:
            print("splat: no C++ compiler found; installing without the fast CPU backend", file=sys.stderr)
            return
        build_library(output, ROOT / self.build_temp / "splat")


setup(
    # optional: a missing result is not an error (no compiler); a compiler's own error still is.
    ext_modules=[Extension("splat._C", sources=[], optional=True)],
    cmdclass={"build_ext": BuildLibrary},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
