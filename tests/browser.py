"""Headless Chromium for tests of pages; they skip where it is not installed."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

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


class Page:
    """A page in a browser that keeps running, with software WebGL; talks to its DevTools. Use as a context manager."""

    def __init__(self, address: str, profile: Path, width: int, height: int) -> None:
        gl = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--remote-debugging-port=0")
        command = chromium(profile, *gl, f"--window-size={width},{height}", address)
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._port_file = profile / "DevToolsActivePort"
        self._socket: Any = None

    def __enter__(self) -> Self:
        from websockets.sync.client import connect  # comes with viser

        try:
            address = self._address(time.monotonic() + 40)
            self._socket = connect(address, max_size=None)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _address(self, end: float) -> str:
        while time.monotonic() < end:
            assert self._process.poll() is None, "chromium has ended"
            with suppress(OSError, ValueError, IndexError, StopIteration):
                port = int(self._port_file.read_text().split()[0])
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=5) as answer:
                    pages = json.load(answer)
                return str(next(p["webSocketDebuggerUrl"] for p in pages if p["type"] == "page"))
            time.sleep(0.05)
        raise AssertionError("chromium did not start")

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()
        self._process.terminate()
        self._process.wait(timeout=20)

    def screenshot(self) -> npt.NDArray[np.int64]:
        """[H, W, 3] of what is in the window, 0..255."""
        self._socket.send(json.dumps({"id": 1, "method": "Page.captureScreenshot"}))
        answer: dict[str, Any] = {}
        while answer.get("id") != 1:
            answer = json.loads(self._socket.recv(timeout=60))
        with Image.open(io.BytesIO(base64.b64decode(answer["result"]["data"]))) as image:
            return np.asarray(image.convert("RGB")).astype(np.int64)
