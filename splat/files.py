"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` (same suffix, so that writers that go by the suffix work) and renames it to
    `path` when the block ends well. When the block raises, `path` is left as it was and the temporary file is removed.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a .safetensors file, atomically. metadata["format"] and ["version"] say what it is.

    Raises:
        OSError: the disk is full, or does not take the file for another reason.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    dense = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_write(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it; safetensors' files are for their owner alone
        try:
            save_file(dense, temporary, metadata)
        except SafetensorError as error:
            raise OSError(f"{path}: cannot be written ({error})") from error
        temporary.chmod(mode)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a .safetensors file, without its tensors; ValueError where it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or not a safetensors file ({error})") from error


def load_tensors(
    path: str | Path, names: tuple[str, ...] | None, *, format: str, version: str | tuple[str, ...]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The named tensors (None: all) and the metadata of a file that `save_tensors` wrote, in this version or in one of
    these.

    Raises:
        ValueError: the file is missing, damaged, of another format or of another version.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            got = (metadata.get("format"), metadata.get("version"))
            versions = (version,) if isinstance(version, str) else version
            if got[0] != format or got[1] not in versions:
                wanted = " or ".join(versions)
                raise ValueError(f"{path}: wanted a {format} file of version {wanted}, got {got[0]}, {got[1]}")
            return {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}, metadata
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or not a safetensors file ({error})") from error
