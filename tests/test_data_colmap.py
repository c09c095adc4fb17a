"""COLMAP projects: both kinds of files, what may be missing or broken, and real captures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import splat
from splat.scene.data import Capture, DataOptions, Normalisation, PhotoCache, check_photos, load_capture
from splat.scene.data.colmap import model_frames
from splat.scene.data.colmap_files import ColmapCamera, read_model, write_model
from splat.scene.data.distortion import Lens
from tests.captures import MINI, SHARED, colmap_model, renamed, write_noise, write_project, write_text_model
from tests.test_data_lens import MODELS

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not beside this checkout")


def reprojection_errors(capture: Capture) -> torch.Tensor:
    """Pixels between where a view's points project to and its keypoints, of all views."""
    errors = []
    for view in capture.views:
        seen = capture.points[view.point_rows] @ view.viewmat[:3, :3].T + view.viewmat[:3, 3]
        pixels = seen @ view.K.T
        errors.append((pixels[:, :2] / pixels[:, 2:] - view.keypoints).norm(dim=1))
    return torch.cat(errors)


@pytest.mark.parametrize("model", MODELS)
def test_binary_and_text_files_say_the_same(model: str, tmp_path: Path) -> None:
    written = colmap_model(camera=ColmapCamera(model, 320, 240, MODELS[model]))
    write_model(tmp_path / "bin", written)
    write_text_model(tmp_path / "txt", written)
    for folder in ("bin", "txt"):
        read = read_model(tmp_path / folder)
        assert read.cameras == written.cameras
        np.testing.assert_array_equal(read.points, written.points)
        np.testing.assert_array_equal(read.colors, written.colors)
        np.testing.assert_array_equal(read.point_ids, written.point_ids)
        for image, truth in zip(read.images, written.images, strict=True):
            assert replace(image, keypoints=None, point_ids=None) == replace(truth, keypoints=None, point_ids=None)
            np.testing.assert_array_equal(image.keypoints, truth.keypoints)
            np.testing.assert_array_equal(image.point_ids, truth.point_ids)


def test_the_binary_files_are_those_of_colmap(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is the oracle")
    written = colmap_model()
    write_model(tmp_path / "ours", written)
    theirs = pycolmap.Reconstruction(str(tmp_path / "ours"))
    (tmp_path / "theirs").mkdir()
    theirs.write_binary(str(tmp_path / "theirs"))
    read = read_model(tmp_path / "theirs")
    assert read.cameras == written.cameras
    assert {i.name: (i.quat, i.translation) for i in read.images} == {
        i.name: (pytest.approx(i.quat, abs=1e-12), i.translation) for i in written.images
    }
    assert sorted(map(tuple, read.points)) == sorted(map(tuple, written.points))


@pytest.mark.parametrize("text", [False, True])
def test_a_project_loads_and_its_points_project_to_their_keypoints(text: bool, tmp_path: Path) -> None:
    written = colmap_model(9)
    write_project(tmp_path, written, text=text)
    capture = load_capture(tmp_path)
    assert capture.kind == "colmap"
    assert [view.name for view in capture.views] == [f"{i}.png" for i in range(9)]
    assert capture.test == (0, 8)
    assert capture.train == (1, 2, 3, 4, 5, 6, 7)
    assert capture.points.shape == (12, 3)  # also the one that no image sees
    errors = reprojection_errors(capture)
    assert len(errors) == sum(len(image.keypoints) for image in written.images) > 60
    assert errors.max() < 1e-4
    torch.testing.assert_close(capture.colors, torch.from_numpy(written.colors).float() / 255)
    view = capture.views[3]
    assert (view.width, view.height) == (40, 30)
    torch.testing.assert_close(view.K, torch.tensor([[35.0, 0, 21], [0, 36, 14], [0, 0, 1]]))


def test_the_normalised_world_is_centred_and_export_undoes_it(tmp_path: Path) -> None:
    write_project(tmp_path, colmap_model(9))
    capture = load_capture(tmp_path)
    centres = torch.cat([capture.camera(row).centers for row in capture.train])
    assert centres.mean(0).abs().max() < 1e-5
    assert abs(centres.norm(dim=1).max().item() * 1.1 - capture.extent) < 1e-5
    assert capture.extent == 1
    normal = capture.normalisation
    again = Normalisation.from_dict(normal.to_dict())
    assert again.scale == normal.scale and bool((again.shift == normal.shift).all())
    # The picture of Gaussians is the same in both worlds.
    g = splat.Gaussians.from_points(capture.points, capture.colors, sh_degree=2, opacity=0.8)
    g = replace(g, quats=torch.randn(len(g), 4), shN=torch.randn(g.shN.shape) * 0.2)
    camera = capture.camera(4)
    here = splat.render(g, camera).color
    there = splat.render(normal.gaussians_to_world(g), normal.cameras_to_world(camera)).color
    assert here.max() > 0.2
    torch.testing.assert_close(there, here, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(normal.gaussians(normal.gaussians_to_world(g)).means, g.means, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        normal.cameras(normal.cameras_to_world(camera)).viewmats, camera.viewmats, atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        normal.points_to_world(capture.points).double(), torch.from_numpy(colmap_model(9).points), atol=1e-5, rtol=1e-5
    )


def test_cameras_at_one_point_still_have_an_extent() -> None:
    normal = Normalisation.of_cameras(torch.tensor([[1.0, 2, 3], [1, 2, 3]]))
    assert normal.scale == 1
    torch.testing.assert_close(normal.shift, torch.tensor([-1.0, -2, -3], dtype=torch.float64))


def test_pictures_that_are_missing_broken_or_of_another_shape_are_left_out_and_named(tmp_path: Path) -> None:
    write_project(tmp_path, colmap_model(9))
    (tmp_path / "images" / "1.png").unlink()
    (tmp_path / "images" / "2.png").write_bytes(b"this is no picture")
    write_noise(tmp_path / "images" / "3.png", 30, 40)
    capture = load_capture(tmp_path)
    assert [view.name for view in capture.views] == [f"{i}.png" for i in (0, 4, 5, 6, 7, 8)]
    notes = " ".join(capture.notes)
    assert "1.png: no such file" in notes
    assert "2.png is not a picture" in notes
    assert "3.png has 30 x 40 pixels, its camera 40 x 30" in notes


def test_a_picture_cut_off_is_found_by_decoding_and_the_rest_goes_on(tmp_path: Path) -> None:
    write_project(tmp_path, colmap_model(6))
    whole = (tmp_path / "images" / "2.png").read_bytes()
    (tmp_path / "images" / "2.png").write_bytes(whole[: len(whole) // 2])
    capture = load_capture(tmp_path)
    assert len(capture.views) == 6
    with PhotoCache(capture.views) as cache:
        seen: list[tuple[str, int, int]] = []
        checked = check_photos(capture, cache, lambda *what: seen.append(what))
    assert seen[-1] == ("reading photos", 6, 6)
    assert [view.name for view in checked.views] == ["0.png", "1.png", "3.png", "4.png", "5.png"]
    assert checked.train == (1, 2, 3, 4) and checked.test == (0,)
    assert "2.png is damaged or cut off" in checked.notes[-1]


def test_too_few_pictures_are_one_error(tmp_path: Path) -> None:
    write_project(tmp_path, colmap_model(3))
    for i in range(2):
        (tmp_path / "images" / f"{i}.png").unlink()
    with pytest.raises(ValueError, match=r"1 posed pictures can be read, at least 2 .*0\.png: no such file"):
        load_capture(tmp_path)


def test_so_few_pictures_that_none_is_held_out(tmp_path: Path) -> None:
    write_project(tmp_path, colmap_model(2))
    capture = load_capture(tmp_path)
    assert capture.train == (0, 1) and capture.test == ()
    assert "too few pictures" in capture.notes[-1]


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
@pytest.mark.parametrize("text", [False, True])
def test_a_damaged_model_names_its_file(name: str, text: bool, tmp_path: Path) -> None:
    write_project(tmp_path, colmap_model(), text=text)
    file = tmp_path / "sparse" / "0" / f"{name}{'.txt' if text else '.bin'}"
    whole = file.read_bytes()
    if text:
        file.write_bytes(whole + b"7 SEVEN\nx y z\n")
        match = rf"{name}\.txt, line \d+: wanted"
    else:
        for length in (0, 7, 30, len(whole) - 1):
            file.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=rf"{name}\.bin is damaged or cut off"):
                load_capture(tmp_path)
        file.write_bytes(b"\xff" * 7 + b"\x0f" + whole[8:])
        match = rf"{name}\.bin is damaged or cut off: it says 1152921504606846975 records follow"
    with pytest.raises(ValueError, match=match):
        load_capture(tmp_path)


def test_a_camera_model_that_is_not_known_names_picture_and_remedy(tmp_path: Path) -> None:
    model = colmap_model(4)
    images = (replace(model.images[0], camera_id=2), replace(model.images[1], camera_id=9), *model.images[2:])
    cameras = model.cameras | {2: ColmapCamera("FOV", 40, 30, (35.0, 35.0, 20.0, 15.0, 0.9))}
    write_text_model(tmp_path / "sparse", replace(model, cameras=cameras, images=images))
    for i in range(4):
        write_noise(tmp_path / "images" / f"{i}.png", 40, 30)
    capture = load_capture(tmp_path)
    assert [view.name for view in capture.views] == ["2.png", "3.png"]
    assert "0.png: camera model FOV is not supported; undistort with COLMAP first" in capture.notes[0]
    assert "1.png: there is no camera 9" in capture.notes[0]


def test_pictures_of_different_sizes_keep_their_own_cameras(tmp_path: Path) -> None:
    model = colmap_model(6)
    write_project(tmp_path, model)
    for i in (0, 3):  # twice the size that the model was made with
        write_noise(tmp_path / "images" / f"{i}.png", 80, 60)
    capture = load_capture(tmp_path)
    assert [(view.width, view.height) for view in capture.views[2:4]] == [(40, 30), (80, 60)]
    assert capture.views[3].K[0, 0] == 70
    assert reprojection_errors(capture).max() < 2e-4
    assert "pictures have 2 different sizes" in capture.notes


def test_of_several_models_the_largest_is_taken(tmp_path: Path) -> None:
    write_project(tmp_path, colmap_model(6))
    few = colmap_model(6)
    (tmp_path / "sparse" / "0").rename(tmp_path / "sparse" / "1")
    write_model(tmp_path / "sparse" / "0", replace(few, images=few.images[:2]))
    capture = load_capture(tmp_path)
    assert len(capture.views) == 6
    assert "of 2 models, 1 is used (6 pictures; 2 in the others)" in capture.notes


@pytest.mark.parametrize("place", ["sparse", "colmap/sparse/0", "."])
def test_a_model_is_found_where_tools_put_it(place: str, tmp_path: Path) -> None:
    model = renamed(colmap_model(3), {"1.png": "left/1.png"})
    write_project(tmp_path, model)
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / "sparse" / "0" / name).rename(tmp_path / place / name)
    assert [view.name for view in load_capture(tmp_path).views] == ["0.png", "2.png", "left/1.png"]


def test_smaller_copies_are_used_and_else_pictures_are_shrunk(tmp_path: Path) -> None:
    model = colmap_model(4)
    write_project(tmp_path, model)
    for i in range(1, 4):
        write_noise(tmp_path / "images_2" / f"{i}.png", 20, 15, seed=100 + i)
    capture = load_capture(tmp_path, DataOptions(downscale=2))
    assert [view.photo.path.parent.name for view in capture.views] == ["images", "images_2", "images_2", "images_2"]
    assert {(view.width, view.height) for view in capture.views} == {(20, 15)}
    assert reprojection_errors(capture).max() < 1e-4
    with PhotoCache(capture.views) as cache:
        full = np.asarray(Image.open(tmp_path / "images" / "0.png")).astype(np.float64)
        mean = full.reshape(15, 2, 20, 2, 3).mean((1, 3))
        assert np.abs(cache.get(0).rgb.numpy() - mean).max() <= 0.5
        np.testing.assert_array_equal(cache.get(1).rgb.numpy(), np.asarray(Image.open(tmp_path / "images_2" / "1.png")))
    assert load_capture(tmp_path, DataOptions(max_side=20)).views[1].photo.path.parent.name == "images_2"
    assert load_capture(tmp_path, DataOptions(max_side=40)).views[1].photo.path.parent.name == "images"


def test_converted_pictures_are_found_by_their_stem(tmp_path: Path) -> None:
    model = colmap_model(3)
    write_project(tmp_path, renamed(model, {"0.png": "0.JPG"}))
    (tmp_path / "images" / "0.JPG").rename(tmp_path / "images" / "0.jpg")
    write_noise(tmp_path / "images" / "1.webp", 40, 30)
    (tmp_path / "images" / "1.png").unlink()
    assert len(load_capture(tmp_path).views) == 3


@pytest.mark.parametrize("name", ["masks/{}.png", "masks/{}"])
def test_masks_are_found_by_name(name: str, tmp_path: Path) -> None:
    write_project(tmp_path, colmap_model(3))
    mask = np.zeros((30, 40), np.uint8)
    mask[10:, 7:] = 255
    file = tmp_path / name.format("1.png")
    file.parent.mkdir()
    Image.fromarray(mask).save(file)
    capture = load_capture(tmp_path)
    assert "2 of 3 pictures have no mask: 0.png, 2.png" in capture.notes
    with PhotoCache(capture.views) as cache:
        np.testing.assert_array_equal(cache.get(1).mask.numpy(), mask > 0)
        assert cache.get(0).mask is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no mask has the name of a picture"):
        load_capture(tmp_path, DataOptions(masks=tmp_path / "empty"))


def test_the_committed_capture_loads() -> None:
    capture = load_capture(MINI)
    assert (len(capture.views), len(capture.train), capture.test) == (32, 28, (0, 8, 16, 24))
    assert capture.notes == ()
    assert (capture.views[0].width, capture.views[0].height) == (277, 183)
    errors = reprojection_errors(capture)
    assert len(errors) == 13916
    assert errors.mean() < 0.11  # 0.38 pixels of the full size


@needs_shared
def test_points_of_a_real_capture_project_to_their_keypoints() -> None:
    errors = reprojection_errors(load_capture(SHARED / "saharov32"))
    assert len(errors) == 13916
    assert abs(errors.mean().item() - 0.38) < 0.005


@needs_shared
def test_a_real_lens_undistorted_on_load_is_the_pinhole_that_colmap_made_of_it() -> None:
    original = read_model(SHARED / "saharov32" / "original" / "sparse_radial" / "0")
    derived = {i.name: i for i in read_model(SHARED / "saharov32" / "sparse" / "0").images}
    camera = original.cameras[1]
    assert camera.model == "RADIAL"
    lens = Lens.from_colmap(camera.model, camera.width, camera.height, camera.params)
    pinhole = Lens.from_colmap(
        "PINHOLE", 1106, 731, read_model(SHARED / "saharov32" / "sparse" / "0").cameras[1].params
    )
    for image in original.images:
        truth = derived[image.name]
        np.testing.assert_array_equal(image.point_ids, truth.point_ids)
        found = lens.unproject(image.keypoints) * pinhole.focal + pinhole.centre
        assert np.abs(found - truth.keypoints).max() < 1e-3


@needs_shared
def test_depth_maps_of_a_real_lens_agree_with_the_points_after_undistortion(tmp_path: Path) -> None:
    shared = SHARED / "saharov32" / "original"
    model = read_model(shared / "sparse_radial" / "0")
    model = replace(model, images=model.images[:5])
    frames, _ = model_frames(model, tmp_path)
    write_model(tmp_path / "sparse", model)
    for frame in frames:  # the photos before undistortion are not there; their size is all that matters here
        write_noise(tmp_path / "images" / frame.file, 273, 182)
    options = DataOptions(depths=shared / "depthmaps_downscale4")
    capture = load_capture(tmp_path, options)
    wrong = []
    with PhotoCache(capture.views) as cache:
        for row, view in enumerate(capture.views):
            depth = cache.get(row).depth
            assert depth is not None and depth.shape == (view.height, view.width)
            x, y = view.keypoints.long().unbind(1)
            there = depth[y.clamp_max(view.height - 1), x.clamp_max(view.width - 1)]
            z = capture.points[view.point_rows] @ view.viewmat[2, :3] + view.viewmat[2, 3]
            wrong.append((there / z - 1).abs()[there > 0])
    assert torch.cat(wrong).median() < 0.0015
    assert len(torch.cat(wrong)) > 500
