"""A training loop as one writes it for gsplat 1.5.3, on the bundled capture; only the import differs.

python examples/02_gsplat_code.py 500
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import splat
import splat.compat.gsplat as gsplat
from splat.scene.data import PhotoCache

CAPTURE = Path(__file__).parents[1] / "scenes" / "saharov"
RATES = {"means": 1.6e-4, "scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "sh0": 2.5e-3, "shN": 1.25e-4}


def main(steps: str = "500") -> None:
    capture = splat.load_capture(CAPTURE)
    start = splat.Gaussians.from_points(capture.points, capture.colors, sh_degree=1)
    values = [start.means, start.log_scales, start.quats, start.opacity_logits, start.sh0, start.shN]
    params = torch.nn.ParameterDict({name: torch.nn.Parameter(v) for name, v in zip(RATES, values, strict=True)})
    optimizers = {name: torch.optim.Adam([params[name]], lr=rate, eps=1e-15) for name, rate in RATES.items()}
    strategy = gsplat.DefaultStrategy(refine_start_iter=100, refine_every=50)
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state(scene_scale=capture.extent)
    with PhotoCache(capture.views) as photos:
        for step in range(int(steps)):
            row = capture.train[step % len(capture.train)]
            camera, target = capture.camera(row), photos.get(row).rgb[None] / 255
            colors, _, info = gsplat.rasterization(
                params["means"],
                params["quats"],
                params["scales"].exp(),
                params["opacities"].sigmoid(),
                torch.cat([params["sh0"], params["shN"]], 1),
                camera.viewmats,
                camera.Ks,
                camera.width,
                camera.height,
                sh_degree=1,
                packed=False,
            )
            strategy.step_pre_backward(params, optimizers, state, step, info)
            loss = (colors - target).abs().mean()
            loss.backward()
            for optimizer in optimizers.values():
                optimizer.step()
                optimizer.zero_grad()
            strategy.step_post_backward(params, optimizers, state, step, info)
            if step % 100 == 0:
                print(f"{step:5d}  loss {float(loss.detach()):.4f}  {len(params['means']):,} Gaussians")


if __name__ == "__main__":
    main(*sys.argv[1:])
