"""One scene of scripts/bench_gpu.py: its statistics from the tile lists, and the times of splat's calls on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace

import torch
from gpu_timing import Figures, OpRecorder, Run, capture, host_waits, peak_gb, tidy
from torch import Tensor
from trained_like import trained_like

import splat
from splat.core.binning import TILE, ListRoom, TileLists
from splat.optim import GaussianAdam, LearningRates, Step
from splat.rendering import Rendered, RenderOptions

BACKGROUND = (0.2, 0.3, 0.4)
STAND = LearningRates(*[0.0] * len(astuple(LearningRates())))
"""Adam reads and writes all it would, but the scene stands still: each figure is of the same one."""
STAGES = {
    "project": ["project"],
    "SH": ["sh"],
    "bin, with room": ["bin"],
    "rasterize": ["rasterize"],
    "loss, forward + backward": ["l1_ssim", "l1_ssim_backward"],
    "rasterize backward": ["rasterize_backward"],
    "fused step op": ["step"],
}
"""Ops of a fused training step. What it takes beyond them is torch's."""
APART = {"project backward": ["project_backward"], "SH backward": ["sh_backward"]}
"""Ops of a backward pass to the raw parameters, which the fused step op is instead of."""


def sized(cameras: splat.Cameras, width: int, height: int) -> splat.Cameras:
    """With the same vertical field of view."""
    Ks = cameras.Ks.clone()
    Ks[:, :2, :2] *= height / cameras.height
    Ks[:, 0, 2], Ks[:, 1, 2] = width / 2, height / 2
    return replace(cameras, Ks=Ks, width=width, height=height)


def list_statistics(tiles: TileLists, radii: Tensor) -> Figures:
    """Of one picture, counted on the lists' device.

    A warp owns 8x4 pixels, two neighbouring 4x4 blocks, and evaluates a listed splat for all of them where its mask has
    either block: 32 pairs. Pairs are counted as if no pixel stopped early, also where a sub-tile reaches out of the
    picture."""
    lists, mask = tiles.offsets.diff(), tiles.masks.int() & 0xFFFF  # unused entries have masks of 0
    either = mask | mask >> 1
    hits = sum(int((either >> 2 * k & 1).sum()) for k in range(TILE * TILE // 32))
    entries, visible = (int(n) for n in tiles.totals.tolist())
    return {
        "projected": int((radii > 0).all(-1).sum()),
        "visible": visible,
        "entries": entries,
        "entries per visible splat": entries / max(visible, 1),
        "list length mean": float(lists.double().mean()),
        "list length p99": float(lists.sort().values[round(0.99 * (len(lists) - 1))]),
        "list length max": float(lists.max()),
        "8x4 sub-tiles per visible splat": hits / max(visible, 1),
        "pairs per pixel": 32 * hits / (tiles.width * tiles.height),
    }


def mean_statistics(views: list[Figures]) -> Figures:
    """Means over the views, and the largest of what is a maximum."""
    columns = {name: [view[name] for view in views] for name in views[0]}
    return {name: max(v) if name.endswith("max") else sum(v) / len(v) for name, v in columns.items()}


class Scene:
    """trained_like(count) on the device with all that the timed calls need."""

    def __init__(self, run: Run, count: int, size: tuple[int, int], views: int) -> None:
        gaussians, cameras = trained_like(count, views=views)
        cameras = sized(cameras, *size).to(run.device)
        self.count, self.views, self.device = count, views, run.device
        # One by one ahead of time: Cameras looks at its values, which the host waits for.
        self.cameras = [cameras[view] for view in range(views)]
        # The optimizer's is the only copy of the scene, for the sake of the peak memory.
        self.adam = GaussianAdam(gaussians.to(run.device), STAND)
        self.background = torch.tensor(BACKGROUND, device=run.device)
        g = torch.Generator(run.device).manual_seed(1)
        pictures, rooms, found = [], [], []
        for view in range(views):
            drawn = self.forward(view)
            assert drawn.info.tiles is not None
            found.append(list_statistics(drawn.info.tiles, drawn.info.splats.radii))
            rooms.append(drawn.info.tiles.room())
            noise = torch.randn(drawn.color.shape, generator=g, device=run.device)
            pictures.append((drawn.color + 0.1 * noise).clamp(0, 1))
        self.statistics = mean_statistics(found)
        self.targets = pictures
        self.v = torch.randn(pictures[0].shape, generator=g, device=run.device) / pictures[0].numel()
        self.room = RenderOptions(
            room=ListRoom(max(room.entries for room in rooms), max(room.visible for room in rooms))
        )

    @property
    def beside(self) -> int:
        """Bytes that are on the device for this benchmark alone: a training step has one target and no `v`."""
        return sum(t.nbytes for t in (*self.targets[1:], self.v))

    def release_optimizer(self) -> None:
        """The scene is left, and can be drawn; no more steps."""
        self.adam.exp_avg, self.adam.exp_avg_sq = {}, {}

    def leaves(self) -> splat.Gaussians:
        """The scene with tensors that take gradients and share the memory."""
        return self.adam.gaussians.map(lambda t: t.detach().requires_grad_(True))

    @torch.no_grad()
    def forward(self, view: int, options: RenderOptions = RenderOptions()) -> Rendered:
        return splat.render(self.adam.gaussians, self.cameras[view], background=self.background, options=options)

    def forward_backward(self, options: RenderOptions = RenderOptions()) -> Callable[[int], None]:
        """To the raw parameters, from a fixed gradient of the picture."""
        leaves = self.leaves()

        def call(view: int) -> None:
            for leaf in leaves.parameters().values():
                leaf.grad = None
            picture = splat.render(leaves, self.cameras[view], background=self.background, options=options)
            picture.color.backward(self.v)  # type: ignore[no-untyped-call]

        return call

    def step(self, view: int) -> Step:
        return self._step(self.cameras[view], self.targets[view])

    def _step(self, camera: splat.Cameras, target: Tensor) -> Step:
        def loss(drawn: Rendered) -> Tensor:
            return splat.photometric_loss(drawn.color, target)

        return self.adam.step(camera, loss, background=self.background, options=self.room, fused=True)

    def stages(self) -> list[dict[str, Callable[[], object]]]:
        """For each view, the calls of splat's ops in a forward and backward pass and in a step."""
        recorded = []
        forward_backward = self.forward_backward()
        for view in range(self.views):
            with OpRecorder() as exact:
                forward_backward(view)
            with OpRecorder() as fused:
                self.step(view)
            recorded.append(exact.calls | {"bin_exact": exact.calls["bin"]} | fused.calls)
        return recorded

    def captured_forward(self) -> Callable[[int], None]:
        """A CUDA graph of the forward pass: call(view) replays it."""
        camera = self._own_camera()
        with torch.no_grad():
            graph, drawn = capture(
                lambda: splat.render(self.adam.gaussians, camera, background=self.background, options=self.room)
            )

        def call(view: int) -> None:
            self._move(camera, view)
            graph.replay()

        for view in range(self.views):
            want = self.forward(view).color
            call(view)
            self._check_replay(drawn, view, float((drawn.color - want).abs().max()))
        return call

    def captured_step(self) -> Callable[[int], None]:
        """A CUDA graph of the training step. Camera and target are copied into it before each replay, as a training
        loop would."""
        camera, target = self._own_camera(), self.targets[0].clone()
        graph, step = capture(lambda: self._step(camera, target))

        def call(view: int) -> None:
            self._move(camera, view)
            target.copy_(self.targets[view])
            graph.replay()

        for view in range(self.views):
            want = float(self.step(view).loss)
            call(view)
            self._check_replay(step.rendered, view, abs(float(step.loss) - want) / want)
        return call

    def _own_camera(self) -> splat.Cameras:
        camera = self.cameras[0]
        return replace(camera, viewmats=camera.viewmats.clone(), Ks=camera.Ks.clone())

    def _move(self, camera: splat.Cameras, view: int) -> None:
        camera.viewmats.copy_(self.cameras[view].viewmats)
        camera.Ks.copy_(self.cameras[view].Ks)

    def _check_replay(self, drawn: Rendered, view: int, difference: float) -> None:
        """A time counts only where the graph did what the calls do."""
        assert drawn.info.tiles is not None and self.room.room is not None
        if bool(drawn.info.tiles.overflowed(self.room.room)):
            raise RuntimeError(f"the tile lists of view {view} did not fit their room: nothing was drawn")
        if not difference < 1e-5:
            raise RuntimeError(f"view {view} differs by {difference:.1e} from the one without a graph")


def measure_scene(run: Run, scene: Scene, into: Figures) -> None:
    """All of splat's figures of one scene."""
    into["statistics"] = scene.statistics
    for name, value in scene.statistics.items():
        run.say(f"  {name:<38} {value:13,.1f}")
    times: Figures = into.setdefault("ms", {})
    views = scene.views
    with_room = scene.forward(0, scene.room)
    into["gradient sums"] = with_room.info.gradient_sums
    difference = float((with_room.color - scene.forward(0).color).abs().max())
    into["largest difference of the picture with room"] = difference
    if difference > 0:
        run.missing("with room", f"the picture differs by up to {difference:.1e} from the one with exact lists")
    del with_room
    run.time(times, "forward", scene.forward, views=views)
    run.time(times, "forward, with room", lambda view: scene.forward(view, scene.room), views=views)
    run.time(times, "forward + backward", scene.forward_backward(), views=views)
    run.time(times, "forward + backward, with room", scene.forward_backward(scene.room), views=views)
    run.time(times, "training step", scene.step, views=views)
    run.save()
    _measure_memory_and_waits(run, scene, into)
    _measure_graphs(run, scene, into)
    _measure_stages(run, scene, into)


def _measure_memory_and_waits(run: Run, scene: Scene, into: Figures) -> None:
    name = "peak memory of a training step"
    peak = run.attempt(name, lambda: peak_gb(scene.step, scene.views, scene.device, scene.beside), gpu=True)
    if peak is not None:
        into["peak GB"] = peak
        run.say(f"  {name:<38} {peak:9.3f} GB")
    name = "host waits in a training step"
    waits = run.attempt(name, lambda: host_waits(lambda: scene.step(0)), gpu=True)
    if waits is not None:
        into["host waits"] = waits
        run.say(f"  {name:<38} {waits}")


def _measure_graphs(run: Run, scene: Scene, into: Figures) -> None:
    captures = {"forward, CUDA graph": scene.captured_forward, "training step, CUDA graph": scene.captured_step}
    for name, captured in captures.items():
        replay = run.attempt(name, captured, gpu=True)
        if replay is not None:
            run.time(into["ms"], name, replay, views=scene.views)
        del replay  # with the memory of its graph
        tidy(run.device)


def _measure_stages(run: Run, scene: Scene, into: Figures) -> None:
    recorded = run.attempt("stages", scene.stages)
    if recorded is None:
        return
    times: Figures = into.setdefault("stages ms", {})
    for name, ops in {**STAGES, "bin, exact": ["bin_exact"], **APART}.items():
        if absent := [op for op in ops if op not in recorded[0]]:
            run.missing(name, f"the step made no call of {', '.join(absent)}")
            continue

        @torch.no_grad()
        def call(view: int, ops: list[str] = ops) -> None:
            for op in ops:
                recorded[view][op]()

        run.time(times, name, call, views=scene.views)
    if all(name in times for name in STAGES):
        into["stages of a step, sum, ms"] = total = sum(times[name]["ms"] for name in STAGES)
        run.say(f"  {'stages of a step, sum':<38} {total:9.3f} ms")
