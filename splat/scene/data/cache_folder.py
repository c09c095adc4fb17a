"""Results that took long to make, kept beside the data they were made from."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path


def key_of(files: Iterable[Path], settings: str) -> str:
    """Changes with the names, sizes and times of the files and with the settings."""
    digest = hashlib.sha256(settings.encode())
    for file in files:
        info = file.stat()
        digest.update(f"\0{file.name}\0{info.st_size}\0{info.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def cached_folder(data: Path, kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder that `make` filled for this key, now or earlier.

    It lies in `data`/.splat-`kind`/ where `data` is a folder that can be written, else beside it, else in the user's
    cache. `make` works in a folder that gets its name only when it returns, so that nothing half is ever found; what
    earlier keys left is removed then.
    """
    places = [data.parent / f"{data.name}.splat-{kind}", _user_cache() / kind / f"{data.name}-{_hash_of(data)}"]
    if data.is_dir():
        places.insert(0, data / f".splat-{kind}")
    for place in places:
        if (place / key).is_dir():
            return place / key
    place = _writable(places)
    work = place / f".work-{secrets.token_hex(4)}"
    work.mkdir()
    try:
        make(work)
        if (place / key).is_dir():  # another process was faster
            return place / key
        work.rename(place / key)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if not any(place.iterdir()):
            place.rmdir()
    for old in place.iterdir():
        if old.name != key and not old.name.startswith("."):
            shutil.rmtree(old, ignore_errors=True)
    return place / key


def _writable(places: list[Path]) -> Path:
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            probe = place / f".probe-{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()
        except OSError:
            continue
        return place
    raise ValueError(f"nowhere to keep results: none of {', '.join(map(str, places))} can be written")


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "splat"


def _hash_of(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:8]
