"""Fits of large pictures by tiles, with memory for one tile beside the picture: first the whole picture at a smaller
size, then tile after tile beside what its neighbours are at that moment. Each tile lowers the squared error of the
whole picture, halo included, so that no seam is left between two of them."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from splat.files import load_tensors, read_metadata, save_tensors
from splat.image.fitter import Clock, Fit, FitProgress, Plan, run_fit
from splat.image.init import structure_tensor
from splat.image.model import ImageGaussians
from splat.image.objective import Objective
from splat.image.optimizer import ShapeOptimizer
from splat.image.picture import Picture
from splat.image.tiles import HALO, Box, Place, TileFit, draw_box, own_rows, plan_tiles, share_out
from splat.metrics import MAX_PSNR, psnr_of_error

COARSE_PIXELS = 1 << 22
"""Most pixels of the picture that the coarse fit sees."""
COARSE_STEPS = 200
"""Most steps of the coarse fit: it is there to be improved."""
COARSE_TIME = 0.15
"""Share of the time that it may take. 0.1 is 0.1 dB better at 33 megapixels in 60 s, 0.3 is 0.2 dB better at 8 in
20 s."""
COARSE_PIXELS_PER_GAUSSIAN = 40
"""Gaussians with fewer of the smaller picture's pixels each are fitted to what is lost with the size, and hinder the
tiles (2 megapixels, a quarter of the size, 40 steps: 27.2 dB with 10 pixels each; 29.1 dB with 40 and 130 steps, in a
third more time)."""
_FORMAT = "splat-unfinished-image-fit"
_VERSION = "1"


@dataclass(frozen=True)
class LargeFit:
    """What to fit by tiles."""

    picture: Picture
    plan: Plan
    """Of the whole; its schedule is not looked at."""
    steps: int
    """Of each tile, where no time is given."""
    side: int
    """Of a tile at most, pixels."""
    dilation: float = 0.0
    """See Canvas."""
    work: Path | None = None
    """File that keeps the tiles that are done, for a run that is to go on after an end of any kind."""

    @property
    def boxes(self) -> list[Box]:
        """The tiles."""
        height, width, _ = self.picture.pixels.shape
        return plan_tiles(width, height, self.side)

    def fingerprint(self, limit: float | None) -> str:
        """Of the picture and of all that the result depends on."""
        plan = self.plan
        about = [list(self.picture.pixels.shape), plan.total, plan.seed, plan.least_scale, self.dilation]
        about += [self.steps, self.side, limit, _VERSION]
        digest = hashlib.sha256(json.dumps(about).encode())
        for rows in torch.split(self.picture.pixels, 256):
            digest.update(rows.contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass
class LargeState:
    """How far a fit by tiles has come."""

    model: ImageGaussians
    error: float
    """Squared error of the picture (of each tile's Gaussians only where its window sees them)."""
    shares: list[int]
    """Gaussians that each tile gets beyond those of the coarse fit."""
    tiles: int = 0
    """Tiles that are done."""
    steps: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    psnr: float = 0.0
    """Of the render clamped to 0..1; known at the end."""

    def save(self, path: Path, fingerprint: str) -> None:
        """Writes all but the PSNR."""
        about = {name: value for name, value in vars(self).items() if name not in ("model", "psnr")}
        tensors = {name: getattr(self.model, name) for name in ShapeOptimizer.NAMES}
        header = {"format": _FORMAT, "version": _VERSION, "fingerprint": fingerprint, "state": json.dumps(about)}
        header["digest"] = _digest(tensors)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, tensors, header)

    @classmethod
    def load(cls, path: Path, fingerprint: str, like: ImageGaussians) -> LargeState | None:
        """What `save` wrote for the same fit; None where there is nothing of the kind: no file, a damaged one, one of
        another fit. like: size and layout."""
        with suppress(ValueError, KeyError, TypeError):
            tensors, header = load_tensors(path, ShapeOptimizer.NAMES, format=_FORMAT, version=_VERSION)
            if header["fingerprint"] == fingerprint and header["digest"] == _digest(tensors):
                model = replace(
                    like,
                    means=tensors["means"],
                    log_scales=tensors["log_scales"],
                    angles=tensors["angles"],
                    colors=tensors["colors"],
                )
                return cls(model=model, **json.loads(header["state"]))
        return None


def _digest(tensors: dict[str, Tensor]) -> str:
    """Of the values; a .safetensors file has no check sum of its own."""
    digest = hashlib.sha256()
    for name in ShapeOptimizer.NAMES:
        digest.update(tensors[name].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_work(path: Path) -> None:
    """Errors where the file of an unfinished fit cannot be kept.

    Raises:
        ValueError: no .safetensors, or a file of that name holds something else than an unfinished fit.
    """
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"work must be a file name that ends in .safetensors, got {path}")
    if not path.absolute().parent.parent.is_dir() or (path.parent.exists() and not path.parent.is_dir()):
        raise ValueError(f"work: no such folder: {path.parent}")
    if not path.exists():
        return
    if not path.is_file():
        raise ValueError(f"work must be a file, got {path}")
    try:
        kind = read_metadata(path).get("format", "another kind")
    except ValueError:
        return  # damaged: nothing is lost with it
    if kind != _FORMAT:
        raise ValueError(f"work: {path} holds something else ({kind}), which is not overwritten")


def reduced(pixels: Tensor, factor: int) -> Tensor:
    """[H, W, D] at 1/factor of the size, by averages (of what is there, at the right and lower border)."""
    strips = torch.split(pixels, 16 * factor)
    return torch.cat([F.avg_pool2d(s.permute(2, 0, 1), factor, ceil_mode=True).permute(1, 2, 0) for s in strips])


def enlarged(model: ImageGaussians, factor: int, width: int, height: int) -> ImageGaussians:
    """A model of `reduced` as one of the picture that it was made from."""
    return replace(model.scaled(factor, factor), width=width, height=height)


def fit_large(job: LargeFit, clock: Clock) -> LargeState:
    """Runs the fit, or what is left of it, until it is done or the clock is stopped."""
    return _Run(job, clock).run()


class _Run:
    def __init__(self, job: LargeFit, clock: Clock) -> None:
        self.job, self.clock = job, clock
        self.pixels, self.boxes = job.picture.pixels, job.boxes
        self.height, self.width, self.channels = self.pixels.shape
        self.check_seconds = 0.0

    def run(self) -> LargeState:
        job, clock = self.job, self.clock
        fingerprint = "" if job.work is None else job.fingerprint(clock.limit)
        empty = torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, self.channels)
        nothing = ImageGaussians(*empty, self.width, self.height, job.picture.layout, dilation=job.dilation)
        state = None if job.work is None else LargeState.load(job.work, fingerprint, nothing)
        if state is not None:
            clock.began -= sum(state.seconds.values())
        else:
            state = self._coarse()
            self._keep(state, fingerprint)
        while state.tiles < len(self.boxes) and not clock.stopped():
            began = time.perf_counter()
            finished = self._tile(state)
            state.seconds["tiles"] = state.seconds.get("tiles", 0.0) + time.perf_counter() - began
            if finished:
                self._keep(state, fingerprint)
        mean = sum(self._errors(state.model, clamp=True)) / self.pixels.numel()
        state.psnr = min(MAX_PSNR, psnr_of_error(mean))
        state.history[-1]["psnr"] = state.psnr
        if not clock.stopped():
            self._tell(self._done(state))
        return state

    def _done(self, state: LargeState) -> FitProgress:
        rate = state.steps / max(self.clock.elapsed, 1e-9)
        whole = len(self.boxes)
        return FitProgress(
            state.steps, state.steps, len(state.model), state.psnr, rate, 0.0, "done", lambda: state.model, whole, whole
        )

    def _keep(self, state: LargeState, fingerprint: str) -> None:
        if self.job.work is not None and not self.clock.stopped():
            try:
                state.save(self.job.work, fingerprint)
            except OSError as error:  # the fit itself goes on
                warnings.warn(f"the tiles that are done cannot be kept: {error}", RuntimeWarning, stacklevel=2)

    def _stage(self, callback: Callable[[FitProgress], None]) -> Clock:
        """The clock of one fit among several: the same seconds, its own steps and history."""
        wanted = None if self.clock.callback is None else callback
        return Clock(self.clock.limit, wanted, self.clock.stopped, began=self.clock.began)

    def _tell(self, progress: FitProgress) -> None:
        if self.clock.callback is not None:
            self.clock.callback(progress)

    def _errors(self, model: ImageGaussians, clamp: bool = False) -> list[float]:
        """Squared error of each tile."""
        began, errors = time.perf_counter(), []
        for box in self.boxes:
            drawn = draw_box(model, box)
            difference = (drawn.clamp_(0, 1) if clamp else drawn).sub_(box.of(self.pixels))
            errors.append(float(difference.square_().double().sum()))
        self.check_seconds = time.perf_counter() - began
        return errors

    def _places(self, model: ImageGaussians) -> list[Place]:
        picture = Box(0, 0, self.width, self.height)
        return [Place(box, box.grown(HALO, picture)) for box in self.boxes]

    def _coarse(self) -> LargeState:
        """The whole picture at a smaller size."""
        job, clock = self.job, self.clock
        began, factor = time.perf_counter(), 2
        while self.height * self.width > COARSE_PIXELS * factor**2:
            factor *= 2
        small = reduced(self.pixels, factor)
        count = max(1, min(job.plan.total // 2, small[..., 0].numel() // COARSE_PIXELS_PER_GAUSSIAN))
        objective, plan = Objective.of(small, dilation=job.dilation), replace(job.plan, total=count)
        fit = Fit(objective, job.picture.layout, structure_tensor(small), plan)
        steps = min(job.steps, COARSE_STEPS)

        def tell(p: FitProgress) -> None:
            expected = p.step + max(0, p.steps - p.step) + job.steps * len(self.boxes)
            whole = lambda: enlarged(fit.model(), factor, self.width, self.height)  # noqa: E731
            self._tell(replace(p, steps=expected, phase="coarse", model_fn=whole, tiles=len(self.boxes)))

        stage = self._stage(tell)
        until = None if clock.limit is None else clock.elapsed + COARSE_TIME * (clock.limit - clock.elapsed)
        run_fit(fit, stage, steps, until)
        assert fit.best is not None
        model = enlarged(fit.best[1], factor, self.width, self.height)
        errors = self._errors(model)
        counts = [int(own_rows(model, place).sum()) for place in self._places(model)]
        state = LargeState(
            model, sum(errors), share_out(errors, counts, job.plan.total - len(model)), steps=stage.steps
        )
        state.seconds["coarse"] = time.perf_counter() - began
        self._record(state)
        return state

    def _record(self, state: LargeState) -> None:
        psnr = min(MAX_PSNR, psnr_of_error(state.error / self.pixels.numel()))
        row = {"step": state.steps, "n": len(state.model), "psnr": psnr, "seconds": self.clock.elapsed}
        state.history.append(row)

    def _tile(self, state: LargeState) -> bool:
        """Fits the next tile; whether it came to its end."""
        index, clock, began = state.tiles, self.clock, self.clock.elapsed
        left = sum(box.area for box in self.boxes[index:])
        place = self._places(state.model)[index]
        own = own_rows(state.model, place)
        if int(own.sum()) + state.shares[index] == 0:  # nothing is there to be fitted, or to be wanted
            state.tiles += 1
            return True
        others, mine = state.model.map(lambda t: t[~own]), state.model.map(lambda t: t[own])
        pixels = place.window.of(self.pixels)
        before = float((pixels - draw_box(state.model, place.window)).square().double().sum())
        seed = (self.job.plan.seed << 20) + index + 1 & (1 << 63) - 1
        plan = replace(self.job.plan, total=len(mine) + state.shares[index], seed=seed)
        fit = TileFit(pixels, others, mine, place, plan)

        def joined(part: ImageGaussians) -> ImageGaussians:
            return others.joined(fit.at_place(part, others))

        def tell(p: FitProgress) -> None:
            error = max(0.0, state.error - before + fit.error(p.psnr))
            expected = state.steps + p.steps + self.job.steps * (len(self.boxes) - index - 1)
            done = sum(box.area for box in self.boxes[:index]) + place.core.area * min(1.0, p.step / max(1, p.steps))
            spent = state.seconds.get("tiles", 0.0) + clock.elapsed - began
            whole = sum(box.area for box in self.boxes)
            self._tell(
                replace(
                    p,
                    step=state.steps + p.step,
                    steps=expected,
                    n=len(others) + p.n,
                    psnr=min(MAX_PSNR, psnr_of_error(error / self.pixels.numel())),
                    eta=p.eta if clock.limit is not None else spent * (whole - done) / max(done, 1),
                    phase="tiles",
                    model_fn=lambda: joined(fit.model()),
                    tile=index + 1,
                    tiles=len(self.boxes),
                )
            )

        stage, until = self._stage(tell), None
        if clock.limit is not None:
            until = began + (clock.limit - self.check_seconds - began) * place.core.area / left
        run_fit(fit, stage, self.job.steps, until)
        assert fit.best is not None
        after = fit.error(fit.best[0])
        if after < before:
            state.model, state.error = joined(fit.best[1]), state.error - before + after
        state.steps += stage.steps
        self._record(state)
        if clock.stopped():
            return False
        state.tiles += 1
        return True
