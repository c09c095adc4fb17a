"""gsplat 1.5.3's own strategy classes and torch's Adam, as its simple_trainer has them, for scripts/bench_train.py.

The rasteriser is ours behind gsplat's names, since gsplat's runs on CUDA alone: what is compared is the schedule.
"""

from __future__ import annotations

import torch

import splat.compat.gsplat as ours
from splat.compat.gsplat.relocation import compute_relocation
from splat.core.random import Purpose, permutation
from splat.gaussians import Gaussians
from splat.loss import photometric_loss
from splat.scene.config import TrainConfig
from splat.scene.data import Capture, PhotoCache

NAMES = {
    "means": "means",
    "quats": "quats",
    "log_scales": "scales",
    "opacity_logits": "opacities",
    "sh0": "sh0",
    "shN": "shN",
}
"""Our names of the parameters, and gsplat's."""


def train_with_gsplat(
    start: Gaussians, capture: Capture, photos: PhotoCache, config: TrainConfig, background: torch.Tensor
) -> Gaussians:
    """Trains as gsplat's simple_trainer does, its steps scaled from 30,000 to the configuration's."""
    import gsplat
    import gsplat.strategy.ops

    # Theirs are CUDA alone; ours are checked against the formulae and gsplat's torch functions in the tests.
    gsplat.strategy.ops.compute_relocation = compute_relocation
    gsplat.strategy.ops.quat_scale_to_covar_preci = ours.quat_scale_to_covar_preci
    steps = config.steps
    scale = steps / 30_000
    rates = config.rates.at(0, capture.extent)
    params = torch.nn.ParameterDict(
        {theirs: torch.nn.Parameter(getattr(start, mine).clone()) for mine, theirs in NAMES.items()}
    )
    optimizers = {
        theirs: torch.optim.Adam([params[theirs]], lr=rates[mine], eps=1e-15, betas=(0.9, 0.999))
        for mine, theirs in NAMES.items()
    }
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizers["means"], gamma=0.01 ** (1 / steps))
    common = {"refine_every": config.schedule.refine_every, "refine_start_iter": round(500 * scale), "verbose": False}
    if config.strategy == "mcmc":
        strategy = gsplat.MCMCStrategy(cap_max=config.max_gaussians, refine_stop_iter=round(25_000 * scale), **common)
        state = strategy.initialize_state()
    else:
        strategy = gsplat.DefaultStrategy(refine_stop_iter=round(15_000 * scale), reset_every=3_000, **common)
        state = strategy.initialize_state(scene_scale=capture.extent)
    strategy.check_sanity(params, optimizers)
    torch.manual_seed(config.seed)
    train = capture.train
    for step in range(steps):
        epoch, place = divmod(step, len(train))
        row = train[permutation(config.seed, epoch, Purpose.VIEW_ORDER, len(train))[place]]
        photo, camera = photos.get(row), capture.camera(row)
        target = photo.rgb.float() / 255
        if photo.alpha is not None:
            alpha = photo.alpha.float()[..., None] / 255
            target = target * alpha + background * (1 - alpha)
        until = config.schedule.harmonics_until * steps
        degree = min(config.sh_degree, int(step / until * (config.sh_degree + 1)) if until else config.sh_degree)
        colors, _, info = ours.rasterization(
            params["means"],
            params["quats"],
            params["scales"].exp(),
            params["opacities"].sigmoid(),
            torch.cat([params["sh0"], params["shN"]], 1),
            camera.viewmats,
            camera.Ks,
            camera.width,
            camera.height,
            sh_degree=degree,
            packed=False,
            backgrounds=background[None],
        )
        strategy.step_pre_backward(params, optimizers, state, step, info)
        loss = photometric_loss(colors, target[None])
        if config.strategy == "mcmc":
            loss = loss + 0.01 * params["opacities"].sigmoid().mean() + 0.01 * params["scales"].exp().mean()
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        scheduler.step()
        more = {"lr": scheduler.get_last_lr()[0]} if config.strategy == "mcmc" else {"packed": False}
        strategy.step_post_backward(params, optimizers, state, step, info, **more)
    return Gaussians(**{mine: params[theirs].detach() for mine, theirs in NAMES.items()})
