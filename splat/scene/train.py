"""Trainer: a capture -> a scene. Counted in images; resumed, it goes on to the same bits."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from splat.cameras import Cameras
from splat.core.morton import morton_order
from splat.core.ops import Backend
from splat.core.project import ProjectOptions
from splat.core.random import Purpose, permutation
from splat.core.rasterize import RasterizeOptions
from splat.gaussians import Gaussians
from splat.optim import GaussianAdam, LearningRates, Step
from splat.rendering import RenderOptions
from splat.scene.config import ScheduleConfig, TrainConfig
from splat.scene.corrections import Corrections
from splat.scene.data.capture import Capture
from splat.scene.data.photos import PhotoCache
from splat.scene.densify import DefaultStrategy, McmcStrategy, View
from splat.scene.densify.base import Edit, Moment, keep_all
from splat.scene.densify.default import opacity_reset
from splat.scene.densify.surgery import then
from splat.scene.objective import Objective, penalties_of
from splat.scene.start import start
from splat.scene.state import SceneState

AHEAD = 4
"""Pictures that are loaded before their turn."""
MIN_SIDE = 64
"""Pixels that a halved picture keeps along its shorter side."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    images: int
    """Trained on."""
    seconds: float
    """Wall time spent."""
    refined_at: float
    """Progress at the last densification."""


class Trainer:
    """Trains a scene of a capture, an image at a time.

    Nothing random depends on anything but the seed, the count of images and the Gaussians' ids: a run that is
    interrupted and goes on from `tables` ends in the same bits as one that is not.
    """

    def __init__(
        self,
        capture: Capture,
        photos: PhotoCache,
        config: TrainConfig = TrainConfig(),
        *,
        device: torch.device | str = "cpu",
        backend: Backend | None = None,
        gaussians: Gaussians | None = None,
    ) -> None:
        """
        Args:
            gaussians: where to begin, in the capture's normalised world (default: its sparse points, or random ones).
        """
        self._clock = time.perf_counter()
        self.device = torch.device(device)
        budget = config.max_gaussians or default_budget(capture, config, self.device)
        config = replace(config, max_gaussians=budget)  # said in checkpoints and reports
        self.capture, self.photos, self.config, self.backend = capture, photos, config, backend
        first = start(capture, photos, config) if gaussians is None else gaussians
        first = first.select(morton_order(first.means)).to(self.device)
        self.strategy: DefaultStrategy | McmcStrategy
        if config.strategy == "mcmc":
            self.strategy = McmcStrategy(config.mcmc, budget)
        else:
            self.strategy = DefaultStrategy(config.default, budget)
        rates = LearningRates(**config.rates.at(0, capture.extent))
        optimizer = GaussianAdam(first, rates, visible_only=config.visible_only, penalties=penalties_of(config))
        self.state = SceneState.start(optimizer, self.strategy.initial_statistics(len(first), self.device))
        self.corrections = Corrections(config.correct, capture.train, self.device)
        self.objective = Objective(capture, config, self.corrections, self.device, backend)
        self.images = 0
        """Images trained on."""
        self.seconds = 0.0
        """Wall time spent, the start included, by all processes that took part one after the other."""
        self.refined_at = 0.0
        """Progress at the last densification."""
        self.log = ""
        """What the last densification did."""
        self._cameras: dict[tuple[int, int], Cameras] = {}
        self._orders: dict[int, list[int]] = {}  # of the views, by epoch
        self.options = RenderOptions(
            project=ProjectOptions(antialiased=config.antialiased),
            rasterize=RasterizeOptions(absgrad=config.strategy == "default" and config.default.absgrad),
            depth=config.loss.depth != "none",
        )
        self.tick()

    @property
    def gaussians(self) -> Gaussians:
        """The scene as it is, in the capture's normalised world."""
        return self.state.gaussians

    @property
    def progress(self) -> float:
        """0..1: of the images, or of the time, of the run."""
        if self.config.time is not None:
            return min(1.0, self.seconds / self.config.time)
        return min(1.0, self.images / max(1, self.config.steps))

    @property
    def done(self) -> bool:
        """The run is over."""
        return self.progress >= 1.0

    def tables(self) -> dict[str, Tensor]:
        """Every tensor of the run, by a name for a file."""
        return self.state.tables() | {f"corrections.{k}": v for k, v in self.corrections.tables().items()}

    def load(self, tables: dict[str, Tensor], progress: Progress) -> None:
        """Goes on from what `tables` and `position` gave."""
        self.state.load_tables(tables)
        prefix = "corrections."
        self.corrections.load_tables({k.removeprefix(prefix): v for k, v in tables.items() if k.startswith(prefix)})
        self.images, self.seconds = progress.images, progress.seconds
        self.refined_at = min(progress.refined_at, self.progress)  # less where the run is to be longer than it was

    @property
    def position(self) -> Progress:
        """Where the run stands, apart from its tensors."""
        return Progress(self.images, self.seconds, self.refined_at)

    def start_clock(self) -> None:
        """What passes from now on is time spent."""
        self._clock = time.perf_counter()

    def tick(self) -> None:
        """Adds the time since the last tick to the time spent."""
        now = time.perf_counter()
        self.seconds += now - self._clock
        self._clock = now

    def step(self) -> Step:
        """Trains on the next image and, when it is due, adds and removes Gaussians."""
        self.tick()
        before = self.progress
        row = self._next_view()
        halvings = self._halvings(row, before)
        cameras = self.corrections.camera(self._camera(row, halvings), row)
        target = self.objective.target(row, self.photos.get(row, halvings), self.images)
        rates = LearningRates(**self.config.rates.at(before, self.capture.extent))
        self.state.optimizer.set_rates(rates)
        done = self.state.optimizer.step(
            cameras,
            lambda view: self.objective(view, target),
            background=target.background,
            sh_degree=self._degree(before),
            options=self.options,
            ids=self.state.ids,
            backend=self.backend,
        )
        self.corrections.step([row], before)
        self.images += 1
        self._after(done, cameras, rates.means)
        return done

    def _after(self, done: Step, cameras: Cameras, rate: float) -> None:
        """Densification's part of a step."""
        splats, strategy = done.rendered.info.splats, self.strategy
        if strategy.needs_gradients and self.progress <= self.config.default.stop:
            absolute = self.options.rasterize.absgrad
            gradients = getattr(splats.means2d, "absgrad" if absolute else "grad")
            strategy.observe(self.state.statistics, View(gradients[0], splats.radii[0], cameras.width, cameras.height))
        if isinstance(strategy, McmcStrategy):
            strategy.add_noise(self.gaussians, self.state.ids, self.images, self.config.seed, rate)
        if self.images % self.config.schedule.refine_every == 0:
            self._refine()

    @torch.no_grad()
    def _refine(self) -> None:
        moment = Moment(
            iteration=self.images,
            progress=self.progress,
            share=self.progress - self.refined_at,
            images=self.config.schedule.refine_every,
            seed=self.config.seed,
            extent=self.capture.extent,
        )
        self.refined_at = moment.progress
        edit, self.log = self.strategy.refine(self.gaussians, self.state.ids, self.state.statistics, moment)
        if edit is not None:
            self._edit(edit)
        if isinstance(self.strategy, DefaultStrategy) and self.strategy.reset_due(moment):
            count = keep_all(len(self.state), self.device)
            self.state.edit(opacity_reset(count, self.strategy.reset(self.gaussians)), self.images)

    def _edit(self, edit: Edit) -> None:
        """Applies an edit, leaves out what has become invalid, and stores the result along the Z-curve."""
        self.state.edit(edit, self.images)
        rows = self.gaussians.valid.nonzero()[:, 0]
        rows = rows[morton_order(self.gaussians.means[rows])]
        self.state.edit(then(keep_all(len(self.state), self.device), rows), self.images)

    def _next_view(self) -> int:
        """Every training view once an epoch, in an order of the seed's."""
        coming = [self._view_at(self.images + k) for k in range(1, 1 + AHEAD)]
        self.photos.expect(coming, self._halvings(coming[0], self.progress))
        return self._view_at(self.images)

    def _view_at(self, image: int) -> int:
        train, count = self.capture.train, len(self.capture.train)
        epoch = image // count
        if epoch not in self._orders:
            self._orders = {
                e: permutation(self.config.seed, e, Purpose.VIEW_ORDER, count) for e in range(epoch, epoch + 2)
            }
        return train[self._orders[epoch][image % count]]

    def _halvings(self, row: int, progress: float) -> int:
        s: ScheduleConfig = self.config.schedule
        if progress >= s.coarse_until:
            return 0
        view = self.capture.views[row]
        most = max(0, math.floor(math.log2(max(1, min(view.width, view.height) / MIN_SIDE))))
        return min(most, math.ceil(s.coarse * (1 - progress / s.coarse_until)))

    def _degree(self, progress: float) -> int:
        until = self.config.schedule.harmonics_until
        whole = self.config.sh_degree
        return whole if progress >= until else math.floor(progress / until * (whole + 1))

    def _camera(self, row: int, halvings: int) -> Cameras:
        key = row, halvings
        if key not in self._cameras:
            camera = self.capture.camera(row)
            self._cameras[key] = (camera.scaled(0.5**halvings) if halvings else camera).to(self.device)
        return self._cameras[key]


def default_budget(capture: Capture, config: TrainConfig, device: torch.device) -> int:
    """Most Gaussians of a run: as many as the photographs can tell apart, and the length of the run can place."""
    pixels = sum(capture.views[row].width * capture.views[row].height for row in capture.train)
    if config.time is None:
        placed = 10 * config.steps
    else:
        placed = round((10_000 if device.type == "cuda" else 80) * config.time)
    return max(10_000, min(pixels // 100, placed, 1_000_000))
