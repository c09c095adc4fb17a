"""Other rasterisers, for scripts/bench_gpu.py to measure on the same scene in the same run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from gpu_scene import BACKGROUND, Scene
from gpu_timing import Figures, Run, first_line, peak_gb, psnr_between, tidy
from torch import Tensor

import splat

PSNR = 50.0
"""dB. Peers that draw a picture further from ours than this are not compared with."""
EPSILON = 1e-15
"""Of Adam, as in GaussianAdam."""


class Peer(Protocol):
    """What is asked of a peer. Another one is a class like Gsplat, and an instance of it in `Peers.found`."""

    name: str
    variants: tuple[str, ...]
    """Ways to call it. Each figure is that of the fastest, but memory, which is that of the fastest step."""
    version: str

    def activate(self, parameters: dict[str, Tensor]) -> Any:
        """What `draw` takes, from a scene's raw parameters (the names of splat.Gaussians); differentiable."""

    def draw(self, activated: Any, camera: splat.Cameras, background: Tensor, variant: str) -> Tensor:
        """[1, H, W, 3]; differentiable."""


class Gsplat:
    """gsplat.rasterization. It draws the colour alone, where splat.render draws depth too; of splat.render(...,
    backend="gsplat") it has neither the depth nor the look for broken Gaussians, which would be to its disadvantage."""

    name: str = "gsplat"
    variants: tuple[str, ...] = ("packed", "not packed")

    def __init__(self, rasterization: Callable[..., Any], version: str) -> None:
        self.rasterization, self.version = rasterization, version

    def activate(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            "means": parameters["means"],
            "quats": parameters["quats"],
            "scales": parameters["log_scales"].exp(),
            "opacities": parameters["opacity_logits"].sigmoid(),
            "colors": torch.cat([parameters["sh0"], parameters["shN"]], 1),
        }

    def draw(self, activated: dict[str, Tensor], camera: splat.Cameras, background: Tensor, variant: str) -> Tensor:
        image: Tensor = self.rasterization(
            **activated,
            viewmats=camera.viewmats,
            Ks=camera.Ks,
            width=camera.width,
            height=camera.height,
            sh_degree=3,
            packed=variant == "packed",
            backgrounds=background[None],
        )[0]
        return image


class GsplatBuild:
    """gsplat compiles its kernels when it is first imported, which takes minutes: here in a process of its own, which
    finds it out where that fails."""

    CODE = (
        "import sys; sys.path[:0] = sys.argv[1:]; from gsplat.cuda._backend import _C\n"
        "if _C is None: sys.exit('gsplat found no CUDA toolkit (nvcc) to compile its kernels with')"
    )

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.began, self.seconds = folder, time.monotonic(), 0.0
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the object)
        # Not its architectures: with other flags than at the first import the second one would compile again.
        surroundings = {"MAX_JOBS": str(os.cpu_count() or 1), **os.environ}
        command = [sys.executable, "-c", self.CODE, *([str(folder.resolve())] if folder else [])]
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=subprocess.STDOUT, env=surroundings, start_new_session=True
        )

    def running(self, patience: float = 0.0) -> bool:
        """Whether it is still at it, after `patience` seconds at most."""
        try:
            self.process.wait(max(patience, 0.01))
        except subprocess.TimeoutExpired:
            return True
        self.seconds = self.seconds or time.monotonic() - self.began
        return False

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)  # with the compilers that it started
            self.process.wait()

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def load(self) -> Gsplat:
        """ImportError says why there is none."""
        if self.process.returncode != 0:
            said = [line.strip() for line in self.said().splitlines() if line.strip()]
            # A compiler's first error tells more than what torch says at the end.
            errors = [line for line in said if re.search(r"(^|\W)error: ", line)]
            raise ImportError((errors[:1] or said[-1:] or [f"exit status {self.process.returncode}"])[0][:300])
        if self.folder:
            sys.path.insert(0, str(self.folder.resolve()))
        import gsplat

        return Gsplat(gsplat.rasterization, gsplat.__version__)


class Peers:
    """Those that can be measured."""

    def __init__(self, run: Run, folder: Path | None, wanted: bool, patience: float) -> None:
        """gsplat is looked for in `folder` too; the first `ready` waits for it."""
        self.run, self.patience = run, patience
        self.found: list[Peer] = []  # put more peers here
        self.build = GsplatBuild(folder) if run.cuda and wanted else None
        if wanted and not run.cuda:
            run.missing("gsplat", "needs a GPU")

    def ready(self) -> bool:
        """Whether all peers that can be had are there. False: one is still being compiled, also after `patience`."""
        if self.build is None:
            return True
        patience, self.patience = self.patience, 0.0
        if self.build.running(patience):
            if patience > 0:
                self.run.say("gsplat is still being compiled, which makes the host slower; its figures come last")
            return False
        build, self.build = self.build, None
        about: Figures = self.run.figures.setdefault("gsplat", {})
        about["seconds to compile or load"] = build.seconds
        try:
            self.found.append(build.load())
        except Exception as error:
            self.run.missing("gsplat", f"cannot be used: {first_line(error)}")
            about["log"] = build.said()[-4000:]
            return True
        about["version"] = self.found[-1].version
        self.run.say(f"gsplat {about['version']}: {build.seconds:.0f} s to compile or load\n")
        return True

    def close(self) -> None:
        if self.build is not None:
            self.build.stop()
            self.run.missing("gsplat", f"was not compiled within {time.monotonic() - self.build.began:.0f} s")


def _best(run: Run, name: str, peer: Peer, of: Callable[[str], Callable[[int], object]], views: int) -> Figures | None:
    """The fastest of the variants, with all of them beside it."""
    times: Figures = {}
    for variant in peer.variants:
        run.time(times, f"{peer.name} {name}, {variant}", of(variant), views=views)
        tidy(run.device)
    if not times:
        return None
    fastest = min(times, key=lambda title: times[title]["ms"])
    return times[fastest] | {"variant": fastest.rpartition(", ")[2], "all": {t: v["ms"] for t, v in times.items()}}


def _measure_forward(run: Run, scene: Scene, peer: Peer, background: Tensor, into: Figures) -> bool:
    """Whether the peer draws our picture; a comparison of times means nothing otherwise."""
    with torch.no_grad():
        activated = peer.activate(scene.adam.gaussians.parameters())

    @torch.no_grad()
    def forward(view: int, variant: str) -> Tensor:
        return peer.draw(activated, scene.cameras[view], background, variant)

    def agreement() -> float:
        pairs = [
            (forward(view, way), scene.forward(view).color) for view in range(scene.views) for way in peer.variants
        ]
        return min(psnr_between(theirs, ours) for theirs, ours in pairs)

    name = f"{peer.name}, PSNR between the pictures"
    agreed = run.attempt(name, agreement)
    if agreed is None:
        return False
    into["PSNR dB"] = agreed
    run.say(f"  {name:<38} {agreed:9.1f} dB")
    if agreed < PSNR:
        run.missing(peer.name, f"draws another picture (below {PSNR:.0f} dB): it is not compared with")
        return False
    into["forward"] = _best(run, "forward", peer, lambda way: lambda view: forward(view, way), scene.views)
    return True


def measure_peer(run: Run, scene: Scene, peer: Peer, into: Figures) -> None:
    """A peer's figures of a scene whose own optimizer is gone, so that the memory is the peer's alone."""
    background = torch.tensor(BACKGROUND, device=scene.device)
    if not _measure_forward(run, scene, peer, background, into):
        return
    tidy(run.device)
    parameters = scene.leaves().parameters()

    def render(view: int, variant: str) -> Tensor:
        for leaf in parameters.values():
            leaf.grad = None
        return peer.draw(peer.activate(parameters), scene.cameras[view], background, variant)

    def backward(view: int, variant: str) -> None:
        render(view, variant).backward(scene.v)  # type: ignore[no-untyped-call]

    into["forward + backward"] = _best(
        run, "forward + backward", peer, lambda way: lambda view: backward(view, way), scene.views
    )
    # One fused kernel over the six tensors is the fastest that torch has; as with ours the scene stands still.
    adam = torch.optim.Adam(list(parameters.values()), lr=0.0, eps=EPSILON, fused=True)

    def step(view: int, variant: str) -> None:
        loss = splat.photometric_loss(render(view, variant), scene.targets[view])
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()

    into["training step"] = best = _best(
        run, "training step", peer, lambda way: lambda view: step(view, way), scene.views
    )
    if best is None:
        return
    name, way = f"{peer.name} peak memory of a step", best["variant"]
    peak = run.attempt(
        name, lambda: peak_gb(lambda view: step(view, way), scene.views, scene.device, scene.beside), gpu=True
    )
    if peak is not None:
        into["peak GB"] = peak
        run.say(f"  {name:<38} {peak:9.3f} GB")
