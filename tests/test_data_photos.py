"""Pictures of a capture: decoding, sizes, and the cache with its background thread."""

from __future__ import annotations

import struct
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from splat.scene.data import BrokenPhoto, PhotoCache, check_photos, load_capture
from splat.scene.data import photos as photos_module
from splat.scene.data.capture import DepthFile, PhotoFile
from splat.scene.data.colmap_files import ColmapCamera
from splat.scene.data.depth import read_depth
from splat.scene.data.distortion import Lens
from splat.scene.data.photos import halved, load_photo
from splat.scene.data.pixels import resize_area
from tests.captures import colmap_model, write_noise, write_project


def plain(path: Path, width: int = 40, height: int = 30, **more: object) -> PhotoFile:
    lens = Lens(width, height, (50.0, 50.0), (width / 2, height / 2))
    return replace(PhotoFile(path, False, lens), **more)


def with_orientation(path: Path, orientation: int, width: int = 40, height: int = 30) -> np.ndarray:
    """A PNG whose EXIF says so; its pixels as stored."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif)
    return pixels


# Decoding


def test_pixels_come_as_stored(tmp_path: Path) -> None:
    pixels = write_noise(tmp_path / "a.png", 40, 30, channels=4)
    photo = load_photo(plain(tmp_path / "a.png"))
    np.testing.assert_array_equal(photo.rgb.numpy(), pixels[..., :3])  # not premultiplied
    assert photo.alpha is not None
    np.testing.assert_array_equal(photo.alpha.numpy(), pixels[..., 3])
    assert photo.mask is None and photo.depth is None
    assert photo.nbytes == 40 * 30 * 4


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "I;16"])
def test_other_kinds_of_pictures_become_rgb(mode: str, tmp_path: Path) -> None:
    grey = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50
    image = Image.fromarray(grey) if mode == "I;16" else Image.fromarray((grey // 256).astype(np.uint8)).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    rgb = load_photo(plain(path)).rgb.numpy().astype(int)
    assert rgb.shape == (30, 40, 3)
    if mode != "1":
        assert np.abs(rgb - grey[..., None] / 257).max() <= 3


def test_exif_turns_a_picture_only_where_the_camera_goes_with_the_turned_one(tmp_path: Path) -> None:
    # COLMAP itself takes pixels as stored; some tools write turned copies and keep the tag, or pose turned pictures.
    cases = (("stored", 6, (40, 30), False), ("turned", 6, (30, 40), True), ("upside down", 3, (40, 30), False))
    for name, orientation, camera, upright in cases:
        model = colmap_model(3, camera=ColmapCamera("PINHOLE", *camera, (35.0, 36.0, 15.0, 15.0)))
        write_project(tmp_path / name, model)
        for i in range(3):
            pixels = with_orientation(tmp_path / name / "images" / f"{i}.png", orientation)
        capture = load_capture(tmp_path / name)
        assert (capture.views[0].width, capture.views[0].height) == camera
        assert [view.photo.upright for view in capture.views] == [upright] * 3
        with PhotoCache(capture.views) as cache:
            rgb = cache.get(0).rgb.numpy()
        # Orientation 6: what is stored must be turned by 90 degrees clockwise.
        np.testing.assert_array_equal(rgb, np.rot90(pixels, -1) if upright else pixels)


def test_colmap_takes_pixels_as_stored_whatever_exif_says(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is the oracle")
    with_orientation(tmp_path / "a.png", 6)
    with Image.open(tmp_path / "a.png") as image:
        image.save(tmp_path / "a.jpg", exif=image.getexif())
    bitmap = pycolmap.Bitmap.read(str(tmp_path / "a.jpg"), True)
    assert (bitmap.width, bitmap.height) == (40, 30)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_files_cut_off_anywhere_are_broken_and_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    write_noise(path, 40, 30)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) * 3 // 4):
        path.write_bytes(whole[:length])
        with pytest.raises(BrokenPhoto, match=f"a{suffix}"):
            load_photo(plain(path))
    path.unlink()
    with pytest.raises(BrokenPhoto, match=f"a{suffix}: no such file"):
        load_photo(plain(path))


def test_a_mask_is_shrunk_to_the_picture_and_counts_whole_pixels_only(tmp_path: Path) -> None:
    write_noise(tmp_path / "a.png", 40, 30)
    mask = np.full((60, 80), 255, np.uint8)
    mask[0, 0] = 0  # a quarter of the first pixel
    Image.fromarray(mask).save(tmp_path / "m.png")
    photo = load_photo(plain(tmp_path / "a.png", mask=tmp_path / "m.png"))
    assert photo.mask is not None
    assert not photo.mask[0, 0] and photo.mask.sum() == 1199
    half = halved(photo, 1)
    assert half.mask is not None and not half.mask[0, 0] and half.mask.sum() == 299


# Depth


def test_depth_maps_of_every_kind(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((30, 40)).astype(np.float32) + 1
    values[0, 0], values[1, 1], values[2, 2] = np.nan, -1, np.inf
    known = np.where(np.isfinite(values) & (values > 0), values, 0)
    np.save(tmp_path / "d.npy", values[..., None])
    np.testing.assert_allclose(read_depth(DepthFile(tmp_path / "d.npy", 2.0)), known * 2)
    Image.fromarray((known * 1000).astype(np.uint16)).save(tmp_path / "d.png")
    np.testing.assert_allclose(read_depth(DepthFile(tmp_path / "d.png", 0.001)), known, atol=1e-3)
    for compression in (0, 2, 3):
        for dtype, tolerance in ((np.float32, 0), (np.float16, 1e-3)):
            write_exr(tmp_path / "d.exr", known.astype(dtype), compression)
            np.testing.assert_allclose(read_depth(DepthFile(tmp_path / "d.exr", 1.0)), known, rtol=tolerance)


def write_exr(path: Path, values: np.ndarray, compression: int) -> None:
    """From the format's description: a channel B that nobody wants, and the values as Z."""
    height, width = values.shape
    kind = 1 if values.dtype == np.float16 else 2

    def attribute(name: str, of: str, value: bytes) -> bytes:
        return name.encode() + b"\0" + of.encode() + b"\0" + struct.pack("<I", len(value)) + value

    channels = b"".join(n + b"\0" + struct.pack("<iIii", kind, 0, 1, 1) for n in (b"B", b"Z")) + b"\0"
    box = struct.pack("<4i", 3, 5, width + 2, height + 4)
    head = struct.pack("<II", 20000630, 2) + attribute("channels", "chlist", channels)
    head += attribute("compression", "compression", bytes([compression])) + attribute("dataWindow", "box2i", box)
    head += attribute("displayWindow", "box2i", box) + b"\0"
    rows = {0: 1, 2: 1, 3: 16}[compression]
    blocks = []
    for top in range(0, height, rows):
        part = values[top : top + rows]
        raw = b"".join(np.zeros(width, values.dtype).tobytes() + row.tobytes() for row in part)
        if compression:
            plain = np.frombuffer(raw, np.uint8)
            split = np.concatenate([plain[0::2], plain[1::2]]).astype(int)
            split[1:] = (split[1:] - split[:-1] + 128) % 256
            packed = zlib.compress(split.astype(np.uint8).tobytes())
            raw = packed if len(packed) < len(raw) else raw
        blocks.append(struct.pack("<iI", 5 + top, len(raw)) + raw)
    offset, table = len(head) + 8 * len(blocks), b""
    for block in blocks:
        table += struct.pack("<Q", offset)
        offset += len(block)
    path.write_bytes(head + table + b"".join(blocks))


def test_depth_files_that_are_broken_are_named(tmp_path: Path) -> None:
    write_exr(tmp_path / "d.exr", np.ones((30, 40), np.float32), 3)
    whole = (tmp_path / "d.exr").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "d.exr").write_bytes(whole[:length])
        with pytest.raises(BrokenPhoto, match=r"d\.exr"):
            read_depth(DepthFile(tmp_path / "d.exr", 1.0))
    (tmp_path / "d.npy").write_bytes(b"nonsense")
    with pytest.raises(BrokenPhoto, match=r"d\.npy is damaged"):
        read_depth(DepthFile(tmp_path / "d.npy", 1.0))
    write_noise(tmp_path / "d.png", 40, 30)
    with pytest.raises(BrokenPhoto, match="one channel of 16 bits"):
        read_depth(DepthFile(tmp_path / "d.png", 1.0))


# Sizes


def test_shrinking_is_the_mean_over_areas_to_fractions_of_a_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (21, 33, 3), dtype=np.uint8)
    # By brute force: every pixel in 8 x 16 parts, and means of 21 x 33 of those.
    fine = np.repeat(np.repeat(pixels.astype(np.float64), 8, 0), 16, 1)
    truth = fine.reshape(8, 21, 16, 33, 3).mean((1, 3))
    assert np.abs(resize_area(pixels, 16, 8) - truth).max() <= 0.501


def test_halving_weights_colours_by_alpha_and_keeps_to_the_cameras_rounding(tmp_path: Path) -> None:
    rgba = np.zeros((30, 40, 4), np.uint8)
    rgba[:, 0::2] = (200, 100, 50, 255)
    rgba[:, 1::2] = (0, 255, 0, 0)  # what is under alpha 0 must not show
    Image.fromarray(rgba).save(tmp_path / "a.png")
    half = halved(load_photo(plain(tmp_path / "a.png")), 1)
    assert half.alpha is not None
    assert (half.rgb == torch.tensor([200, 100, 50], dtype=torch.uint8)).all()
    assert ((half.alpha == 127) | (half.alpha == 128)).all()
    write_project(tmp_path, colmap_model(3, camera=ColmapCamera("PINHOLE", 45, 31, (35.0, 36.0, 21.0, 14.0))))
    capture = load_capture(tmp_path)
    with PhotoCache(capture.views) as cache:
        for halvings in range(7):
            camera = capture.camera(0).scaled(0.5**halvings)
            assert cache.get(0, halvings).rgb.shape == (camera.height, camera.width, 3)


# The cache


@pytest.fixture
def capture(tmp_path: Path):
    write_project(tmp_path, colmap_model(8))
    return load_capture(tmp_path)


SIZE = 40 * 30 * 3


class Loads:
    """Counts the files that are decoded; can hold them up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.go = threading.Event()
        self.go.set()
        self._load = photos_module.load_photo
        monkeypatch.setattr(photos_module, "load_photo", self)

    def __call__(self, photo: PhotoFile) -> photos_module.Photo:
        assert self.go.wait(10)
        self.names.append(photo.path.name)
        return self._load(photo)


def test_pictures_are_decoded_once_and_those_unused_for_longest_dropped(capture, monkeypatch) -> None:
    loads = Loads(monkeypatch)
    with PhotoCache(capture.views, max_bytes=3 * SIZE, threads=0) as cache:
        first = cache.get(0)
        for row in (1, 2, 0, 1, 2, 0):
            cache.get(row)
        assert cache.get(0) is first
        assert loads.names == ["0.png", "1.png", "2.png"]
        cache.get(3)  # drops 1
        for row in (2, 0, 3):
            cache.get(row)
        assert loads.names == ["0.png", "1.png", "2.png", "3.png"]
        cache.get(1)
        assert loads.names[4:] == ["1.png"]
        assert cache.bytes_used <= 3 * SIZE


def test_a_picture_larger_than_the_room_is_still_given(capture) -> None:
    with PhotoCache(capture.views, max_bytes=10) as cache:
        cache.expect(range(8))
        for row in range(8):
            assert cache.get(row).rgb.shape == (30, 40, 3)


def test_smaller_pictures_are_made_from_those_in_memory(capture, monkeypatch) -> None:
    loads = Loads(monkeypatch)
    with PhotoCache(capture.views, threads=0) as cache:
        cache.get(0)
        small = cache.get(0, 1)
    assert small.rgb.shape == (15, 20, 3)
    assert loads.names == ["0.png"]


def test_what_is_expected_is_loaded_ahead_in_order_and_used(capture, monkeypatch) -> None:
    loads = Loads(monkeypatch)
    rows = [5, 2, 7, 0]
    with PhotoCache(capture.views) as cache:
        cache.expect(rows)
        cache.wait_idle(10)
        assert loads.names == ["5.png", "2.png", "7.png", "0.png"]
        for row in rows:
            cache.get(row)
        assert len(loads.names) == 4


def test_loading_ahead_stops_at_half_of_the_room_and_goes_on_as_pictures_are_used(capture, monkeypatch) -> None:
    loads = Loads(monkeypatch)
    with PhotoCache(capture.views, max_bytes=4 * SIZE) as cache:
        cache.expect(range(8))
        cache.wait_idle(10)
        assert len(loads.names) == 3  # the one that goes past the half is the last
        for row in range(8):
            cache.get(row)
            assert cache.bytes_used <= 4 * SIZE
        assert sorted(loads.names) == [f"{i}.png" for i in range(8)]  # none twice


def test_a_picture_that_is_being_loaded_ahead_is_waited_for_not_loaded_twice(capture, monkeypatch) -> None:
    loads = Loads(monkeypatch)
    with PhotoCache(capture.views) as cache:
        loads.go.clear()
        cache.expect([3])
        got = []
        reader = threading.Thread(target=lambda: got.append(cache.get(3)))
        reader.start()
        loads.go.set()
        reader.join(10)
    assert len(got) == 1 and loads.names == ["3.png"]


def test_many_threads_get_the_right_pictures(capture) -> None:
    with PhotoCache(capture.views, threads=0) as alone:
        truth = [alone.get(row).rgb for row in range(8)]
    wrong: list[int] = []
    with PhotoCache(capture.views, max_bytes=3 * SIZE, threads=3) as cache:

        def read(seed: int) -> None:
            order = np.random.default_rng(seed).integers(0, 8, 60).tolist()
            cache.expect(order)
            wrong.extend(row for row in order if not torch.equal(cache.get(row).rgb, truth[row]))

        readers = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(20)
            assert not reader.is_alive()
        assert cache.bytes_used <= 6 * SIZE
    assert wrong == []


def test_a_broken_picture_is_reported_where_it_is_asked_for_and_the_thread_goes_on(capture) -> None:
    capture.views[1].photo.path.write_bytes(b"")
    with PhotoCache(capture.views) as cache:
        cache.expect([1, 2])
        with pytest.raises(BrokenPhoto, match=r"1\.png"):
            cache.get(1)
        cache.wait_idle(10)
        assert cache.bytes_used == SIZE
        cache.get(2)


def test_leaving_the_cache_ends_its_threads_also_after_an_error(capture, monkeypatch) -> None:
    loads = Loads(monkeypatch)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), PhotoCache(capture.views, threads=2) as cache:
        loads.go.clear()
        cache.expect(range(8))
        threading.Timer(0.1, loads.go.set).start()
        raise KeyboardInterrupt
    assert not any(thread.name == "photos" and thread.is_alive() for thread in threading.enumerate())
    assert threading.active_count() <= before + 1  # the timer may still be ending
    assert len(loads.names) <= 2  # what was under way; the rest was dropped
    with pytest.raises(ValueError, match="closed"):
        cache.get(0)


def test_too_many_broken_pictures_are_one_error(capture) -> None:
    for view in capture.views[:7]:
        view.photo.path.write_bytes(b"")
    with PhotoCache(capture.views) as cache, pytest.raises(ValueError, match="fewer than 2 training pictures are left"):
        check_photos(capture, cache, None)
