"""Training steps of a scene: render, loss, gradients and Adam."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from splat.cameras import Cameras
from splat.core.adam import AdamRule, adam_step
from splat.core.checks import check_int
from splat.core.ops import Backend, choose_backend
from splat.core.project import CAMERA_MODELS
from splat.gaussians import NAMES, Gaussians
from splat.rendering import Rendered, RenderOptions, draw, front_end, render


@dataclass(frozen=True)
class LearningRates:
    """Step lengths of Adam, those of 3DGS. `means` is in world units: multiply it by the extent of the scene."""

    means: float = 1.6e-4
    quats: float = 1e-3
    log_scales: float = 5e-3
    opacity_logits: float = 5e-2
    sh0: float = 2.5e-3
    shN: float = 1.25e-4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be a finite learning rate, not negative, got {value}")


@dataclass(frozen=True)
class Penalties:
    """Parts of the loss that depend on the Gaussians alone, as 3DGS-MCMC has them; part of the fused step."""

    opacity: float = 0.0
    """Weight of the mean opacity."""
    scale: float = 0.0
    """Weight of the mean scale, over all axes."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be a finite weight, not negative, got {value}")

    def of(self, gaussians: Gaussians) -> Tensor:
        """[]"""
        total = gaussians.means.new_zeros(())
        if self.opacity:
            total = total + self.opacity * gaussians.opacities.mean()
        return total + self.scale * gaussians.scales.mean() if self.scale else total

    def pulls(self, count: int) -> tuple[float, float]:
        """The gradients of one opacity and of one scale among those of `count` Gaussians."""
        return self.opacity / max(1, count), self.scale / max(1, 3 * count)


@dataclass(frozen=True)
class Step:
    """What a training step went through."""

    loss: Tensor
    """[], without the penalties."""
    rendered: Rendered
    """Before the step. `rendered.info.splats.means2d.grad` [C, N, 2] is what densification looks at."""


@dataclass(frozen=True)
class _Pass:
    """What a step renders, and how."""

    cameras: Cameras
    loss_of: Callable[[Rendered], Tensor]
    background: Tensor | None
    degree: int
    options: RenderOptions
    ids: Tensor | None
    backend: Backend | None

    def overflowed(self, view: Rendered) -> Tensor | None:
        """bool []: the tile lists did not fit; None where they had all the room they wanted."""
        room, tiles = self.options.room, view.info.tiles
        return None if room is None or tiles is None else tiles.overflowed(room)


class GaussianAdam:
    """The six tensors of a scene and their Adam moments.

    A step for one camera is fused: the projection's and the harmonics' backward passes and Adam are one kernel, and no
    gradient of the scene is ever stored. It waits for nothing on a GPU and can be captured in a CUDA graph (with
    `RenderOptions.room`, see docs/backends.md): learning rates are a tensor, and a step whose tile lists did not fit
    changes nothing.
    """

    def __init__(
        self,
        gaussians: Gaussians,
        rates: LearningRates = LearningRates(),
        *,
        rule: AdamRule = AdamRule(),
        visible_only: bool = False,
        penalties: Penalties = Penalties(),
    ) -> None:
        """
        Args:
            gaussians: the start; copied.
            visible_only: Gaussians that no camera of the step sees stay as they are, moments and step counts too
                (Taming 3DGS's sparse Adam). Default: they move on by their moments.
            penalties: what each step's loss holds besides what it is given.
        """
        self.gaussians = gaussians.map(lambda t: t.detach().clone(memory_format=torch.contiguous_format))
        self.rule, self.visible_only, self.penalties = rule, visible_only, penalties
        self.exp_avg = {name: torch.zeros_like(t) for name, t in self.gaussians.parameters().items()}
        self.exp_avg_sq = {name: torch.zeros_like(t) for name, t in self.gaussians.parameters().items()}
        device = self.gaussians.means.device
        self.steps = torch.zeros(len(gaussians), dtype=torch.int32, device=device)
        """int32 [N]: steps that each Gaussian has made."""
        self.rates = torch.tensor(astuple(rates), device=device)
        """[6] learning rates, in the order of LearningRates."""

    def set_rates(self, rates: LearningRates) -> None:
        """Changes the learning rates, also of captured steps."""
        self.rates.copy_(torch.tensor(astuple(rates)))

    def step(
        self,
        cameras: Cameras,
        loss_of: Callable[[Rendered], Tensor],
        *,
        background: Tensor | None = None,
        sh_degree: int | None = None,
        options: RenderOptions = RenderOptions(),
        ids: Tensor | None = None,
        fused: bool | None = None,
        backend: Backend | None = None,
    ) -> Step:
        """Renders, differentiates and moves the Gaussians by one step of Adam.

        Args:
            loss_of: the loss [] of what was rendered. Other tensors that it depends on get their `.grad` as usual.
            background, sh_degree, options, ids, backend: as for `splat.render`.
            fused: default: where it can be, which is one camera whose viewmats and Ks need no gradient, on the cpu or
                cuda backend. False where the loss also depends on `self.gaussians` themselves: their tensors then
                require gradients while it is called.

        Where `options.room` did not suffice nothing moves: look at `rendered.info.tiles.overflowed(options.room)`.
        """
        degree = self.gaussians.sh_degree if sh_degree is None else sh_degree
        check_int("sh_degree", degree, 0, self.gaussians.sh_degree)
        can = (
            len(cameras) == 1
            and not (cameras.viewmats.requires_grad or cameras.Ks.requires_grad)
            and choose_backend(self.gaussians.means, backend) != "reference"
        )
        if fused and not can:
            raise ValueError("fused needs one camera, without gradients of viewmats and Ks, on the cpu or cuda backend")
        this = _Pass(cameras, loss_of, background, degree, options, ids, backend)
        return self._fused(this) if (can if fused is None else fused) else self._by_stages(this)

    def _fused(self, this: _Pass) -> Step:
        cameras, options = this.cameras, this.options
        with torch.no_grad():
            made, colors = front_end(self.gaussians, cameras, this.degree, options, this.backend)
        leaves = [t.requires_grad_(True) for t in (made.means2d, made.depths, made.conics, made.opacities, colors)]
        with torch.enable_grad():
            view = draw(
                self.gaussians,
                cameras,
                made,
                colors,
                background=this.background,
                options=options,
                ids=this.ids,
                backend=this.backend,
            )
            loss = this.loss_of(view)
            loss.backward()  # type: ignore[no-untyped-call]
        grads = [torch.zeros_like(t) if t.grad is None else t.grad for t in leaves]
        o = options.project
        torch.ops.splat.step(
            list(self.gaussians.parameters().values()),
            [self.exp_avg[name] for name in NAMES],
            [self.exp_avg_sq[name] for name in NAMES],
            self.steps,
            self.rates,
            cameras.viewmats,
            cameras.Ks,
            cameras.width,
            cameras.height,
            *(o.eps2d, o.near_plane, o.far_plane, o.radius_clip, CAMERA_MODELS.index(cameras.camera_model)),
            o.antialiased,
            this.degree,
            made.radii,
            colors,
            *grads,
            *astuple(self.rule),
            *self.penalties.pulls(len(self.gaussians)),
            self.visible_only,
            this.overflowed(view),
        )
        return Step(loss.detach(), view)

    def _by_stages(self, this: _Pass) -> Step:
        params = self.gaussians.parameters()
        for param in params.values():
            param.requires_grad_(True).grad = None
        with torch.enable_grad():
            view = render(
                self.gaussians,
                this.cameras,
                background=this.background,
                sh_degree=this.degree,
                options=this.options,
                ids=this.ids,
                backend=this.backend,
            )
            if view.info.splats.means2d.requires_grad:
                view.info.splats.means2d.retain_grad()
            loss = this.loss_of(view)
            (loss + self.penalties.of(self.gaussians)).backward()  # type: ignore[no-untyped-call]
        for param in params.values():
            param.requires_grad_(False)
        overflowed = this.overflowed(view)
        if overflowed is None or not bool(overflowed):
            rows = (view.info.splats.radii > 0).all(-1).any(0).nonzero()[:, 0] if self.visible_only else None
            self._adam(rows)
        for param in params.values():
            param.grad = None
        return Step(loss.detach(), view)

    @torch.no_grad()
    def _adam(self, rows: Tensor | None) -> None:
        """Adam on the tensors' gradients, of all Gaussians or of some."""
        if rows is None:
            self.steps += 1
        else:
            self.steps[rows] += 1
        for (name, param), rate in zip(self.gaussians.parameters().items(), self.rates.tolist(), strict=True):
            grad = torch.zeros_like(param) if param.grad is None else param.grad
            moments = (self.exp_avg[name], self.exp_avg_sq[name])
            if rows is None:
                adam_step(param, grad, *moments, self.steps, rate, self.rule)
                continue
            some = [param[rows], moments[0][rows], moments[1][rows]]
            adam_step(some[0], grad[rows], some[1], some[2], self.steps[rows], rate, self.rule)
            for table, value in zip((param, *moments), some, strict=True):
                table[rows] = value
