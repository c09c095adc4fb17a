"""What users get wrong is one short error that names the argument, what was wanted and what came."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from splat import (
    Cameras,
    Gaussians,
    ProjectOptions,
    RasterizeOptions,
    photometric_loss,
    render,
)
from splat.core.binning import bin_splats
from splat.core.rasterize import rasterize
from splat.core.sh import sh_colors
from tests.scenes import scene3d, splats2d


def gaussians() -> Gaussians:
    return Gaussians.random(6, sh_degree=1)


def cameras() -> Cameras:
    return Cameras.orbit(2, radius=4, width=20, height=16)


def sh(**change: Any) -> Any:
    s = scene3d(6)
    radii = torch.ones(2, 6, 2, dtype=torch.int32)
    names = {"means": s.means, "viewmats": s.viewmats, "sh0": s.sh0, "shN": s.shN, "radii": radii, "degree": 2}
    return sh_colors(**(names | change))


def bin_(**change: Any) -> Any:
    s, _ = splats2d(6, 20, 16)
    return bin_splats(replace(s, **change), width=20, height=16)


def draw(**change: Any) -> Any:
    s, colors = splats2d(6, 20, 16)
    other, _ = splats2d(7, 20, 16)
    tiles = bin_splats(other if change.pop("other", False) else s, width=20, height=16)
    return rasterize(s, change.pop("colors", colors), replace(tiles, **change))


def look(**change: Any) -> Cameras:
    call: dict[str, Any] = {"eye": [3.0, 0, 0], "target": [0.0, 0, 0], "width": 8, "height": 8, "fov_y": 50}
    return Cameras.look_at(**(call | change))


GIVEN: list[tuple[Callable[[], Any], type[Exception], str]] = [
    # Python types
    (lambda: replace(gaussians(), means=[[0.0, 0, 0]]), TypeError, r"means must be a torch\.Tensor, got list"),
    (lambda: replace(gaussians(), sh0=np.zeros((6, 1, 3))), TypeError, r"sh0 must be a torch\.Tensor, got ndarray"),
    (lambda: replace(cameras(), Ks=None), TypeError, r"Ks must be a torch\.Tensor, got NoneType"),
    (lambda: replace(cameras(), width=20.0), TypeError, r"width must be an int, got float 20\.0"),
    (lambda: render(gaussians(), "front"), TypeError, "cameras must be a Cameras, got str"),  # type: ignore[arg-type]
    (lambda: render({}, cameras()), TypeError, "gaussians must be a Gaussians, got dict"),  # type: ignore[arg-type]
    (lambda: render(gaussians(), cameras(), sh_degree=1.0), TypeError, r"sh_degree must be an int, got float 1\.0"),  # type: ignore[arg-type]
    (lambda: render(gaussians(), cameras(), background=[0, 0, 0]), TypeError, "background must be a torch"),  # type: ignore[arg-type]
    (lambda: photometric_loss(torch.rand(1, 4, 4, 3), np.zeros(3)), TypeError, "target must be a torch"),  # type: ignore[arg-type]
    (lambda: sh(degree=2.0), TypeError, r"degree must be an int, got float 2\.0"),
    (lambda: RasterizeOptions(topk=2.5), TypeError, r"topk must be an int, got float 2\.5"),  # type: ignore[arg-type]
    (lambda: Gaussians.from_points([[0, 0, 0]], torch.zeros(1, 3)), TypeError, "points must be a torch"),  # type: ignore[arg-type]
    # dtypes
    (lambda: render(gaussians().to(torch.float16), cameras()), ValueError, r"means must be float32 or float64, got"),
    (
        lambda: render(gaussians().to(torch.float64), cameras()),
        ValueError,
        r"viewmats must have the dtype of means, to",
    ),
    (
        lambda: render(replace(gaussians(), sh0=torch.zeros(6, 1, 3).int()), cameras()),
        ValueError,
        "sh0 must be float32",
    ),
    (
        lambda: render(replace(gaussians(), shN=torch.zeros(6, 3, 3).half()), cameras()),
        ValueError,
        "shN must be float32",
    ),
    (
        lambda: render(gaussians(), cameras(), background=torch.zeros(3).double()),
        ValueError,
        "background must have the d",
    ),
    (
        lambda: render(gaussians(), cameras(), ids=torch.zeros(6)),
        ValueError,
        r"ids must be torch\.int64, got torch\.fl",
    ),
    (lambda: photometric_loss(torch.rand(4, 4, 3), torch.rand(4, 4, 3).half()), ValueError, "target must be float32"),
    (lambda: bin_(conics=torch.zeros(1, 6, 3).double()), ValueError, r"conics must have the dtype of means2d"),
    (lambda: bin_(radii=torch.zeros(1, 6, 2)), ValueError, r"radii must be torch\.int32, got torch\.float32"),
    (
        lambda: draw(colors=torch.zeros(1, 6, 3).int()),
        ValueError,
        r"colors must be float32 or float64, got torch\.int32",
    ),
    (lambda: sh(radii=torch.ones(2, 6, 2)), ValueError, r"radii must be torch\.int32, got torch\.float32"),
    (lambda: Cameras(torch.eye(4)[None].half(), torch.eye(3)[None], 4, 4), ValueError, "viewmats must be float32"),
    # devices
    (
        lambda: render(replace(gaussians(), quats=torch.ones(6, 4, device="meta")), cameras()),
        ValueError,
        "quats must be on",
    ),
    # shapes
    (lambda: render(gaussians(), cameras(), background=torch.zeros(5, 3)), ValueError, r"shape \[2, 3\], got \[5, 3\]"),
    (lambda: render(gaussians(), cameras(), background=torch.zeros(4)), ValueError, r"shape \[3\], got \[4\]"),
    (lambda: render(gaussians(), cameras(), sh_degree=2), ValueError, r"sh_degree must be in 0 \.\. 1, got 2"),
    (lambda: sh(shN=torch.zeros(6, 3, 3)), ValueError, "shN must hold at least 8 coefficients for degree 2, got 3"),
    (
        lambda: draw(other=True),
        ValueError,
        "tiles must come from bin_splats with these splats, 1 cameras x 6 Gaussians",
    ),
    (lambda: draw(width=40), ValueError, "tiles must come from bin_splats"),
    (lambda: replace(cameras(), width=1 << 21), ValueError, "width and height must be at most 1048576 pixels"),
    # values
    (lambda: ProjectOptions(eps2d=float("nan")), ValueError, "eps2d must be finite and not negative, got nan"),
    (lambda: ProjectOptions(radius_clip=-1), ValueError, "radius_clip must be finite and not negative, got -1"),
    (lambda: ProjectOptions(near_plane=float("nan")), ValueError, "near_plane must be below far_plane, got nan"),
    (lambda: RasterizeOptions(cutoff=0), ValueError, "cutoff must be positive and finite, got 0"),
    (lambda: RasterizeOptions(cutoff=float("nan")), ValueError, "cutoff must be positive and finite, got nan"),
    (lambda: RasterizeOptions(topk=0), ValueError, r"topk must be in 1 \.\. 1024, got 0"),
    (
        lambda: Gaussians.from_points(torch.zeros(2, 3), torch.zeros(2, 3), opacity=0),
        ValueError,
        "opacity must be between",
    ),
    (
        lambda: Gaussians.from_points(torch.zeros(2, 3), torch.zeros(2, 3), opacity=1),
        ValueError,
        "opacity must be between",
    ),
    (lambda: Gaussians.random(-1), ValueError, "count must be at least 0, got -1"),
    # cameras
    (lambda: cameras().scaled(0), ValueError, "factor must be positive and finite, got 0"),
    (lambda: cameras().scaled(-1), ValueError, "factor must be positive and finite, got -1"),
    (lambda: cameras().scaled(float("nan")), ValueError, "factor must be positive and finite, got nan"),
    (lambda: replace(cameras(), Ks=-cameras().Ks), ValueError, "Ks must have positive focal lengths"),
    (lambda: look(fov_y=None, focal=0), ValueError, "focal must be positive and finite, got 0"),
    (lambda: look(fov_y=None, focal=-3.0), ValueError, r"focal must be positive and finite, got -3\.0"),
    (lambda: look(fov_y=180), ValueError, "fov_y must be between 0 and 180 degrees, got 180"),
    (lambda: look(focal=3.0), ValueError, "give either fov_y"),
    (lambda: look(eye=[0.0, 0, 0]), ValueError, "eye and target must differ"),
    (lambda: look(eye=[1e4, 0, 0], target=[1e4, 0, 1e-3]), ValueError, "eye and target must differ"),
    (lambda: look(eye=[0.0, 0, torch.nan]), ValueError, "eye must be finite"),
    (lambda: look(eye="origin"), ValueError, "eye must be numbers of shape"),
    (
        lambda: look(eye=[[1.0, 0, 0]] * 2, target=[[0.0, 0, 0]] * 3),
        ValueError,
        r"target must have shape \[3\] or \[C, 3\]",
    ),
    (lambda: look(up=[0.0, 0, 0]), ValueError, "up must not be zero"),
    (lambda: look(up=[1.0, 0, 0]), ValueError, "up must not be parallel"),
    (lambda: look(width=0), ValueError, "width and height must be at least 1 pixel"),
    (lambda: Cameras.orbit(-1, radius=3, width=8, height=8), ValueError, "count must be at least 0, got -1"),
    (lambda: Cameras.concat([]), ValueError, "parts must hold at least one Cameras"),
    (
        lambda: Cameras.from_colmap(torch.zeros(1, 4), torch.zeros(1, 3), torch.eye(3)[None], width=4, height=4),
        ValueError,
        "qvecs must not hold a zero quaternion",
    ),
    (
        lambda: Cameras.from_colmap(torch.ones(4), torch.zeros(3), torch.eye(3), width=4, height=4),
        ValueError,
        r"qvecs must have shape \[C, 4\], got \[4\]",
    ),
    (
        lambda: Cameras.from_opengl_c2w(torch.zeros(1, 4, 4), torch.eye(3)[None], width=4, height=4),
        ValueError,
        "c2w must be invertible",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), GIVEN, ids=[message for _, _, message in GIVEN])
def test_one_short_error(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 160


def test_cameras_are_indexed_like_a_list() -> None:
    c = Cameras.orbit(3, radius=4, width=20, height=16)
    assert len(list(c)) == 3  # iteration ends at the IndexError
    for index in (1, -2, torch.tensor(1), np.int64(1)):
        assert torch.equal(c[index].viewmats, c.viewmats[1:2])  # type: ignore[index]
    assert torch.equal(c[[2, 0]].viewmats, c.viewmats[[2, 0]]) and torch.equal(c[-1].Ks, c.Ks[2:])
    assert len(c[1:]) == 2 and len(c[torch.tensor([True, False, True])]) == 2 and len(c[3:]) == 0
    for wrong in (3, 5, -4):
        with pytest.raises(IndexError, match=rf"index must be in -3 \.\. 2, got {wrong}"):
            c[wrong]
    with pytest.raises(TypeError, match=r"index must be an int, got float 1\.0"):
        c[1.0]  # type: ignore[index]


def test_up_may_have_any_length() -> None:
    for length in (1e-20, 1e-8, 1e8):
        torch.testing.assert_close(look(up=[0.0, 0, length]).viewmats, look().viewmats)
