"""What a rendered view is compared with, and how: the loss of a training step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from splat.core.ops import Backend
from splat.core.random import Purpose, uniform
from splat.loss import photometric_loss
from splat.optim import Penalties
from splat.rendering import Rendered
from splat.scene.background import Background, composite
from splat.scene.config import TrainConfig
from splat.scene.corrections import Corrections
from splat.scene.data.capture import Capture
from splat.scene.data.photos import Photo
from splat.scene.depth import depth_map_loss, sparse_depth_loss


@dataclass(frozen=True)
class Target:
    """What a view should look like."""

    row: int
    """Of `Capture.views`."""
    image: Tensor
    """[H, W, 3] in 0..1, on the background; 0 where it does not count."""
    background: Tensor
    """[3]"""
    mask: Tensor | None
    """bool [H, W, 1]: counts in the loss."""
    depth: Tensor | None
    """[H, W] normalised world units; 0: not known."""


class Objective:
    """The loss of the views of a capture."""

    def __init__(
        self,
        capture: Capture,
        config: TrainConfig,
        corrections: Corrections,
        device: torch.device,
        backend: Backend | None = None,
    ) -> None:
        self.capture, self.config, self.corrections = capture, config, corrections
        self.device, self.backend = device, backend
        self.background = background_of(capture, config)
        self._still = self.background.still(device)
        if config.loss.depth == "points" and not any(len(capture.views[row].keypoints) for row in capture.train):
            raise ValueError(f"{capture.path}: depth=points wants sparse points with tracks, which this data set lacks")
        if config.loss.depth == "maps" and not any(capture.views[row].photo.depth for row in capture.train):
            raise ValueError(f"{capture.path}: depth=maps wants depth maps, and no training picture has one (--depths)")

    def target(self, row: int, photo: Photo, image_count: int) -> Target:
        """The photograph of a view on the background of this step."""
        if self.background.random:
            one = torch.zeros(1, dtype=torch.int64)
            numbers = uniform(self.config.seed, image_count, Purpose.BACKGROUND, one, 3)[0]
            background = self.background.draw(numbers.to(self.device))
        else:
            background = self._still
        image = photo.rgb.to(self.device).to(torch.float32) / 255
        if photo.alpha is not None:
            image = composite(image, photo.alpha.to(self.device).to(torch.float32) / 255, background)
        mask = None if photo.mask is None else photo.mask.to(self.device)[..., None]
        if mask is not None:
            image = torch.where(mask, image, 0)
        depth = photo.depth if self.config.loss.depth == "maps" else None
        return Target(row, image, background, mask, None if depth is None else depth.to(self.device))

    def __call__(self, view: Rendered, target: Target) -> Tensor:
        """[] the loss, but for what depends on the Gaussians alone (see `penalties_of`)."""
        image = self.corrections.color(view.color[0], target.row)
        if target.mask is not None:
            image = torch.where(target.mask, image, 0)  # as in the target: equal there, and without a gradient
        loss = photometric_loss(image, target.image, ssim_weight=self.config.loss.ssim, backend=self.backend)
        for term in (self._depth(view, target), self.corrections.penalty(target.row)):
            loss = loss if term is None else loss + term
        return loss

    def _depth(self, view: Rendered, target: Target) -> Tensor | None:
        weight = self.config.loss.depth_weight
        if self.config.loss.depth == "points":
            source = self.capture.views[target.row]
            if not len(source.keypoints):
                return None
            height, width = target.image.shape[:2]
            places = source.keypoints * source.keypoints.new_tensor([width / source.width, height / source.height])
            points = self.capture.points[source.point_rows]
            depths = points @ source.viewmat[2, :3] + source.viewmat[2, 3]
            return weight * sparse_depth_loss(view.depth[0, ..., 0], places.to(self.device), depths.to(self.device))
        if target.depth is not None:
            mask = None if target.mask is None else target.mask[..., 0]
            return weight * depth_map_loss(view.depth[0, ..., 0], view.alpha[0, ..., 0], target.depth, mask)
        return None


def penalties_of(config: TrainConfig) -> Penalties:
    """The parts of the loss that depend on the Gaussians alone."""
    mcmc = config.mcmc
    return Penalties(mcmc.opacity_weight, mcmc.scale_weight) if config.strategy == "mcmc" else Penalties()


def background_of(capture: Capture, config: TrainConfig) -> Background:
    """What the configuration says; for auto white where the pictures carry alpha, black otherwise."""
    choice = config.loss.background
    return Background.parse(("white" if capture.has_alpha else "black") if choice == "auto" else choice)
