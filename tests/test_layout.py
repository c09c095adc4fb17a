"""Pictures of any channels: layouts, curves, normals, and the files that hold them."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import splat.optional
from splat.image import formats
from splat.image.fit import FitConfig, fit_image
from splat.image.layout import RGB, Group, Layout
from splat.image.model import ImageGaussians
from splat.image.normals import angles_between, octahedral_decode, octahedral_encode, unit
from splat.image.picture import PictureError, TextureMap, read_picture, write_picture
from splat.image.scores import group_scores
from splat.image.transfer import Transfer, pq_decode, pq_encode
from splat.metrics import pu21, pu21_psnr

SIZE = (21, 34)


def random_array(dtype: type[np.generic], depth: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).random((*SIZE, depth))
    return (values if np.dtype(dtype).kind == "f" else values * np.iinfo(dtype).max).astype(dtype)


def directions(count: int = 4000) -> torch.Tensor:
    random = torch.randn(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axes = torch.eye(3, dtype=torch.float64)
    return torch.cat([unit(random), axes, -axes])


# Normals


def test_octahedral_coordinates_give_the_same_unit_vector_back() -> None:
    normals = directions()
    square = octahedral_encode(normals)
    assert square.abs().max() <= 1
    again = octahedral_decode(square)
    torch.testing.assert_close(again.norm(dim=-1), torch.ones(len(again), dtype=torch.float64))
    assert angles_between(again, normals).max() < 1e-6
    inner = square.abs().sum(-1) <= 1
    assert torch.equal(inner, normals[:, 2] >= 0)  # what faces the viewer lies in the diamond, without a seam


def test_small_changes_of_the_square_are_small_angles() -> None:
    normals = directions()
    square = octahedral_encode(normals)
    level = 2 / 65535
    rounded = octahedral_decode((square / level).round() * level)
    # Rounding moves by level / sqrt(2) at most. Folding stretches that by sqrt(3) at most (1, 1 becomes 1, 1, -2), and
    # from the middle of a face, 1 / sqrt(3) from the centre, to the sphere it is sqrt(3) again.
    assert angles_between(rounded, normals).max() < np.degrees(3 * level / 2**0.5) * 1.001


def test_angles_are_those_of_the_construction() -> None:
    a = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64).expand(5, 3)
    degrees = torch.tensor([0.0, 1e-6, 1.0, 90.0, 180.0], dtype=torch.float64)
    b = torch.stack([degrees.deg2rad().sin(), torch.zeros(5), degrees.deg2rad().cos()], -1)
    torch.testing.assert_close(angles_between(a, b), degrees, rtol=1e-9, atol=1e-12)


def test_no_direction_is_straight_up() -> None:
    assert unit(torch.zeros(2, 3)).tolist() == [[0, 0, 1]] * 2


# Curves


def test_pq_has_the_values_of_st_2084() -> None:
    # cd/m^2 and signal, as published for the inverse EOTF (Miller, SMPTE ST 2084; ITU-R BT.2408 table 1 has 203: 58 %).
    known = {0.0: 7.30955903e-07, 100.0: 0.508078421517399, 203.0: 0.5807, 400.0: 0.652578597563067, 10_000.0: 1.0}
    luminance = torch.tensor(list(known), dtype=torch.float64)
    torch.testing.assert_close(pq_encode(luminance), torch.tensor(list(known.values())).double(), rtol=0, atol=2e-5)
    torch.testing.assert_close(pq_encode(luminance[[1, 3]])[0].item(), known[100.0], rtol=0, atol=1e-12)
    torch.testing.assert_close(pq_decode(pq_encode(luminance)), luminance, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("curve", ["log", "pq", "stored"])
def test_a_curve_maps_the_picture_to_0_1_in_order_and_back(curve: str) -> None:
    values = torch.logspace(-3, 2.5, 200)
    transfer = Transfer.of(curve, values)  # type: ignore[arg-type]
    fitted = transfer.encode(values)
    assert fitted.min() >= 0 and fitted.max() == pytest.approx(1, abs=1e-6)
    assert (fitted.diff() > 0).all()
    torch.testing.assert_close(transfer.decode(fitted), values, rtol=1e-3 if curve == "pq" else 2e-5, atol=2e-5)


def test_log_gives_equal_ratios_equal_steps() -> None:
    values = torch.logspace(-2, 3, 101, dtype=torch.float64)
    steps = Transfer("log", high=1000.0, toe=1e-4).encode(values).diff()
    assert steps.max() / steps.min() < 1.02


def test_values_in_0_1_are_fitted_as_they_are_and_others_are_scaled() -> None:
    inside = torch.tensor([0.2, 0.7])
    assert Transfer.of("stored", inside) == Transfer()
    assert Transfer().encode(inside) is inside
    outside = torch.tensor([-3.0, 5.0])
    assert Transfer.of("stored", outside).encode(outside).tolist() == [0, 1]
    assert Transfer.of("stored", torch.tensor([4.0, 4.0])).encode(torch.tensor([4.0])).tolist() == [0]


@pytest.mark.parametrize("fields", [{"curve": "gamma"}, {"high": 0.0}, {"toe": 0.0}, {"curve": "log", "low": -1.0}])
def test_bad_curves_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"curve|low|toe"):
        Transfer(**fields)  # type: ignore[arg-type]


def test_pu21_has_its_published_range_and_counts_ratios() -> None:
    # gfxdisp's table: 0.005 and 10,000 cd/m^2 are 5.4705e-10 and 595.3939; 100 is about 256.
    encoded = pu21(torch.tensor([0.005, 100.0, 10_000.0, 1e6]))
    torch.testing.assert_close(encoded, torch.tensor([0, 256.4, 595.3939, 595.3939]).double(), rtol=0, atol=0.05)
    dark, bright = torch.full((4, 4, 1), 0.1), torch.full((4, 4, 1), 10.0)
    # The same absolute error is seen in the dark only.
    assert pu21_psnr(dark + 0.05, dark) < pu21_psnr(bright + 0.05, bright) - 20


# Layouts


def test_a_layout_survives_json() -> None:
    layout = Layout(
        (
            Group("a", "rgba", 4, bits=16),
            Group("n", "normal", 2, weight=0.5),
            Group("sky", "rgb", 3, Transfer("log", high=812.5, toe=0.013), 32, suffix=".exr"),
            Group("h", "data", 7, Transfer(low=-4.25, high=1 / 3)),
        )
    )
    assert Layout.from_records(json.loads(json.dumps(layout.records()))) == layout
    assert layout.channels == 16
    torch.testing.assert_close(layout.root_weights()[3:7].square(), torch.tensor([1, 0.5, 0.5, 1]))
    for bad in (None, 5, [], [{}], [{"name": "x"}], [{**layout.records()[0], "channels": 3}], [{"transfer": 1}]):
        with pytest.raises(ValueError, match=r"layout|group|channels"):
            Layout.from_records(bad)


def test_bad_groups_name_what_is_wrong() -> None:
    for fields, word in (
        ({"name": "a/b"}, "name"),
        ({"kind": "cmyk"}, "kind"),
        ({"kind": "rgba"}, "channels"),
        ({"bits": 12}, "bits"),
        ({"weight": 0.0}, "weight"),
        ({"kind": "normal", "transfer": Transfer("log")}, "transfer"),
    ):
        with pytest.raises(ValueError, match=word):
            replace(RGB.groups[0], **fields)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="different names"):
        Layout(RGB.groups * 2)
    with pytest.raises(ValueError, match="mode"):
        Layout.of("CMYK")  # type: ignore[arg-type]


def test_encode_and_decode_are_inverse_for_every_kind() -> None:
    generator = torch.Generator().manual_seed(0)
    alpha = torch.rand(5, 6, 1, generator=generator)
    light = torch.rand(5, 6, 3, generator=generator) * 90
    values = [light * alpha, unit(torch.randn(5, 6, 3, generator=generator)), torch.rand(5, 6, 2, generator=generator)]
    values[0] = torch.cat([values[0], alpha], 2)
    log = Transfer.of("log", light)
    layout = Layout((Group("a", "rgba", 4, log, 32), Group("n", "normal", 2), Group("d", "data", 2)))
    fitted = layout.encode(values)
    assert fitted.shape == (5, 6, 8) and fitted.min() >= 0 and fitted.max() <= 1
    for got, wanted in zip(layout.decode(fitted), values, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    for got, wanted in zip(layout.decode(fitted + torch.tensor(9.0)), layout.decode(torch.ones(5, 6, 8)), strict=True):
        assert torch.equal(got, wanted)  # clamped


def test_a_preview_is_grey_or_rgb_with_alpha_over_white() -> None:
    alpha = Layout.of("RGBA").preview(torch.tensor([[[0.1, 0.2, 0.3, 0.5], [0, 0, 0, 0]]]))
    torch.testing.assert_close(alpha, torch.tensor([[[0.6, 0.7, 0.8], [1, 1, 1]]]))
    assert Layout.of("LA").preview(torch.rand(3, 4, 2)).shape == (3, 4, 1)
    up = Layout((Group("n", "normal", 2),)).preview(torch.full((1, 1, 2), 0.5))
    assert up.flatten().tolist() == [0.5, 0.5, 1]
    assert Layout((Group("d", "data", 9),)).preview(torch.rand(3, 4, 9)).shape == (3, 4, 1)
    stack = Layout((*Layout.of("RGB").groups, Group("n", "normal", 2), Group("g", "grey", 1)))
    assert stack.preview(torch.rand(3, 4, 6)).shape == (3, 12, 3)


# Models


def model_of(layout: Layout, count: int = 9) -> ImageGaussians:
    g = torch.Generator().manual_seed(1)
    means, scales, angles = torch.rand(count, 2, generator=g) * 20, torch.rand(count, 2, generator=g), torch.rand(count)
    colors = torch.rand(count, layout.channels, generator=g)
    return ImageGaussians(means, scales, angles, colors, width=22, height=18, layout=layout)


def test_a_model_keeps_its_layout_and_old_files_still_load(tmp_path: Path) -> None:
    layout = Layout((Group("n", "normal", 2, weight=0.3), Group("s", "grey", 1, Transfer("pq", high=77.7), 32)))
    path = tmp_path / "m.safetensors"
    model_of(layout).save(path)
    assert ImageGaussians.load(path).layout == layout
    header = {"format": "splat-image-gaussians", "version": "1", "width": "22", "height": "18", "channels": "RGBA"}
    old = model_of(Layout.of("RGBA"))
    old.save(path)
    save_file(load_file(path), path, header)
    again = ImageGaussians.load(path)
    assert again.layout == Layout.of("RGBA") and torch.equal(again.render(), old.render())
    for damaged in ({"channels": "CMYK"}, {"version": "2", "layout": "[1]"}, {"version": "2", "layout": "{"}):
        save_file(load_file(path), path, {**header, **damaged})
        with pytest.raises(ValueError, match=r"m\.safetensors: its header"):
            ImageGaussians.load(path)
    save_file(load_file(path), path, {**header, "version": "3"})
    with pytest.raises(ValueError, match="version 1 or 2, got splat-image-gaussians, 3"):
        ImageGaussians.load(path)
    with pytest.raises(ValueError, match=r"colors must have shape \[N, 3\]"):
        replace(old, layout=RGB)


# Files


@pytest.mark.parametrize(
    ("suffix", "dtypes", "depths"),
    [
        (".png", [np.uint8, np.uint16], [1, 2, 3, 4]),
        (".tif", [np.uint8, np.uint16, np.float32], [1, 2, 3, 4, 7]),
        (".exr", [np.float16, np.float32], [1, 2, 3, 4, 7]),
        (".npy", [np.uint8, np.uint16, np.float32], [1, 2, 3, 4, 7]),
        (".npz", [np.uint8, np.uint16, np.float32], [1, 2, 3, 4, 7]),
    ],
)
def test_files_hold_every_bit(suffix: str, dtypes: list[type[np.generic]], depths: list[int], tmp_path: Path) -> None:
    one, two = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    for dtype, depth in itertools.product(dtypes, depths):
        values = random_array(dtype, depth)
        formats.write_file(one, values)
        stored = formats.read_file(one)
        assert stored.values.dtype == dtype and stored.suffix == suffix
        assert np.array_equal(stored.values.reshape(values.shape), values)
        # And through the fitted values: a curve in float32 keeps integers exactly, and floats to rounding.
        picture = read_picture(TextureMap(one, "data" if depth > 4 else None))
        assert picture.pixels.shape == values.shape and picture.layout.groups[0].bits == 8 * values.dtype.itemsize
        write_picture(two, picture.pixels, picture.layout)
        again = formats.read_file(two).values.reshape(values.shape)
        assert again.dtype == dtype
        shown = values[..., -1] > 0 if depth in (2, 4) else np.ones(SIZE, bool)  # nothing to see below alpha 0
        error = np.abs(again.astype(np.float64) - values)[shown]
        assert error.max() <= (2e-5 if dtype == np.float32 else 1e-3 if dtype == np.float16 else 0)


@pytest.mark.parametrize("suffix", [".tif", ".exr", ".npy", ".npz"])
def test_files_that_are_cut_off_are_one_clear_error(suffix: str, tmp_path: Path) -> None:
    formats.write_file(tmp_path / f"a{suffix}", random_array(np.float32, 3))
    whole = (tmp_path / f"a{suffix}").read_bytes()
    for length in range(0, len(whole), 211):
        (tmp_path / f"a{suffix}").write_bytes(whole[:length])
        with pytest.raises(PictureError, match=rf"a\{suffix} is (empty|damaged|not a)"):
            read_picture(tmp_path / f"a{suffix}")


def test_openexr_reads_what_other_programs_write(tmp_path: Path) -> None:
    exr = pytest.importorskip("OpenEXR")
    values = random_array(np.float16, 5)
    channels = {name: np.ascontiguousarray(values[..., i]) for i, name in enumerate(("A", "B", "G", "R", "Z"))}
    header = {"compression": exr.PIZ_COMPRESSION, "type": exr.scanlineimage}
    exr.File(header, channels).write(str(tmp_path / "a.exr"))
    stored = formats.read_file(tmp_path / "a.exr")
    assert np.array_equal(stored.values, values[..., [3, 2, 1, 0]])  # R, G, B, A; Z is not of the picture
    assert stored.premultiplied
    picture = read_picture(tmp_path / "a.exr")
    torch.testing.assert_close(picture.layout.decode(picture.pixels)[0].half(), torch.from_numpy(stored.values))


def test_tiff_reads_planes_turned_pictures_and_either_alpha(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = random_array(np.uint16, 4)
    tag = {"extratags": [(0x0112, 3, 1, 6, True)], "photometric": "rgb"}  # turn clockwise to view
    planes = np.moveaxis(values, 2, 0)
    tifffile.imwrite(tmp_path / "a.tif", planes, planarconfig="separate", extrasamples=["assocalpha"], **tag)
    stored = formats.read_file(tmp_path / "a.tif")
    assert np.array_equal(stored.values, np.rot90(values, -1)) and stored.premultiplied
    tifffile.imwrite(tmp_path / "b.tif", np.stack([planes[0]] * 2), photometric="minisblack")
    with pytest.raises(PictureError, match="holds 2 pages"):
        formats.read_file(tmp_path / "b.tif")
    palette = Image.fromarray(random_array(np.uint8, 3)).quantize(16)
    palette.save(tmp_path / "c.tif")
    assert np.array_equal(formats.read_file(tmp_path / "c.tif").values, np.asarray(palette.convert("RGB")))


def test_alpha_is_premultiplied_once(tmp_path: Path) -> None:
    straight = np.array([[[0.5, 0.25]]], np.float32)
    assert read_picture(straight).pixels.flatten().tolist() == [0.125, 0.25]
    formats.write_file(tmp_path / "a.tif", straight)
    assert read_picture(tmp_path / "a.tif").pixels.flatten().tolist() == [0.125, 0.25]
    formats.write_file(tmp_path / "a.exr", straight)  # OpenEXR's colours are premultiplied already
    picture = read_picture(tmp_path / "a.exr")
    assert picture.layout.decode(picture.pixels)[0].flatten().tolist() == pytest.approx([0.5, 0.25])


def test_normals_are_unit_and_keep_their_levels(tmp_path: Path) -> None:
    normals = unit(torch.randn(*SIZE, 3, generator=torch.Generator().manual_seed(0)))
    levels = ((0.5 * normals + 0.5) * 255 + 0.5).floor().numpy().astype(np.uint8)
    formats.write_file(tmp_path / "n.png", levels)
    formats.write_file(tmp_path / "n.npy", normals.numpy())
    for name, read_as, channels in (("n.png", "octa", 2), ("n.png", "normal", 3), ("n.npy", "octa", 2)):
        picture = read_picture(TextureMap(tmp_path / name, read_as))  # type: ignore[arg-type]
        assert picture.pixels.shape[2] == channels
        (path,) = write_picture(tmp_path / f"again-{name}", picture.pixels, picture.layout)
        again = formats.read_file(path).values
        if name == "n.png":
            assert np.abs(again.astype(int) - levels).max() <= 1
        else:
            torch.testing.assert_close(torch.from_numpy(again), normals, rtol=0, atol=1e-5)


def test_grey_is_taken_from_rgb_only_where_the_channels_agree() -> None:
    grey = random_array(np.uint8, 1)
    assert read_picture(TextureMap(grey.repeat(3, 2), "grey")).pixels.shape == (*SIZE, 1)
    with pytest.raises(PictureError, match="grey is stored as 1 channels, this one has 3"):
        read_picture(TextureMap(random_array(np.uint8, 3), "grey"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a.png", TextureMap("a.png")),
        ("dir/n.png:octa", TextureMap("dir/n.png", "octa")),
        ("n.png:octa:0.5", TextureMap("n.png", "octa", weight=0.5)),
        ("n.png:2:normal", TextureMap("n.png", "normal", weight=2.0)),
        ("s.exr:pq", TextureMap("s.exr", curve="pq")),
        ("C:\\maps\\r.tif:grey:log:1e-1", TextureMap("C:\\maps\\r.tif", "grey", "log", 0.1)),
        ("odd:name.png", TextureMap("odd:name.png")),
    ],
)
def test_the_grammar_of_a_picture_on_the_command_line(text: str, wanted: TextureMap) -> None:
    assert TextureMap.parse(text) == wanted


def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    light = random_array(np.float32, 3) * 100
    for source, message in (
        (TextureMap(light), "floats must lie in 0..1"),
        (TextureMap(light - 9, curve="log"), "must not be negative"),
        (TextureMap(random_array(np.uint8, 3), curve="pq"), "pq is for floats"),
        (TextureMap(random_array(np.uint8, 4), "octa"), "octa is stored as 3 channels, this one has 4"),
        (light[..., :0], "at least one channel"),
        (random_array(np.float32, 5), "more are read as data"),
        ([], "at least one picture"),
        ([light[:9] / 100, light / 100], "one size: array is 34 x 9 and array is 34 x 21"),
        ([light / 100, light / 100], "different names"),
    ):
        with pytest.raises(PictureError, match=message) as error:
            read_picture(source)
        assert "\n" not in str(error.value)
    np.savez(tmp_path / "two.npz", a=light, b=light)
    with pytest.raises(PictureError, match="must hold one array"):
        read_picture(tmp_path / "two.npz")
    with pytest.raises(PictureError, match="weight is given twice"):
        TextureMap.parse("a.png:1:2")


def test_formats_refuse_what_they_cannot_hold(tmp_path: Path) -> None:
    light = read_picture(TextureMap(random_array(np.float32, 3) * 100, curve="log"))
    for name, pixels, layout, message in (
        ("a.png", light.pixels, light.layout, "holds integers of 8 or 16 bits; .tif, .exr and .npy"),
        ("a.png", torch.rand(4, 4, 5), Layout((Group("d", "data", 5),)), "at most 4 channels"),
        ("a.exr", torch.rand(4, 4, 3), RGB, "OpenEXR holds linear light"),
        ("a.jpg", torch.rand(4, 4, 2), Layout.of("LA"), "JPEG holds no alpha"),
        ("a.gif", torch.rand(4, 4, 3), RGB, "must end in"),
    ):
        with pytest.raises(PictureError, match=message):
            write_picture(tmp_path / name, pixels, layout)
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in (".exr", ".tif"):
        formats.write_file(tmp_path / f"a{suffix}", random_array(np.float32, 3))
    monkeypatch.setattr(splat.optional, "installed", lambda _: False)
    for suffix in (".exr", ".tif"):
        with pytest.raises(ValueError, match=r"pip install 'torchsplat\[hdr\]'"):
            read_picture(tmp_path / f"a{suffix}")


# Fits


def smooth(depth: int, seed: int) -> torch.Tensor:
    """[48, 64, depth] in 0..1: a few waves and an edge that all channels share."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, 1, 48), torch.linspace(0, 1, 64), indexing="ij")
    edge = torch.sigmoid(40 * (x + 0.4 * y - 0.7))
    waves = [torch.sin(6 * torch.rand(1, generator=g) * x + 6 * torch.rand(1, generator=g) * y) for _ in range(depth)]
    return torch.stack([0.5 + 0.2 * wave + 0.25 * (edge - 0.5) for wave in waves], 2)


def test_light_of_five_orders_of_magnitude_comes_back_in_ratios() -> None:
    light = 10 ** (5 * smooth(3, 0) - 3)  # 1e-3 to 1e2, about
    light = light / light.min() * 1e-3
    light[0, 0], light[-1, -1] = 1e-3, 100.0
    for curve in ("log", "pq"):
        result = fit_image(TextureMap(light, curve=curve), FitConfig(n=250, preset="draft"))  # type: ignore[arg-type]
        recon = result.model.layout.decode(result.model.render())[0]
        ratio = (recon.clamp_min(1e-6) / light).log10().abs()
        # Measured 0.002 and 0.008: half a per cent, and two, of each value.
        assert ratio.median() < 0.004 and ratio.quantile(0.95) < 0.015
        picture = read_picture(TextureMap(light, curve=curve))  # type: ignore[arg-type]
        scores = group_scores(result.model.render().clamp(0, 1), picture.pixels, picture.layout)
        assert scores[0]["pu21_psnr"] == pytest.approx(pu21_psnr(recon, light), abs=0.01)
        assert scores[0]["pu21_psnr"] > 53  # measured 56


def test_equal_weights_do_not_matter_and_unequal_ones_do() -> None:
    maps = [np.asarray(smooth(1, 1)), np.asarray(torch.rand(48, 64, 1, generator=torch.Generator().manual_seed(3)))]
    config = FitConfig(n=60, preset="draft")

    def fitted(first: float, second: float) -> tuple[ImageGaussians, list[float]]:
        picture = read_picture(
            [TextureMap(maps[0], weight=first, name="a"), TextureMap(maps[1], weight=second, name="b")]
        )
        result = fit_image(picture, config)
        scores = group_scores(result.model.render().clamp(0, 1), picture.pixels, picture.layout)
        weights = picture.layout.root_weights().square()
        error = ((result.model.render().clamp(0, 1) - picture.pixels).square() * weights).sum() / (
            48 * 64 * weights.sum()
        )
        assert -10 * float(error.log10()) == pytest.approx(result.psnr, abs=0.02)
        return result.model, [row["psnr"] for row in scores]

    (one, even), (three, _), (_, smooth_first) = fitted(1, 1), fitted(3, 3), fitted(1, 0.01)
    assert torch.equal(one.colors, three.colors) and torch.equal(one.means, three.means)
    assert smooth_first[0] > even[0] + 5 and smooth_first[1] < even[1]


def test_many_channels_share_their_gaussians() -> None:
    features = 9 * smooth(40, 2) - 4
    result = fit_image(TextureMap(features, "data"), FitConfig(n=200, preset="draft"))
    assert result.model.colors.shape == (len(result.model), 40)
    recon = result.model.layout.decode(result.model.render())[0]
    assert (recon - features).square().mean().sqrt() < 0.007 * features.std()  # measured 0.0044
