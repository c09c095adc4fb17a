"""Adaptive density control of 3DGS (Kerbl et al. 2023, section 5): clone, split and prune by the screen gradient."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from splat.core.random import Purpose, normal
from splat.core.reference.project import rotation
from splat.gaussians import Gaussians
from splat.scene.config import DefaultConfig
from splat.scene.densify.base import Edit, Moment, View, logit, sigmoid
from splat.scene.densify.surgery import then


class DefaultStrategy:
    """`DefaultConfig` at work. `budget` caps the count: the largest gradients grow first."""

    needs_gradients = True

    def __init__(self, config: DefaultConfig = DefaultConfig(), budget: int | None = None) -> None:
        self.config, self.budget = config, budget

    def initial_statistics(self, count: int, device: torch.device) -> dict[str, Tensor]:
        """`grad2d`: sum of the gradients' lengths; `seen`: number of views."""
        return {name: torch.zeros(count, device=device) for name in ("grad2d", "seen")}

    def observe(self, statistics: dict[str, Tensor], view: View) -> None:
        """Gradients count in units of half a picture, as in 3DGS."""
        half = view.gradients.new_tensor([view.width / 2, view.height / 2])
        statistics["grad2d"] += (view.gradients * half).square().sum(-1).sqrt()  # 0 where it is not seen
        statistics["seen"] += (view.radii > 0).all(-1)

    def refine(
        self, gaussians: Gaussians, ids: Tensor, statistics: dict[str, Tensor], moment: Moment
    ) -> tuple[Edit | None, str]:
        """Grow and prune; afterwards the statistics count from zero."""
        c = self.config
        if not c.start < moment.progress < c.stop:
            return None, ""
        score = statistics["grad2d"] / statistics["seen"].clamp_min(1)
        grow = score > c.grow_grad2d
        if self.budget is not None:
            grow &= _largest(score, max(0, self.budget - len(gaussians)))
        small = gaussians.scales.amax(-1) <= c.grow_scale3d * moment.extent
        edit = grown(gaussians, ids, grow & small, grow & ~small, moment, c.revised_opacity)
        opacities = sigmoid(edit.values["opacity_logits"])
        keep = opacities >= c.prune_opacity
        if moment.iteration > c.reset_every > 0:
            keep &= edit.values["log_scales"].amax(-1).exp() <= c.prune_scale3d * moment.extent
        edit = then(edit, keep.nonzero()[:, 0])
        for table in statistics.values():
            table.zero_()
        made, kept = edit.counts
        return edit, f"+{made:,} -{len(gaussians) - kept:,}"

    def reset_due(self, moment: Moment) -> bool:
        """Whether opacities are to be reset at this refinement."""
        every, since = self.config.reset_every, moment.iteration - moment.images
        return every > 0 and moment.progress < self.config.stop and moment.iteration // every > since // every

    def reset(self, gaussians: Gaussians) -> Tensor:
        """[N] opacity logits of at most 2 x prune_opacity."""
        cap = 2 * self.config.prune_opacity
        return gaussians.opacity_logits.clamp_max(math.log(cap / (1 - cap)))


def _largest(score: Tensor, count: int) -> Tensor:
    """bool [N]: among the `count` largest; of equal ones the first."""
    mask = torch.zeros_like(score, dtype=torch.bool)
    mask[score.argsort(descending=True, stable=True)[:count]] = True
    return mask


def grown(
    gaussians: Gaussians, ids: Tensor, clone: Tensor, split: Tensor, moment: Moment, revised_opacity: bool = False
) -> Edit:
    """Those of the mask `clone` [N] twice; instead of those of `split` [N] two halves each, drawn from the parent.

    The order is that of gsplat: who stays, clones, first halves, second halves. All values but the harmonics are in the
    edit's `values`.
    """
    stay, clones, parents = ((mask).nonzero()[:, 0] for mask in (~split, clone, split))
    rows = torch.cat([stay, clones, parents, parents])
    children = torch.zeros_like(rows)
    children[len(stay) : len(stay) + len(clones)] = 1
    children[len(stay) + len(clones) :] = 1
    children[len(rows) - len(parents) :] = 2
    means, log_scales, logits = (getattr(gaussians, n)[rows] for n in ("means", "log_scales", "opacity_logits"))
    halves = slice(len(stay) + len(clones), None)
    if len(parents):
        of = parents.repeat(2)
        noise = normal(moment.seed, moment.iteration, Purpose.SPLIT, ids[parents], 6).view(-1, 2, 3)
        noise = torch.cat([noise[:, 0], noise[:, 1]])
        turned = rotation(gaussians.quats[of]) @ (gaussians.log_scales[of].exp() * noise)[..., None]
        means[halves] += turned[..., 0]
        log_scales[halves] -= math.log(1.6)
        if revised_opacity:
            logits[halves] = logit(1 - (1 - sigmoid(gaussians.opacity_logits[of])).sqrt())
    return Edit(rows, children, children > 0, {"means": means, "log_scales": log_scales, "opacity_logits": logits})


def opacity_reset(edit: Edit, logits: Tensor) -> Edit:
    """The edit with these opacity logits [M], whose moments begin anew."""
    return replace(edit, values=edit.values | {"opacity_logits": logits}, restart=("opacity_logits",))
