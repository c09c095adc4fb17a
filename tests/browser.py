"""Headless Chromium for tests of pages; they skip where it is not installed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium in the PATH")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def chromium(profile: Path, *more: str) -> list[str]:
    """The command, with a profile folder of its own; `more` are flags and the address."""
    assert CHROMIUM is not None
    return [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", *more]
