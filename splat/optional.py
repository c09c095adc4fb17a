"""Packages that only some people want: found when needed, and named with their extra where they are missing."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any


class NotInstalled(ValueError):
    """A package of an extra is missing; the message has the command that helps."""


def installed(module: str) -> bool:
    """Whether a package is there; does not import it."""
    return find_spec(module) is not None


def need(module: str, extra: str, what: str) -> Any:
    """Imports a package; `what` needs it and the extra brings it.

    Raises:
        NotInstalled: as it says.
    """
    if not installed(module):
        name = module.replace("_", "-")
        raise NotInstalled(f"{what} needs {name}, which is not installed: pip install 'torchsplat[{extra}]'")
    return import_module(module)
