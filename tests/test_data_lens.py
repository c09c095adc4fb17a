"""Lenses: distortion is inverted, equals COLMAP's, and pictures are undistorted to what a pinhole would see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from splat.scene.data.capture import DepthFile, PhotoFile
from splat.scene.data.distortion import Lens, sampling, undistorted
from splat.scene.data.photos import load_photo
from tests.captures import lens_picture, seen_colors

# Parameters as of real cameras (phones, action cameras, wide angles), pictures of 320 x 240.
MODELS: dict[str, tuple[float, ...]] = {
    "SIMPLE_PINHOLE": (300, 161, 118),
    "PINHOLE": (300, 310, 161, 118),
    "SIMPLE_RADIAL": (300, 161, 118, -0.12),
    "RADIAL": (300, 161, 118, -0.2, 0.06),
    "OPENCV": (300, 310, 161, 118, -0.25, 0.07, 0.002, -0.003),
    "OPENCV_FISHEYE": (150, 152, 161, 118, 0.02, -0.01, 0.003, -0.0005),
    "FULL_OPENCV": (300, 310, 161, 118, 0.3, -0.1, 0.001, -0.002, 0.02, 0.5, -0.05, 0.01),
    "SIMPLE_RADIAL_FISHEYE": (150, 161, 118, -0.03),
    "RADIAL_FISHEYE": (150, 161, 118, -0.03, 0.004),
    "THIN_PRISM_FISHEYE": (150, 152, 161, 118, 0.02, -0.01, 0.001, -0.002, 0.003, -0.0005, 0.002, -0.001),
}
DISTORTED = [model for model in MODELS if "PINHOLE" not in model]


def make(model: str) -> Lens:
    return Lens.from_colmap(model, 320, 240, MODELS[model])


def pixels(lens: Lens, step: int = 8) -> np.ndarray:
    """A grid over the whole picture, corners included."""
    y, x = np.meshgrid(np.arange(0, lens.height + 1, step), np.arange(0, lens.width + 1, step), indexing="ij")
    return np.stack([x, y], -1).reshape(-1, 2).astype(np.float64)


@pytest.mark.parametrize("model", MODELS)
def test_a_pixel_is_found_again_after_unprojecting_it(model: str) -> None:
    lens, grid = make(model), pixels(make(model))
    plane = lens.unproject(grid)
    seen = np.isfinite(plane).all(1)
    # The fisheyes see a little past 90 degrees in the corners, which is on no plane.
    assert seen.mean() > (0.9 if lens.fisheye else 0.999)
    np.testing.assert_allclose(lens.project(plane[seen]), grid[seen], atol=1e-7)


@pytest.mark.parametrize("model", MODELS)
def test_pixels_are_those_of_colmap(model: str) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is the oracle")
    camera = pycolmap.Camera(model=model, width=320, height=240, params=list(MODELS[model]))
    lens = make(model)
    plane = (pixels(lens) - (160, 120)) / 200
    points = np.concatenate([plane, np.ones((len(plane), 1))], 1)
    np.testing.assert_allclose(lens.project(plane), camera.img_from_cam(points), atol=1e-6)


def test_a_scaled_lens_sees_the_same_in_smaller_pictures() -> None:
    lens = make("OPENCV")
    small = lens.resized(160, 80)
    plane = (pixels(lens) - (160, 120)) / 300
    np.testing.assert_allclose(small.project(plane), lens.project(plane) * (0.5, 1 / 3), atol=1e-9)


@pytest.mark.parametrize("model", DISTORTED)
def test_the_undistorted_frame_keeps_the_focal_length_and_holds_no_pixel_from_outside(model: str) -> None:
    lens = make(model)
    flat = undistorted(lens)
    assert not flat.distorted
    assert flat.focal == lens.focal
    where, inside = sampling(lens)
    assert where.shape == (flat.height, flat.width, 2)
    if not lens.fisheye:  # those reach so far that the frame ends at twice the size, and see its corners or not
        assert inside.all()
        # It is the largest such frame: one more column would look past the middles of the border's pixels somewhere.
        y = np.arange(flat.height) + 0.5
        for column in (-0.5, flat.width + 0.5):
            beyond = lens.project((np.stack([np.full_like(y, column), y], -1) - flat.centre) / flat.focal)
            assert ((beyond[:, 0] < 0.5) | (beyond[:, 0] > lens.width - 0.5)).any()
    assert inside.mean() > 0.9


@pytest.mark.parametrize("model", DISTORTED)
def test_an_undistorted_picture_is_what_a_pinhole_sees(model: str, tmp_path: Path) -> None:
    lens = make(model)
    Image.fromarray(lens_picture(lens)).save(tmp_path / "a.png")
    photo = load_photo(PhotoFile(tmp_path / "a.png", False, lens))
    flat = undistorted(lens)
    y, x = np.meshgrid(np.arange(flat.height) + 0.5, np.arange(flat.width) + 0.5, indexing="ij")
    truth = seen_colors((np.stack([x, y], -1) - flat.centre) / flat.focal)
    error = (photo.rgb.numpy().astype(int) - truth).__abs__().max(-1)
    inside = np.ones_like(error, bool) if photo.mask is None else photo.mask.numpy()
    # Far from a fisheye's middle the waves come too close together for its pixels.
    near = (np.abs((np.stack([x, y], -1) - flat.centre) / flat.focal) < 0.7).all(-1)
    assert (inside & near).mean() > 0.2
    # Rounding, and bilinear interpolation of the waves: 120 (5 / f)^2 / 8.
    assert np.quantile(error[inside & near], 0.999) <= 2
    assert error[inside & near].max() <= 6  # pixels of the border, sampled from it


def test_a_polynomial_that_folds_back_does_not_show_the_picture_twice() -> None:
    lens = Lens(320, 240, (150.0, 150.0), (160.0, 120.0), radial=(-0.35,))  # radius 0.98 comes out as the largest
    fold = lens.fold(3.0)
    assert abs(fold - (1 / (3 * 0.35)) ** 0.5) < 2e-3
    assert np.isnan(lens.unproject(np.array([[0.5, 0.5]]))).all()
    flat = undistorted(lens)
    _, inside = sampling(lens)
    y, x = np.nonzero(inside)
    radius = np.linalg.norm((np.stack([x, y], -1) + 0.5 - flat.centre) / flat.focal, axis=1)
    assert radius.max() < fold + 2e-3
    assert inside.mean() < 1


def test_mask_alpha_and_depth_are_bent_with_the_picture(tmp_path: Path) -> None:
    lens = make("OPENCV")
    flat = undistorted(lens)
    y, x = np.meshgrid(np.arange(lens.height) + 0.5, np.arange(lens.width) + 0.5, indexing="ij")
    plane = lens.unproject(np.stack([x, y], -1).reshape(-1, 2)).reshape(lens.height, lens.width, 2)
    right = plane[..., 0] > 0.1  # half of the world, with a straight border
    alpha = np.where(right, 255, 0).astype(np.uint8)
    Image.fromarray(np.dstack([lens_picture(lens), alpha])).save(tmp_path / "a.png")
    Image.fromarray(alpha).save(tmp_path / "mask.png")
    np.save(tmp_path / "depth.npy", np.where(right, 2.0, 1.0).astype(np.float32))
    file = PhotoFile(tmp_path / "a.png", False, lens, tmp_path / "mask.png", DepthFile(tmp_path / "depth.npy", 0.5))
    photo = load_photo(file)
    assert photo.alpha is not None and photo.mask is not None and photo.depth is not None
    u = (torch.arange(flat.width) + 0.5 - flat.centre[0]) / flat.focal[0]
    near, far = u < 0.1 - 1.5 / 300, u > 0.1 + 1.5 / 300
    assert (photo.alpha[:, near] == 0).all() and (photo.alpha[:, far] == 255).all()
    assert not photo.mask[:, near].any() and photo.mask[:, far].all()
    assert (photo.depth[:, near] == 0.5).all() and (photo.depth[:, far] == 1.0).all()


@pytest.mark.parametrize(
    ("model", "params", "says"),
    [
        ("FOV", (300, 300, 160, 120, 0.9), "FOV is not supported"),
        ("RADIAL", (300, 160, 120), "has 5 parameters"),
        ("PINHOLE", (-300, 300, 160, 120), "focal length must be positive"),
        ("PINHOLE", (float("nan"), 300, 160, 120), "finite"),
    ],
)
def test_a_camera_that_cannot_be_is_refused(model: str, params: tuple[float, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Lens.from_colmap(model, 320, 240, params)
