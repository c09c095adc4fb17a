"""The viewer: what the browser is given, what splat renders for it, and the page itself in headless Chromium."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import splat
from splat import optional
from splat.gaussians import Gaussians
from splat.scene.stage import stage
from splat.viewer import ViewerOptions, ViewerServer
from splat.viewer.content import browser_splats, frustum_pose
from splat.viewer.server import _camera
from tests.browser import Page, needs_chromium
from tests.rendered_captures import TARGET, ball, ring

needs_viser = pytest.mark.skipif(not optional.installed("viser"), reason="viser (extra [viewer]) is not installed")


def until(true: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


# What the browser is given


def test_the_browser_gets_the_same_gaussians() -> None:
    g = ball()
    given = browser_splats(g, 0.1, 1000)
    R = splat.core.reference.project.rotation(g.quats)  # type: ignore[attr-defined]
    want = R @ torch.diag_embed(g.scales**2) @ R.mT
    torch.testing.assert_close(torch.from_numpy(given.centers) * 0.1, g.means)
    torch.testing.assert_close(torch.from_numpy(given.covariances) * 0.01, want, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(torch.from_numpy(given.opacities)[:, 0], g.opacities)
    assert given.rgbs.min() >= 0 and given.rgbs.max() <= 1


def test_what_cannot_be_seen_stays_here_and_of_too_many_the_large_go() -> None:
    g = ball(50)
    g.means[3] = math.nan
    g.opacity_logits[4] = -20
    assert len(browser_splats(g, 1, 1000).centers) == 48
    g.log_scales[10:20] = 1.0
    some = browser_splats(g, 1, 10)
    assert np.array_equal(some.centers, g.means[10:20].numpy())
    assert np.isfinite(browser_splats(replace(g, log_scales=g.log_scales + 12), 1, 1000).covariances).all()


def test_a_visitor_starts_upright_behind_the_first_camera() -> None:
    at = stage(ball(), [ring()[i] for i in range(10)])
    target = torch.tensor(TARGET)
    torch.testing.assert_close(at.target, target, atol=1e-4, rtol=0)
    assert float(at.up @ torch.tensor([0.0, 0, 1])) > 0.99
    ahead = target - at.position
    assert float(ahead.norm()) == pytest.approx(1.3 * 3.5, rel=1e-3) and at.fov == pytest.approx(math.radians(45))
    alone = stage(ball(), [])
    assert alone.up.tolist() == [0, -1, 0]
    path = alone.orbit(8, 64, 48)
    seen = splat.render(ball(), path).alpha.flatten(1)
    assert float(seen.amax(1).min()) > 0.5  # it shows the scene from everywhere
    torch.testing.assert_close(path.centers[0], alone.position)


def test_rendered_pictures_are_taken_from_where_the_visitor_stands() -> None:
    camera = ring()[3]
    wxyz, position = frustum_pose(camera)
    fov = 2 * math.atan(18 / float(camera.Ks[0, 1, 1]))
    got = _camera(SimpleNamespace(wxyz=wxyz, position=position / 0.1, fov=fov), 0.1, 48, 36)
    torch.testing.assert_close(got.viewmats, camera.viewmats, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.Ks, camera.Ks)


# The server


def test_without_viser_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"viewer needs viser.*pip install 'torchsplat\[viewer\]'"):
        ViewerServer(ball())


@needs_viser
def test_a_taken_port_and_an_unknown_host_are_clear_errors() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} of 127.0.0.1 is taken"):
            ViewerServer(ball(), port=port)
    with pytest.raises(ValueError, match="host 'no such host' is not known"):
        ViewerServer(ball(), host="no such host")
    with pytest.raises(ValueError, match=r"port must be in 0 \.\. 65535, got 70000"):
        ViewerServer(ball(), port=70000)


@needs_viser
def test_only_this_machine_can_connect_by_default() -> None:
    with ViewerServer(ball(), port=0) as viewer:
        assert viewer.host == "127.0.0.1" and viewer.url == f"http://localhost:{viewer.port}"
        with socket.create_connection(("127.0.0.1", viewer.port), timeout=5) as page:
            page.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert page.recv(15) == b"HTTP/1.1 200 OK"
        with pytest.raises(OSError), socket.create_connection(("127.0.0.2", viewer.port), timeout=5):
            pass


@needs_viser
def test_updates_come_from_any_thread_as_copies_and_not_too_often() -> None:
    with ViewerServer(ball(20), port=0, options=ViewerOptions(update_seconds=60)) as viewer:
        told = []
        g = ball(30)
        thread = threading.Thread(target=lambda: told.append(viewer.update(g, "step 1")))
        thread.start()
        thread.join()
        g.means.zero_()  # the trainer goes on
        assert told == [True] and not viewer.update(ball(40))
        until(lambda: "30 Gaussians" in viewer._text.content)
        assert "step 1" in viewer._text.content
        shown = viewer._splats.buffer[:, :3].view(np.float32) * viewer._unit
        assert np.allclose(shown, ball(30).means.numpy(), atol=1e-5)
        assert viewer.update(ball(50), now=True)
        until(lambda: "50 Gaussians" in viewer._text.content)


@needs_viser
def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with ViewerServer(ball(), port=0):
        pass
    assert capfd.readouterr() == ("", "")


@needs_viser
def test_every_camera_is_drawn_where_it_is() -> None:
    with ViewerServer(ball(), cameras=ring(6), port=0) as viewer:
        assert len(viewer._frusta) == 6
        centers = np.stack([f.position for f in viewer._frusta]) * viewer._unit
        assert np.allclose(centers, ring(6).centers.numpy(), atol=1e-4)
        before = viewer._up
        viewer._flip()
        assert torch.equal(viewer._up, -before)


# The page


def one(color: tuple[float, float, float]) -> Gaussians:
    """A round Gaussian at TARGET."""
    return Gaussians.from_points(torch.tensor([TARGET]), torch.tensor([color]), sh_degree=0, opacity=0.99)


@needs_viser
@needs_chromium
def test_the_page_shows_the_scene_drawn_and_rendered_and_follows_updates(tmp_path: Path) -> None:
    red = replace(one((1.0, 0.1, 0.1)), log_scales=torch.full((1, 3), -1.5))
    green = replace(red, sh0=one((0.1, 1.0, 0.1)).sh0)
    options = ViewerOptions(update_seconds=0)
    with (
        ViewerServer(red, cameras=ring(4), port=0, options=options) as viewer,
        Page(viewer.url, tmp_path / "profile", 900, 600) as page,
    ):
        viewer._each_frustum("visible", False)

        def seen(channel: int) -> np.ndarray:  # type: ignore[type-arg]
            """[P, 2] row and column of pixels of this colour; below viser's word about software rendering."""
            scene = page.screenshot()[150:, :570]
            other = scene[..., 1 - channel]
            return np.argwhere((scene[..., channel] > 120) & (other < 60))

        until(lambda: len(seen(0)) > 500, 60)
        drawn = seen(0)
        assert np.abs(drawn.mean(0) - (228 - 150, 288)).max() < 8  # the canvas's middle, where the target is
        viewer.update(green)
        until(lambda: len(seen(1)) > 500)
        assert len(seen(0)) == 0
        # Rendered by splat: a picture of the same behind everything.
        viewer.update(red)
        viewer._rendered.value = True
        viewer._switch()
        until(lambda: viewer._painted and all(full for _, _, full in viewer._painted.values()))
        until(lambda: len(seen(0)) > 500)
        assert np.abs(seen(0).mean(0) - drawn.mean(0)).max() < 4
        assert len(seen(0)) == pytest.approx(len(drawn), rel=0.3)  # viser draws to another cut-off
