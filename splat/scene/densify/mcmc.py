"""3D Gaussian splatting as Markov chain Monte Carlo (Kheradmand et al. 2024): Gaussians that nobody sees move to where
opaque ones are, new ones join them, and all move by noise where they are faint."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from splat.core.random import Purpose, normal, weighted_samples
from splat.core.reference.project import rotation
from splat.gaussians import Gaussians
from splat.scene.config import McmcConfig
from splat.scene.densify.base import Edit, Moment, View, keep_all, logit, sigmoid

MOST_COPIES = 51
"""Copies of one Gaussian that equation 9 is evaluated for, as in the authors' code: more would cancel in float32."""
NOISY = 0.15
"""Opacity from which there is no noise: its gate, 1 / (1 + exp(100 (opacity - 0.005))), is below a millionth."""


class McmcStrategy:
    """`McmcConfig` at work on the way to `budget` Gaussians."""

    needs_gradients = False

    def __init__(self, config: McmcConfig = McmcConfig(), budget: int = 1_000_000) -> None:
        self.config, self.budget = config, budget

    def initial_statistics(self, count: int, device: torch.device) -> dict[str, Tensor]:
        """None."""
        return {}

    def observe(self, statistics: dict[str, Tensor], view: View) -> None:
        """Nothing."""

    def refine(
        self, gaussians: Gaussians, ids: Tensor, statistics: dict[str, Tensor], moment: Moment
    ) -> tuple[Edit | None, str]:
        """Relocate the dead, then grow."""
        c = self.config
        if not c.start < moment.progress < c.stop:
            return None, ""
        count = len(gaussians)
        dead = (sigmoid(gaussians.opacity_logits) <= c.min_opacity) | ~gaussians.valid
        new = max(0, self.target(count, moment) - count)
        edit = moved_and_added(gaussians, dead, new, moment, c.min_opacity)
        return edit, f"{int(dead.sum()):,} moved, +{new:,}"

    def target(self, count: int, moment: Moment) -> int:
        """How many there should be: the budget at `grow_until`, and on the way there what leads to it evenly."""
        c = self.config
        if count >= self.budget or count == 0:
            return count
        left = c.grow_until - moment.progress
        faster = math.ceil(1.05 * count)
        if left <= 0:
            return min(self.budget, faster)
        share = moment.share / max(moment.share, left + moment.share)  # this refinement's part of the way
        return min(self.budget, max(faster, round(count * math.exp(share * math.log(self.budget / count)))))

    @torch.no_grad()
    def add_noise(self, gaussians: Gaussians, ids: Tensor, iteration: int, seed: int, learning_rate: float) -> None:
        """Moves the means in place, at iterations that are multiples of `noise_every`."""
        c = self.config
        if c.noise <= 0 or iteration % c.noise_every:
            return
        opacities = sigmoid(gaussians.opacity_logits)
        rows = (opacities < NOISY).nonzero()[:, 0]
        gate = sigmoid(100 * (0.005 - opacities[rows]))
        scale = learning_rate * c.noise * math.sqrt(c.noise_every)
        draws = normal(seed, iteration, Purpose.NOISE, ids[rows], 3) * (gate * scale)[:, None]
        gaussians.means[rows] += covariance_times(gaussians.select(rows), draws)


def covariance_times(gaussians: Gaussians, vectors: Tensor) -> Tensor:
    """[N, 3]: each Gaussian's covariance times its vector [N, 3]."""
    turn = rotation(gaussians.quats)
    along = (turn.mT @ vectors[..., None]) * (2 * gaussians.log_scales).exp()[..., None]
    return (turn @ along)[..., 0]


def relocation(opacities: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """The opacity of each of `copies` equal Gaussians that together look like one, and the factor of their scales.

    3DGS-MCMC, equation 9: o' = 1 - (1 - o)^(1/n), s' = s o / sum_{i=1..n} sum_{k=0..i-1} C(i-1, k) (-1)^k o'^(k+1) /
    sqrt(k + 1).

    Args:
        opacities: [R] in 0..1.
        copies: int64 [R], from 1 to MOST_COPIES.
    """
    o = opacities.to(torch.float64)
    n = copies.clamp(1, MOST_COPIES)
    new = -torch.expm1(torch.log1p(-o) / n)
    # Summed over i first: sum_{i=k+1..n} C(i-1, k) = C(n, k+1).
    total = torch.zeros_like(o)
    powers = torch.ones_like(o)
    table = _binomials(o.device)
    for k in range(int(n.max()) if len(n) else 0):
        powers = powers * new
        total += table[n, k + 1] * (-1) ** k * powers / math.sqrt(k + 1)
    return new.to(opacities.dtype), (o / total).to(opacities.dtype)


def _binomials(device: torch.device) -> Tensor:
    """float64 [MOST_COPIES + 1, MOST_COPIES + 1]: C(n, k)."""
    size = MOST_COPIES + 1
    return torch.tensor([[math.comb(n, k) for k in range(size)] for n in range(size)], dtype=torch.float64).to(device)


def moved_and_added(gaussians: Gaussians, dead: Tensor, new: int, moment: Moment, min_opacity: float) -> Edit:
    """The dead (mask [N]) become copies of living ones drawn by opacity, and `new` more are appended.

    One draw serves both. Whoever is copied, and its copies, get the opacity and scale of `relocation`, and moments that
    begin anew.
    """
    alive = (~dead).nonzero()[:, 0]
    gone = dead.nonzero()[:, 0]
    wanted = len(gone) + new
    edit = keep_all(len(gaussians), gaussians.means.device)
    opacities = sigmoid(gaussians.opacity_logits)
    if not len(alive) or not wanted:
        return edit
    parents = alive[weighted_samples(moment.seed, moment.iteration, opacities[alive], wanted)]
    places = torch.cat([gone, torch.arange(len(gaussians), len(gaussians) + new, device=gone.device)])
    rows = torch.cat([edit.rows, edit.rows.new_zeros(new)])
    rows[places] = parents
    children = torch.zeros_like(rows)
    children[places] = _nth(parents)
    copies = torch.bincount(parents, minlength=len(gaussians)) + 1
    o, factor = relocation(opacities, copies)
    changed = copies[rows] > 1
    o = o.clamp(min_opacity, 1 - torch.finfo(o.dtype).eps)
    logits = torch.where(changed, logit(o)[rows], gaussians.opacity_logits[rows])
    log_scales = (
        gaussians.log_scales[rows] + torch.where(changed, factor.log()[rows], torch.zeros_like(logits))[:, None]
    )
    return Edit(rows, children, changed, {"opacity_logits": logits, "log_scales": log_scales})


def _nth(values: Tensor) -> Tensor:
    """int64 [R]: 1 at the first place where a value stands, 2 at the second, and so on."""
    order = values.argsort(stable=True)
    ordered = values[order]
    starts = torch.searchsorted(ordered, ordered)
    numbers = torch.empty_like(values)
    numbers[order] = torch.arange(len(values), device=values.device) - starts + 1
    return numbers
