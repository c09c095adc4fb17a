"""Fitted pictures in files of other programs, their levels, and the commands that write them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from splat.cli import main
from splat.image.export import (
    export_json,
    export_npz,
    export_ply,
    export_svg,
    import_npz,
    import_ply,
    is_image_model,
    load_image_model,
    save_image_model,
)
from splat.image.figures import levels_figure
from splat.image.layout import Layout, Mode
from splat.image.levels import by_importance, draw_levels, level_counts
from splat.image.model import ImageGaussians
from splat.io import load_gaussians
from splat.metrics import psnr
from tests.browser import Page, needs_chromium
from tests.io_models import model as scene
from tests.test_image_model import make_model

FORMATS = (".safetensors", ".ply", ".json", ".npz")
TENSORS = ("means", "log_scales", "angles", "colors")


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def same(a: ImageGaussians, b: ImageGaussians) -> bool:
    """To the bit, signs of zero included."""
    for field in fields(ImageGaussians):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if field.name not in TENSORS:
            if x != y:
                return False
        elif x.dtype != y.dtype or x.shape != y.shape or x.numpy().tobytes() != y.contiguous().numpy().tobytes():
            return False
    return True


def odd_values(dtype: torch.dtype, channels: Mode) -> ImageGaussians:
    """All kinds of numbers: random bits, the least and the largest, zeros of both signs."""
    count = len(channels)
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(200, 5 + count, generator=generator, dtype=dtype) ** 9
    info = torch.finfo(dtype)
    table[:7, 0] = torch.tensor([info.max, info.min, info.tiny, -0.0, 0.0, info.tiny / 8, 1 / 3], dtype=dtype)
    means, log_scales, angles, colors = torch.split(table, [2, 2, 1, count], 1)
    parts = [part.contiguous() for part in (means, log_scales, angles[:, 0], colors)]
    return ImageGaussians(*parts, width=37, height=23, layout=Layout.of(channels))


@pytest.mark.parametrize("channels", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_bit_comes_back(suffix: str, dtype: torch.dtype, channels: Mode, tmp_path: Path) -> None:
    model = odd_values(dtype, channels)
    path = tmp_path / f"a{suffix}"
    save_image_model(model, path)
    assert is_image_model(path)
    assert same(load_image_model(path), model)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_nothing_at_all_comes_back_too(suffix: str, tmp_path: Path) -> None:
    none = make_model(1).map(lambda t: t[:0])
    save_image_model(none, tmp_path / f"a{suffix}")
    assert same(load_image_model(tmp_path / f"a{suffix}"), none)


def test_nan_is_kept_by_ply_and_npz_and_refused_by_json(tmp_path: Path) -> None:
    model = make_model(5)
    model.colors[2, 1] = torch.nan
    for write, read, name in ((export_ply, import_ply, "a.ply"), (export_npz, import_npz, "a.npz")):
        write(model, tmp_path / name)
        assert same(read(tmp_path / name), model)
    with pytest.raises(ValueError, match=r"a\.json: JSON holds no NaN or infinity, and the model has some"):
        export_json(model, tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


def test_the_files_say_what_is_in_them(tmp_path: Path) -> None:
    model = make_model(5)
    export_json(model, tmp_path / "a.json")
    whole = json.loads((tmp_path / "a.json").read_text())
    assert (whole["format"], whole["version"], whole["width"], whole["layout"][0]["kind"]) == (
        "splat-image-gaussians",
        1,
        37,
        "rgb",
    )
    assert list(whole["gaussians"]) == ["x", "y", "scale_0", "scale_1", "rotation", "f_0", "f_1", "f_2"]
    assert np.array(whole["gaussians"]["f_2"], np.float32).tolist() == model.colors[:, 2].tolist()
    export_ply(model, tmp_path / "a.ply")
    header = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")[0].decode()
    assert "property float rotation\n" in header and '"width": 37' in header


def test_scenes_and_pictures_are_told_apart(tmp_path: Path) -> None:
    scene(4, 0).save(tmp_path / "scene.safetensors")
    make_model(4).save(tmp_path / "picture.safetensors")
    from splat.io import save_gaussians

    save_gaussians(tmp_path / "scene.ply", scene(4, 0))
    (tmp_path / "meta.json").write_text("{}")
    assert [p.name for p in sorted(tmp_path.iterdir()) if is_image_model(p)] == ["picture.safetensors"]
    assert not is_image_model(tmp_path / "none.npz")


def damaged(kind: str, path: Path) -> Path:
    model = make_model(20)
    if kind.endswith("json"):
        path = path / "a.json"
        export_json(model, path)
        whole = json.loads(path.read_text())
        if kind == "version json":
            whole["version"] = 2
        elif kind == "no width json":
            del whole["width"]
        elif kind == "unknown json":
            whole["glow"] = 1
        elif kind == "ragged json":
            whole["gaussians"]["y"].pop()
        elif kind == "text json":
            whole["gaussians"]["y"][3] = "a"
        elif kind == "no column json":
            del whole["gaussians"]["rotation"]
        elif kind == "layout json":
            whole["layout"][0]["kind"] = "CMYK"
        path.write_text(json.dumps(whole)[: -9 if kind == "cut json" else None])
    elif kind.endswith("ply"):
        path = path / "a.ply"
        export_ply(model, path)
        data = path.read_bytes()
        path.write_bytes(
            data[:-5] if kind == "cut ply" else data.replace(b"comment splat-image", b"comment other-image")
        )
    else:
        path = path / "a.npz"
        export_npz(model, path)
        if kind == "other npz":
            np.savez(path, means=np.zeros((3, 2)))
        elif kind == "array npz":
            np.save(path.with_suffix(".npy"), np.zeros(3))
            path.with_suffix(".npy").rename(path)
        elif kind == "bits npz":
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 255
            path.write_bytes(data)
        else:
            path.write_bytes(path.read_bytes()[:-200])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("version json", "of version 1, got 2"),
        ("no width json", "does not say its width"),
        ("unknown json", "unknown glow"),
        ("ragged json", "of one length"),
        ("text json", "lists of numbers"),
        ("no column json", "has no rotation"),
        ("layout json", "kind must be one of"),
        ("cut json", "damaged JSON"),
        ("cut ply", "element vertex"),
        ("other ply", "no comment splat-image-gaussians"),
        ("cut npz", "damaged or not an npz file"),
        ("array npz", "damaged or not an npz file"),
        ("bits npz", "damaged or not an npz file"),
        ("other npz", "no fitted picture"),
    ],
)
def test_a_bad_file_is_one_clear_error(kind: str, message: str, tmp_path: Path) -> None:
    path = damaged(kind, tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        load_image_model(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


# SVG


def test_svg_has_an_ellipse_for_each_channel_that_is_not_zero(tmp_path: Path) -> None:
    model = make_model(3)
    colors = torch.tensor([[0.5, 0.0, -0.2], [0.0, 0.0, 0.0], [0.1, 0.2, 0.3]])
    export_svg(replace(model, colors=colors), tmp_path / "a.svg")
    circles = ET.parse(tmp_path / "a.svg").getroot().iter("{http://www.w3.org/2000/svg}circle")
    assert sorted(c.attrib["class"] for c in circles) == ["b", "b", "g", "r", "r"]


def test_svg_refuses_what_it_cannot_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splat.image.svg.MAX_SVG", 9)
    with pytest.raises(ValueError, match="takes at most 9 Gaussians, got 10; keep fewer"):
        export_svg(make_model(10), tmp_path / "a.svg")
    assert not list(tmp_path.iterdir())


@needs_chromium
def test_a_browser_shows_svg_as_the_picture(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    model = make_model(60, 300, 200)
    model = replace(model, log_scales=model.log_scales + 2.2)
    with Page("about:blank", tmp_path / "profile", 400, 400) as page:
        for channels, count in (("L", 1), ("RGB", 3), ("RGBA", 4)):
            colors = torch.rand(60, count, generator=generator) - 0.45
            colors[:, 3:] += 0.5  # alpha, which must cover some of the white for anything to be below 0
            model = replace(model, colors=colors, layout=Layout.of(channels))  # type: ignore[arg-type]
            export_svg(model, tmp_path / "a.svg")
            picture = model.render()
            if channels == "RGBA":
                picture = picture[..., :3] + 1 - picture[..., 3:]
            want = picture.clamp(0, 1).expand(-1, -1, 3).numpy()
            assert 0.1 < (picture < 0).float().mean() < 0.9  # colours of both signs matter
            page.open((tmp_path / "a.svg").as_uri())
            got = page.screenshot()[:200, :300] / 255
            assert page.problems == []
            assert np.abs(got - want).mean() < 3 / 255  # 60 roundings to 8 bits, a gradient of 24 straight pieces


# Levels


def test_importance_is_the_error_of_leaving_one_out() -> None:
    model = make_model(30, 60, 60)
    model = replace(model, means=model.means * 0.4 + 18, log_scales=model.log_scales + 0.3)  # inside, above a pixel
    ordered = by_importance(model)
    whole = ordered.render()
    without = [
        float((ordered.map(lambda t, i=i: torch.cat([t[:i], t[i + 1 :]])).render() - whole).square().sum())  # type: ignore[misc]
        for i in range(30)
    ]
    assert np.corrcoef(np.arange(30), np.argsort(np.argsort(-np.array(without))))[0, 1] > 0.99
    assert {tuple(row) for row in ordered.means.tolist()} == {tuple(row) for row in model.means.tolist()}


def test_levels_are_parts_of_64_or_the_layers() -> None:
    assert level_counts(6400) == [100, 400, 1600, 6400]
    assert level_counts(1) == [1] and level_counts(5) == [1, 2, 5]
    assert level_counts(10, (2, 3, 5)) == [2, 5, 10]
    for layers in ((2, 3), (0, 10), (-1, 11)):
        with pytest.raises(ValueError, match="layers must be positive and add up to 10 Gaussians"):
            level_counts(10, layers)


def test_levels_are_drawn_from_the_first_gaussians() -> None:
    model = make_model(40)
    target = model.render().detach().clamp(0, 1)
    drawn = list(draw_levels(model, (10, 30), target))
    assert [level.count for level, _ in drawn] == [10, 40]
    assert torch.equal(drawn[0][1], model.map(lambda t: t[:10]).render().clamp(0, 1))
    assert drawn[0][0].psnr == psnr(drawn[0][1], target) < drawn[1][0].psnr


def test_the_strip_has_a_panel_for_each_level() -> None:
    model = make_model(64, 200, 120)
    strip = np.asarray(levels_figure(model))
    assert strip.shape == (120 + 22, 4 * 208 - 8, 3)
    first = (model.map(lambda t: t[:1]).render().detach().clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()
    assert np.array_equal(strip[:120, :200], first)
    assert (strip[124:, :200] < 128).any()  # the caption


# Commands


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make_model(40).save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_convert_and_info_know_fitted_pictures(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = saved.with_name("b.json")
    assert run("convert", saved, target, "--count", "10") == 0
    assert same(load_image_model(target), by_importance(make_model(40)).map(lambda t: t[:10]))
    said = capsys.readouterr().out
    assert "fitted picture, 40 Gaussians" in said and "JSON, 10 Gaussians" in said and "kept: all, to the bit" in said
    assert run("info", target) == 0
    said = capsys.readouterr().out
    for line in (
        "format     fitted picture, json",
        "Gaussians  10",
        "picture    37 x 23 pixels, RGB",
        "blend      sum",
    ):
        assert line in said
    assert f"{8 * target.stat().st_size / (37 * 23):.3f} bits a pixel" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("b.spz",), "wanted a file name that ends in .safetensors, .s2d, .ply, .json, .npz, .svg"),
        (("b.ply", "--sh-degree", "1"), "--sh-degree does not apply: model.safetensors is a fitted picture"),
        (("b.ply", "--count", "41"), "--count must be in 1 .. 40, got 41"),
        (("none/b.ply",), "no such folder"),
    ],
)
def test_convert_refuses_what_it_cannot_do(
    saved: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("convert", saved, saved.parent / arguments[0], *arguments[1:]) == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_a_scene_takes_no_options_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene(4, 0).save(tmp_path / "scene.safetensors")
    assert run("convert", tmp_path / "scene.safetensors", tmp_path / "b.ply", "--count", "2") == 2
    assert "--count does not apply: scene.safetensors is no fitted picture" in capsys.readouterr().err
    assert run("view", tmp_path / "scene.safetensors", "-o", tmp_path / "a.html") == 2
    assert "--output does not apply: scene.safetensors is no fitted picture" in capsys.readouterr().err
    assert run("convert", tmp_path / "scene.safetensors", tmp_path / "b.ply") == 0
    assert len(load_gaussians(tmp_path / "b.ply")) == 4


def test_render_image_draws_the_strip(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = saved.with_name("lod.png")
    assert run("render-image", saved, "-o", out, "--lod") == 0
    with Image.open(out) as strip:
        assert strip.size == (4 * 158 - 8, 23 + 22)
    assert run("render-image", saved, "-o", out, "--lod", "--scale", "2") == 2
    assert "--scale does not apply: a strip of levels" in capsys.readouterr().err
    assert run("render-image", saved, "-o", out, "--photo", out) == 2
    assert "--photo does not apply: it is for --lod" in capsys.readouterr().err
