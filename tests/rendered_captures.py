"""Small data sets on disk whose photos are renders, so that the scene they show is known exactly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import splat
from splat.cameras import Cameras
from splat.gaussians import Gaussians

BACKGROUND = torch.tensor([0.2, 0.4, 0.6])
TARGET = (4.0, -2.0, 1.0)
"""What the cameras look at: away from the origin, so that a forgotten normalisation shows."""


def ball(count: int = 60, seed: int = 0) -> Gaussians:
    """Gaussians around TARGET."""
    g = Gaussians.random(count, extent=0.8, sh_degree=1, seed=seed)
    shN = 0.2 * torch.randn(g.shN.shape, generator=torch.Generator().manual_seed(seed))
    logits = torch.full((count,), 1.5)
    return Gaussians(g.means + torch.tensor(TARGET), g.quats, g.log_scales - 0.3, logits, g.sh0, shN)


def ring(count: int = 10, width: int = 48, height: int = 36) -> Cameras:
    return Cameras.orbit(count, radius=3.5, width=width, height=height, target=TARGET, fov_y=45)


def write_data_set(folder: Path, pictures: list[Tensor], cameras: Cameras, masks: list[Tensor] | None = None) -> Path:
    """A folder with transforms.json as nerfstudio writes it; pictures [H, W, 3 or 4] in 0..1, masks bool [H, W]."""
    (folder / "images").mkdir(parents=True)
    c2w = torch.linalg.inv(cameras.viewmats) @ torch.diag(torch.tensor([1.0, -1, -1, 1]))
    frames = []
    for i, picture in enumerate(pictures):
        levels = (picture.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()
        Image.fromarray(levels).save(folder / "images" / f"view{i:02d}.png")
        frames.append({"file_path": f"images/view{i:02d}.png", "transform_matrix": c2w[i].tolist()})
        if masks is not None:
            (folder / "masks").mkdir(exist_ok=True)
            Image.fromarray(masks[i].numpy().astype(np.uint8) * 255).save(folder / "masks" / f"view{i:02d}.png")
    K = cameras.Ks[0]
    lens = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2]}
    size = {"w": cameras.width, "h": cameras.height}
    content = size | {name: float(value) for name, value in lens.items()} | {"frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def rendered_data_set(folder: Path, gaussians: Gaussians | None = None, cameras: Cameras | None = None) -> Path:
    """Photos of `ball` from `ring`, over BACKGROUND."""
    cameras = ring() if cameras is None else cameras
    pictures = splat.render(gaussians or ball(), cameras, background=BACKGROUND).color
    return write_data_set(folder, list(pictures), cameras)
