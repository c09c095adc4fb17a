"""Loading of the compiled library and choice of the backend. The ops themselves are declared in
cuda_ext/torch/schema.cpp and wired into autograd by the stage that owns them (splat/core/project.py, ...)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import torch

from splat.core.checks import check_int
from splat.core.devices import cuda_problem

Backend = Literal["reference", "cpu", "cuda"]

_LIBRARY = Path(__file__).parent.parent / "_C.abi3.so"
_load_error: str | None = None


def _load() -> bool:
    global _load_error
    if not _LIBRARY.exists():
        _load_error = f"{_LIBRARY.name} was not built"
        return False
    try:
        torch.ops.load_library(str(_LIBRARY))  # type: ignore[no-untyped-call]
    except OSError as error:
        _load_error = str(error)
        return False
    return True


available = _load()
"""Whether the compiled library is loaded. Without it only the reference backend works."""


def load_error() -> str | None:
    """Why the compiled library is not loaded."""
    return _load_error


def cuda_archs() -> list[str]:
    """GPU architectures that the CUDA kernels were built for ("90": sm_90); none in a build without nvcc."""
    return str(torch.ops.splat.cuda_archs()).split() if available else []


_warned = False


def _warn_once() -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"splat runs on its slow reference backend: {_load_error}. For the fast one install a C++20 compiler and "
            "run: pip install --no-build-isolation --force-reinstall --no-deps torchsplat",
            RuntimeWarning,
            stacklevel=3,
        )


def choose_backend(tensor: torch.Tensor, backend: Backend | None = None, *, float64: bool = False) -> Backend:
    """The backend for a call: `backend`, else the variable SPLAT_BACKEND, else by the device and dtype of `tensor`
    (float64 goes to the reference, which is the only one that takes it everywhere). float64: the stage's kernels take
    it too, so it may be asked for."""
    asked = backend or os.environ.get("SPLAT_BACKEND") or None
    if asked is not None and asked not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {asked!r}")
    if asked == "reference":
        return "reference"
    if asked is None and tensor.device.type == "cpu" and tensor.dtype == torch.float64:
        return "reference"
    wanted = asked or tensor.device.type
    if wanted not in get_args(Backend):
        raise ValueError(f"no backend takes tensors on {tensor.device}; use tensors on cpu or cuda")
    if wanted != tensor.device.type:
        raise ValueError(f"backend {wanted!r} cannot take tensors on {tensor.device}; move them or pass backend=None")
    if tensor.dtype == torch.float64 and not float64:
        raise ValueError(f"backend {wanted!r} takes float32 here, got {tensor.dtype}; pass backend='reference'")
    if wanted == "cuda":
        # torch.compile cannot trace a look at the hardware; there the op itself reports what is missing.
        if not torch.compiler.is_compiling() and (problem := cuda_problem(tensor.device)):
            raise RuntimeError(f"{problem}; or use .cpu() tensors or backend='reference'")
        return "cuda"
    if not available:
        if asked is not None:
            raise RuntimeError(f"backend 'cpu' is not available: {_load_error}")
        _warn_once()
        return "reference"
    return cast(Backend, wanted)


_Function = TypeVar("_Function", bound=Callable[..., Any])


def register_fake(op: str) -> Callable[[_Function], _Function]:
    """Decorator: the shapes and dtypes that `op` returns, for torch.compile and fake tensors."""

    def register(function: _Function) -> _Function:
        if available:
            torch.library.register_fake(op, function)
        return function

    return register


def register_autograd(op: str, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
    """The gradient of `op` (torch.library.register_autograd), which `backward` takes from the op `<op>_backward`. That
    one has no gradient: asked for it, it says so (torch would only warn, and give zeros)."""

    def refuse(*_: Any) -> None:
        raise RuntimeError(f"{op} has no second derivatives; backend='reference' in float64 has them")

    if available:
        torch.library.register_autograd(op, backward, setup_context=setup_context)
        torch.library.register_autograd(f"{op}_backward", refuse)


MAX_THREADS = 1024


def set_num_threads(n: int) -> None:
    """Number of threads that the CPU kernels use, 1 to 1024 (default: the cores this process may run on). Results do
    not depend on it: same bits for any number."""
    check_int("n", n, 1, MAX_THREADS)
    if available:
        torch.ops.splat.set_num_threads(n)


def get_num_threads() -> int:
    """Number of threads that the CPU kernels use."""
    return int(torch.ops.splat.get_num_threads()) if available else torch.get_num_threads()


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """For a loop of our kernels with small torch operations between them: torch runs those on the calling thread.

    A thread of torch's OpenMP team keeps its core busy for some milliseconds after each operation, waiting for the next
    one, and our kernels wait for that core (measured on two cores: the loop of an image fit takes twice as long).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
