"""A server that shows a scene in the browser, also while it is trained."""

from __future__ import annotations

import io
import math
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from splat.cameras import Cameras
from splat.core.reference.project import rotation
from splat.figures import rgb
from splat.gaussians import Gaussians
from splat.optional import need
from splat.rendering import render
from splat.scene.stage import stage
from splat.viewer.content import UNITS, browser_splats, frustum_pose

MAX_FRUSTA = 200
"""Of a capture with more cameras an even choice is drawn."""
MOVING_SECONDS = 0.08
"""What a picture may take while the camera moves."""
_TICK = 0.03


@dataclass(frozen=True)
class ViewerOptions:
    """What the browser is sent."""

    max_gaussians: int = 1_000_000
    """The browser draws at most so many; pictures rendered by splat show all."""
    update_seconds: float = 2.0
    """Least time between two updates of the Gaussians."""
    rendered: bool = False
    """Whether pictures are rendered by splat at first (there is a switch for it)."""
    max_height: int = 1080
    """Pixels of pictures rendered by splat."""
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Colour in 0..1."""
    up: tuple[float, float, float] | None = None
    """Default: what is up in the cameras' pictures; without cameras -y."""


class ViewerServer:
    """Serves a page that shows Gaussians: drawn by the browser (without the view-dependent part of their colours), or,
    where its switch is on, as pictures that splat renders here. Use as a context manager, or call `stop`.

    Args:
        gaussians: or the path of a file that `splat.io` reads; in one world with `cameras`.
        cameras: drawn as frusta, one Cameras for each picture or for several of one size.
        host: the address that is listened at; only 127.0.0.1 keeps others out.
        port: 0 takes a free one.

    Raises:
        ValueError: viser is not installed (extra [viewer]), the port is taken, or the host unknown.
    """

    def __init__(
        self,
        gaussians: Gaussians | str | Path,
        *,
        cameras: Cameras | Sequence[Cameras] = (),
        host: str = "127.0.0.1",
        port: int = 8080,
        options: ViewerOptions = ViewerOptions(),
    ) -> None:
        viser = need("viser", "viewer", "the viewer")
        if not isinstance(gaussians, Gaussians):
            from splat.scene.files import load_scene_file

            gaussians = load_scene_file(gaussians)
        _check_free(host, port)
        self._options = options
        self._background = torch.tensor(options.background, dtype=torch.float32)
        self._cameras = [c[i] for c in ([cameras] if isinstance(cameras, Cameras) else cameras) for i in range(len(c))]
        up = None if options.up is None else torch.nn.functional.normalize(torch.tensor(options.up), dim=0)
        self._stage = stage(gaussians, self._cameras, up)
        self._up = self._stage.up
        self._unit = self._stage.radius / UNITS
        self._lock = threading.Lock()  # guards the next four
        self._gaussians = gaussians.detach()
        self._version = 1
        self._status = ""
        self._updated = -math.inf
        self._painted: dict[int, tuple[float, int, bool]] = {}  # of a visitor: pose's time, version, in full
        self._seconds_per_pixel = 1e-7
        self._ended = threading.Event()

        with _silent():
            self._server: Any = viser.ViserServer(host=host, port=port, label="splat", verbose=False)
        self.host, self.port = host, int(self._server.get_port())
        try:
            if port not in (0, self.port):
                raise ValueError(_taken(host, port))
            self._furnish()
            self._show_splats(self._gaussians)
        except BaseException:
            self._server.stop()
            raise
        self._shown = self._version
        self._worker = threading.Thread(target=self._work, name="viewer", daemon=True)
        self._worker.start()

    @property
    def url(self) -> str:
        """Where the page is."""
        host = "localhost" if self.host in ("0.0.0.0", "::", "127.0.0.1") else self.host
        return f"http://{host}:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the server."""
        if not self._ended.is_set():
            self._ended.set()
            self._worker.join()
            with _silent():
                self._server.stop()

    def update(self, gaussians: Gaussians, status: str = "", *, now: bool = False) -> bool:
        """Shows other Gaussians, from any thread; they are copied, so that training may go on. Does nothing and returns
        False when the last update is less than `update_seconds` ago, unless `now`.

        Args:
            status: a line that is shown with them.
        """
        with self._lock:
            if not now and time.monotonic() - self._updated < self._options.update_seconds:
                return False
            self._updated = time.monotonic()
            self._gaussians = gaussians.detach().map(torch.clone)
            self._status = status
            self._version += 1
            return True

    # The page

    def _furnish(self) -> None:
        """Everything but the Gaussians."""
        server, at = self._server, self._stage
        server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        server.gui.main_panel.dock_right()
        server.scene.set_up_direction(_triple(self._up))
        camera = server.initial_camera
        camera.position, camera.look_at = _triple(at.position / self._unit), _triple(at.target / self._unit)
        camera.fov, camera.near, camera.far = at.fov, 0.005 * UNITS, 1000 * UNITS
        self._text = server.gui.add_markdown("")
        self._rendered = server.gui.add_checkbox(
            "Rendered by splat", self._options.rendered, hint="Pictures from the server, with view-dependent colours"
        )
        self._rendered.on_update(lambda _: self._switch())
        flip = server.gui.add_button("Upside down", hint="Turn the scene over")
        flip.on_click(lambda _: self._flip())
        self._frusta: list[Any] = []
        if self._cameras:
            show = server.gui.add_checkbox("Cameras", True, hint="Click one to look through it")
            size = server.gui.add_slider("Camera size", min=0.01, max=0.3, step=0.01, initial_value=0.06)
            show.on_update(lambda _: self._each_frustum("visible", show.value))
            size.on_update(lambda _: self._each_frustum("scale", size.value * UNITS))
            step = max(1.0, len(self._cameras) / MAX_FRUSTA)
            for i in range(min(len(self._cameras), MAX_FRUSTA)):
                self._add_frustum(int(i * step), 0.06 * UNITS)
        self._switch()

    def _flip(self) -> None:
        self._up = -self._up
        self._server.scene.set_up_direction(_triple(self._up))
        for visitor in self._server.get_clients().values():
            visitor.camera.up_direction = self._up.numpy()

    def _each_frustum(self, name: str, value: Any) -> None:
        for frustum in self._frusta:
            setattr(frustum, name, value)

    def _add_frustum(self, row: int, scale: float) -> None:
        camera = self._cameras[row]
        fov = 2 * math.atan(camera.height / 2 / float(camera.Ks[0, 1, 1]))
        wxyz, position = frustum_pose(camera)
        frustum = self._server.scene.add_camera_frustum(
            f"/cameras/{row}",
            fov=fov,
            aspect=camera.width / camera.height,
            scale=scale,
            thickness=0.001 * UNITS,
            color=(90, 150, 230),
            wxyz=wxyz,
            position=position / self._unit,
        )

        @frustum.on_click  # type: ignore[untyped-decorator]
        def _(event: Any) -> None:
            visitor = event.client.camera
            with event.client.atomic():
                visitor.up_direction = -camera.viewmats[0, 1, :3].cpu().numpy()
                visitor.position, visitor.fov = position / self._unit, fov
                distance = float(self._stage.radius) / self._unit
                visitor.look_at = position / self._unit + distance * camera.viewmats[0, 2, :3].cpu().numpy()

        self._frusta.append(frustum)

    def _switch(self) -> None:
        """Between what the browser draws and pictures rendered here."""
        self._painted.clear()
        if hasattr(self, "_splats"):
            self._splats.visible = not self._rendered.value
        if not self._rendered.value:
            plain = np.broadcast_to((np.array(self._options.background) * 255).astype(np.uint8), (2, 2, 3))
            self._server.scene.set_background_image(plain, format="png")
            for visitor in self._server.get_clients().values():
                visitor.scene.set_background_image(plain, format="png")

    def _show_splats(self, gaussians: Gaussians) -> None:
        splats = browser_splats(gaussians, self._unit, self._options.max_gaussians)
        self._splats = self._server.scene.add_gaussian_splats(
            "/gaussians",
            centers=splats.centers,
            covariances=splats.covariances,
            rgbs=splats.rgbs,
            opacities=splats.opacities,
            visible=not self._rendered.value,
        )
        drawn = len(splats.centers)
        part = "" if drawn < self._options.max_gaussians else f", {drawn:,} of them drawn by the browser"
        self._text.content = f"**{len(gaussians):,} Gaussians**{part}  \n{self._status}"

    # The worker

    def _work(self) -> None:
        while not self._ended.wait(_TICK):
            try:
                self._tick()
            except Exception as error:  # whatever it is, the page says it; training goes on
                self._rendered.value = False
                self._switch()
                self._text.content = f"**Error:** {type(error).__name__}: {error}"

    def _tick(self) -> None:
        with self._lock:
            gaussians, version = self._gaussians, self._version
        if version != self._shown:
            self._shown = version
            self._show_splats(gaussians)
        if not self._rendered.value:
            return
        for key, visitor in self._server.get_clients().items():
            stamp = float(visitor.camera.update_timestamp)
            if stamp == 0:
                continue  # has not said yet where it is
            last = self._painted.get(key)
            if last is None or last[:2] != (stamp, version):
                self._paint(visitor, gaussians, moving=True)
                self._painted[key] = (stamp, version, False)
            elif not last[2] and time.time() - stamp > 0.2:
                self._paint(visitor, gaussians, moving=False)
                self._painted[key] = (stamp, version, True)

    def _paint(self, visitor: Any, gaussians: Gaussians, *, moving: bool) -> None:
        """A picture from where a visitor stands; a small one while the camera moves."""
        at = visitor.camera
        aspect = at.image_width / max(1, at.image_height)
        height = min(int(at.image_height), self._options.max_height)
        if moving:
            height = min(height, int(math.sqrt(MOVING_SECONDS / self._seconds_per_pixel / aspect)))
        height = max(height, 32)
        camera = _camera(at, self._unit, max(1, round(height * aspect)), height).to(gaussians.means.device)
        start = time.perf_counter()
        with torch.no_grad():
            background = self._background.to(gaussians.means)
            picture = rgb(render(gaussians, camera, background=background).color[0].cpu())
        self._seconds_per_pixel = (time.perf_counter() - start) / (camera.width * camera.height)
        visitor.scene.set_background_image(picture, format="jpeg", jpeg_quality=70 if moving else 92)


def _camera(at: Any, unit: float, width: int, height: int) -> Cameras:
    """viser's camera (to world, OpenCV axes, vertical field of view)."""
    turn = rotation(torch.as_tensor(at.wxyz, dtype=torch.float64)[None])[0].T
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = turn
    viewmat[:3, 3] = -(turn @ (torch.as_tensor(at.position, dtype=torch.float64) * unit))
    focal = height / 2 / math.tan(at.fov / 2)
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Cameras(viewmat.float()[None], K[None], width, height)


@contextmanager
def _silent() -> Iterator[None]:
    """Without what viser prints, whatever it is told: standard output is for the command's own lines."""
    with redirect_stdout(io.StringIO()):
        yield


def _triple(value: Tensor) -> tuple[float, float, float]:
    x, y, z = value.tolist()
    return x, y, z


def _taken(host: str, port: int) -> str:
    return f"port {port} of {host} is taken by another program; give another port (0 takes a free one)"


def _check_free(host: str, port: int) -> None:
    """viser would take another port in silence."""
    if not 0 <= port < 1 << 16:
        raise ValueError(f"port must be in 0 .. 65535, got {port}")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ValueError(f"host {host!r} is not known ({error.strerror})") from error
    with socket.socket(family, kind) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(address)
        except OSError as error:
            if error.errno in (13, 99):
                raise ValueError(f"cannot listen at {host}, port {port} ({error.strerror})") from error
            raise ValueError(_taken(host, port)) from error
