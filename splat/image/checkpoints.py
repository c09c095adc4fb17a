"""Checkpoints of GaussianImage (Zhang et al. 2024) and Image-GS (Zhang et al. 2025), read and written.

Both put pixel centres at whole numbers, so their positions lie half a pixel left of and above ours, and both turn their
Gaussians from y towards x, so their angles have the other sign. Neither says how large its picture is.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args
from zipfile import BadZipFile

import torch
from torch import Tensor

from splat.core.checks import Arguments, check_size
from splat.core.finite import finite_rows
from splat.files import atomic_write
from splat.image.canvas import OrderFree
from splat.image.layout import Layout, Mode
from splat.image.model import TENSORS, ImageGaussians, axes_of_root
from splat.image.objective import Objective
from splat.image.solve import solve_colors

Kind = Literal["gaussianimage", "gaussianimage-rs", "image-gs"]
"""gaussianimage has a Cholesky factor for a shape, gaussianimage-rs two scales and a rotation, like image-gs."""
KINDS: tuple[Kind, ...] = get_args(Kind)

_MODES: dict[int, Mode] = {1: "L", 3: "RGB", 4: "RGBA"}
"""What so many features are taken for."""
_BOUND = 0.5
"""GaussianImage adds it to the stored scales, and to the diagonal of the Cholesky factor."""
IMAGE_GS_K = 10
"""Gaussians per pixel, a constant of Image-GS's kernel."""
_IMAGE_GS_RATES = {"xy": 5e-4, "scale": 2e-3, "rot": 2e-3, "feat": 5e-3}
_SOLVE_STEPS = 30
_EDGE = 1 - 2.0**-20
"""Farthest position, of 1, that is written for GaussianImage: beyond it atanh has no float32 to spare."""


def load_checkpoint(
    path: str | Path,
    *,
    width: int | None = None,
    height: int | None = None,
    features: tuple[int, int] | None = None,
    inverse_scale: bool = True,
) -> ImageGaussians:
    """The model in a checkpoint: GaussianImage's gaussian_model.pth.tar or Image-GS's ckpt_step-N.pt, told apart by the
    tensors in it.

    Of a GaussianImage checkpoint that was trained with quantisation, the float parameters are taken as they are. An
    Image-GS checkpoint of a run with gamma holds the picture with its values raised to it.

    Args:
        width, height: size of the fitted picture in pixels, which no checkpoint holds.
        features: of an Image-GS stack of pictures, the first channel to take and the one after the last (default: all).
        inverse_scale: the Image-GS run stored 1 / scale (its default), not the scale.

    Raises:
        ValueError: no such file, not such a checkpoint, no size, or features that are not 1, 3 or 4 channels.
    """
    path = Path(path)
    state = _read_state(path)
    if width is None or height is None:
        raise ValueError(f"{path}: a checkpoint does not hold the picture's size; give its width and height in pixels")
    check_size(width, height)
    try:
        if "xy" in state:
            return _from_image_gs(state, width, height, features, inverse_scale)
        return _from_gaussianimage(state, width, height)
    except (KeyError, TypeError, ValueError) as error:
        what = f"it has no tensor {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: {what}") from error


@dataclass(frozen=True)
class Written:
    """What a checkpoint could not hold."""

    moved: int
    """Gaussians with a centre outside of what the format can say, put on its border."""
    farthest: float
    """Pixels that one of them was moved at most."""


def save_checkpoint(path: str | Path, model: ImageGaussians, kind: Kind) -> Written:
    """Writes a model so that the loader of the system that `kind` names takes it. The state of its optimiser is that of
    a run's start: the moments of Adam or Adan are not known. GaussianImage clamps what it draws to 0..1 and has its
    centres inside the picture; others are moved to the border.

    Raises:
        ValueError: `kind` cannot draw this model: another compositor, another number of channels.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    path = Path(path)
    model = model.map(lambda t: t.detach().cpu().double())
    written = Written(0, 0.0)
    content: dict[str, Any]
    if kind == "image-gs":
        content = _to_image_gs(model)
    else:
        content, written = _to_gaussianimage(model, "_rs" if kind == "gaussianimage-rs" else "_cholesky")
    with atomic_write(path) as temporary:
        torch.save(content, temporary)
    return written


def _read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, on the CPU in float64."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{path}: damaged, or not a checkpoint of tensors ({str(error).splitlines()[0]})") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not ("xy" in content or "_xyz" in content):
        raise ValueError(f"{path}: wanted a checkpoint of GaussianImage (with _xyz) or of Image-GS (with xy)")
    return {name: value.double() for name, value in content.items() if isinstance(value, Tensor)}


def _centres(shares: Tensor, width: int, height: int) -> Tensor:
    """Positions in shares of the picture's size [N, 2] -> pixels."""
    return shares * shares.new_tensor([width, height]) + 0.5


def _shares(means: Tensor, width: int, height: int) -> Tensor:
    """The other way round."""
    return (means - 0.5) / means.new_tensor([width, height])


def _model(
    means: Tensor, shape: tuple[Tensor, Tensor], colors: Tensor, size: tuple[int, int], blend: OrderFree
) -> ImageGaussians:
    """The model of those Gaussians that are finite, in float32."""
    mode = _MODES.get(colors.shape[1])
    if mode is None:
        raise ValueError(
            f"its Gaussians have {colors.shape[1]} features, a stack of pictures; choose 1, 3 or 4 of them by features"
        )
    tensors = [t.float() for t in (means, *shape, colors)]
    finite = torch.stack([finite_rows(t, 0) for t in tensors]).all(0)
    rows = [t[finite].contiguous() for t in tensors]
    return ImageGaussians(rows[0], rows[1], rows[2], rows[3], *size, Layout.of(mode), blend, IMAGE_GS_K)


def _from_gaussianimage(state: dict[str, Tensor], width: int, height: int) -> ImageGaussians:
    check = Arguments()
    check.tensor("_xyz", state["_xyz"], "N", 2)
    check.tensor("_features_dc", state["_features_dc"], "N", 3)
    opacity = state.get("_opacity", torch.ones(len(state["_xyz"]), 1, dtype=torch.float64))
    check.tensor("_opacity", opacity, "N", 1)
    if "_scaling" in state:
        check.tensor("_scaling", state["_scaling"], "N", 2)
        check.tensor("_rotation", state["_rotation"], "N", 1)
        scales = (state["_scaling"] + state.get("bound", torch.tensor(_BOUND))).abs()
        shape = scales.log(), -2 * math.pi * state["_rotation"][:, 0].sigmoid()
    else:
        check.tensor("_cholesky", state["_cholesky"], "N", 3)
        diagonal = torch.tensor([_BOUND, 0, _BOUND], dtype=torch.float64)
        l1, l2, l3 = (state["_cholesky"] + state.get("cholesky_bound", diagonal)).unbind(1)
        root = torch.stack([torch.stack([l1, torch.zeros_like(l1)], 1), torch.stack([l2, l3], 1)], 1)
        shape = axes_of_root(root.nan_to_num())
        shape = shape[0].where(root.isfinite().all(2), math.nan), shape[1]
    means = _centres(0.5 * (state["_xyz"].tanh() + 1), width, height)
    return _model(means, shape, state["_features_dc"] * opacity, (width, height), "sum")


def _from_image_gs(
    state: dict[str, Tensor], width: int, height: int, features: tuple[int, int] | None, inverse_scale: bool
) -> ImageGaussians:
    check = Arguments()
    check.tensor("xy", state["xy"], "N", 2)
    check.tensor("scale", state["scale"], "N", 2)
    check.tensor("rot", state["rot"], "N", 1)
    check.tensor("feat", state["feat"], "N", "C")
    count = state["feat"].shape[1]
    first, end = features or (0, count)
    if not 0 <= first < end <= count:
        raise ValueError(f"features must be a first channel and one after the last, in 0 .. {count}, got {features}")
    log_scales = state["scale"].abs().log() * (-1 if inverse_scale else 1)
    means = _centres(state["xy"], width, height)
    shape = log_scales, -state["rot"][:, 0]
    return _model(means, shape, state["feat"][:, first:end], (width, height), "topk")


def _drawn(model: ImageGaussians) -> ImageGaussians:
    """The same picture without a dilation: the Gaussians as large, and their colours as faint, as it draws them."""
    if not model.dilation:
        return model
    spread = (2 * model.log_scales).exp() + model.dilation
    fainter = (model.log_scales.sum(1) - 0.5 * spread.log().sum(1)).exp()
    return replace(model, log_scales=0.5 * spread.log(), colors=model.colors * fainter[:, None], dilation=0.0)


def _colors_after(model: ImageGaussians, means: Tensor) -> Tensor:
    """[N, D] colours with which the picture stays as it was, as far as it can, when the Gaussians lie elsewhere."""
    with torch.no_grad():
        objective = Objective.of(model.render().float(), options=model.options)
        there = {name: getattr(model, name).float() for name in TENSORS} | {"means": means.float()}
        colors = solve_colors(objective.color_system(there), objective.target_tiles, there["colors"], _SOLVE_STEPS)
        return colors.to(model.colors.dtype)


def _to_gaussianimage(model: ImageGaussians, shape: str) -> tuple[dict[str, Tensor], Written]:
    if model.blend != "sum" or model.layout.mode != "RGB":
        got = f"{model.layout.mode or f'{model.layout.channels} channels'} of blend {model.blend}"
        raise ValueError(f"GaussianImage draws RGB of blend sum, the model is {got}")
    model = _drawn(model)
    wanted = 2 * _shares(model.means, model.width, model.height) - 1
    kept = wanted.clamp(-_EDGE, _EDGE)
    away = 0.5 * (wanted - kept) * wanted.new_tensor([model.width, model.height])
    moved = (away.abs() > 1e-3).any(1)
    if bool(moved.any()):
        model = replace(model, colors=_colors_after(model, model.means - away))
    count = len(model)
    state = {"_xyz": kept.atanh(), "_features_dc": model.colors, "_opacity": torch.ones(count, 1)}
    scales = model.log_scales.exp()
    if shape == "_rs":
        # theta and theta + pi are one ellipse: the turn that is farther from the ends of the sigmoid is written.
        turn = (-model.angles / (2 * math.pi) - 0.25).remainder(0.5) + 0.25
        state |= {"_scaling": scales - _BOUND, "_rotation": turn.logit()[:, None]}
    else:
        cos, sin = model.angles.cos(), model.angles.sin()
        variances = scales.square()
        xx = variances[:, 0] * cos.square() + variances[:, 1] * sin.square()
        xy = (variances[:, 0] - variances[:, 1]) * cos * sin
        l1 = xx.sqrt()
        # det Sigma = (l1 l3)^2, which does not cancel where the Gaussian is thin.
        lower = torch.stack([l1, xy / l1, scales.prod(1) / l1], 1)
        bound = torch.tensor([[_BOUND, 0, _BOUND]])
        state |= {"_cholesky": lower - bound, "cholesky_bound": bound, "background": torch.ones(3)}
    state["bound"] = torch.full((1, 2), _BOUND)
    far = float(away[moved].norm(dim=1).max()) if bool(moved.any()) else 0.0
    return {name: value.float().contiguous() for name, value in state.items()}, Written(int(moved.sum()), far)


def _to_image_gs(model: ImageGaussians) -> dict[str, Any]:
    if (model.blend, model.topk) != ("topk", IMAGE_GS_K):
        got = f"topk:{model.topk}" if model.blend == "topk" else model.blend
        raise ValueError(f"Image-GS draws blend topk:{IMAGE_GS_K}, the model is of {got}")
    if model.dilation:
        raise ValueError(f"Image-GS knows no dilation, the model has {model.dilation:g} pixels^2")
    state = {
        "xy": _shares(model.means, model.width, model.height),
        "scale": (-model.log_scales).exp(),
        "rot": -model.angles[:, None],
        "feat": model.colors,
    }
    state = {name: value.float().contiguous() for name, value in state.items()}
    groups = [{"params": [state[name]], "lr": rate} for name, rate in _IMAGE_GS_RATES.items()]
    start = torch.optim.Adam(groups).state_dict()
    # Colours of the picture in which its Gaussians can be told apart.
    told_apart = torch.rand(model.colors.shape, generator=torch.Generator().manual_seed(0))
    return {"step": 0, "state_dict": {**state, "vis_feat": told_apart}, "optim_state_dict": start}
