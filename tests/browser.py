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
    """A page in a browser that keeps running; talks to its DevTools. Use as a context manager. There need be no GPU:
    the flags let SwiftShader, which draws WebGL on the processor, stand in for one."""

    def __init__(self, address: str, profile: Path, width: int, height: int) -> None:
        gl = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--remote-debugging-port=0")
        command = chromium(profile, *gl, f"--window-size={width},{height}", address)
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._port_file = profile / "DevToolsActivePort"
        self._socket: Any = None
        self._calls = 0
        self.problems: list[str] = []
        """Errors and warnings that the page has told the console since `open`."""
        self.requests: list[str] = []
        """Addresses that it has asked for since."""

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

    def call(self, method: str, **parameters: Any) -> Any:
        """The result of a DevTools method; meanwhile problems and requests are noted."""
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while (answer := self._hear()).get("id") != self._calls:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _hear(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._socket.recv(timeout=60))
        told = answer.get("params", {})
        match answer.get("method"):
            case "Runtime.exceptionThrown":
                details = told["exceptionDetails"]
                self.problems.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.problems.append(" ".join(str(part.get("value")) for part in told["args"]))
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self.problems.append(told["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])
        return answer

    def open(self, address: str) -> None:
        """Goes to an address and waits until it has loaded; from here on problems and requests are noted."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.problems.clear()
        self.requests.clear()
        self.call("Page.navigate", url=address)
        while self._hear().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, expression: str) -> Any:
        """The JSON value of an expression in the page; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self) -> npt.NDArray[np.int64]:
        """[H, W, 3] of what is in the window, 0..255."""
        data = self.call("Page.captureScreenshot")["data"]
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            return np.asarray(image.convert("RGB")).astype(np.int64)
