"""The page of a fitted picture: what is in it, and what headless Chromium draws, by WebGL2 and on the processor."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from splat.cli import main
from splat.core.rasterize import RasterizeOptions
from splat.image.codec.encode import EncodeConfig, encode_image, encode_model
from splat.image.codec.s2d import decode_image
from splat.image.draw import rasterize_image
from splat.image.export import load_image_model
from splat.image.fit import FitConfig
from splat.image.layout import Layout, Mode
from splat.image.levels import by_importance, level_counts
from splat.image.model import ImageGaussians
from splat.image.page import PageFacts, facts_beside, page_text, write_page
from splat.image.picture import read_picture
from tests.browser import Page, needs_chromium
from tests.test_image_model import covariances_of, make_model

WIDTH, HEIGHT = 90, 60
WEBGL = "?renderer=webgl"  # asked for, because here it is software
RENDERERS = (WEBGL, "?renderer=canvas")
Pixels = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with Page("about:blank", tmp_path_factory.mktemp("profile"), 500, 460) as page:
        yield page


@pytest.fixture
def model() -> ImageGaussians:
    """In the order of its page, so that prefixes can be compared."""
    return by_importance(make_model(300, WIDTH, HEIGHT))


def open_page(browser: Page, folder: Path, text: bytes, query: str = "") -> None:
    path = folder / "page.html"
    path.write_bytes(text)
    address = path.as_uri() + query
    browser.open(address)
    until_drawn = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))"
    browser.evaluate(until_drawn)
    assert browser.problems == []
    assert browser.requests == [address]


def shown(browser: Page, **view: float) -> tuple[Pixels, dict[str, float]]:
    """[H, W, 4] in 0..1 of the page's canvas, and its view."""
    browser.evaluate(f"splatViewer.show({json.dumps(view)})")
    width, height = browser.evaluate("splatViewer.size")
    text = browser.evaluate(
        "(() => { let s = ''; for (const v of splatViewer.pixels()) s += String.fromCharCode(v); return btoa(s) })()"
    )
    pixels = np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)
    assert browser.problems == []
    return pixels / 255.0, browser.evaluate("splatViewer.view")


def part_of(
    model: ImageGaussians, view: dict[str, float], width: int, height: int
) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """What splat draws for the same view, clamped, and which of its pixels lie in the picture."""
    first = model.map(lambda t: t[: int(view["count"])])
    crop = (view["x"], view["y"], width / view["zoom"], height / view["zoom"])
    x, y = (view[k] + (np.arange(n) + 0.5) / view["zoom"] for k, n in (("x", width), ("y", height)))
    inside = ((y >= 0) & (y <= model.height))[:, None] & ((x >= 0) & (x <= model.width))
    return first.render(crop=crop, width=width, height=height).clamp(0, 1).double().numpy(), inside


def check_same(got: Pixels, want: Pixels, inside: npt.NDArray[np.bool_]) -> None:
    """8 bits round by a quarter of a level on average; the page's numbers are allowed as much again."""
    assert np.array_equal(got[..., 3] == 1, inside) and got[~inside].max(initial=0) == 0
    assert inside.sum() > 5000
    assert np.abs(got[..., :3] - want)[inside].mean() <= 0.5 / 255


# What is in the page


def test_the_page_says_its_own_size(model: ImageGaussians, tmp_path: Path) -> None:
    size = write_page(tmp_path / "a.html", model, PageFacts(title="<b>& Co</b>", ledger={"</script>": 7}))
    text = (tmp_path / "a.html").read_text()
    assert (tmp_path / "a.html").stat().st_size == size and f'"page_bytes": {size}' in text
    assert "<title>&lt;b&gt;&amp; Co&lt;/b&gt;</title>" in text
    assert not any(f"{{{{{name}}}}}" in text for name in ("title", "style", "description", "gaussians", "script"))
    assert text.count("</script>") == 3  # a part's name does not end the description


def test_nothing_in_the_page_can_be_asked_for_from_elsewhere(model: ImageGaussians) -> None:
    text = page_text(model).decode()
    assert "default-src 'none'" in text and "http" not in text.replace("http-equiv", "")


def described(text: bytes) -> dict[str, object]:
    start = text.index(b'id="description">') + len(b'id="description">')
    found: dict[str, object] = json.loads(text[start : text.index(b"</script>", start)])
    return found


def test_16_bits_are_taken_only_where_they_do_not_show(model: ImageGaussians) -> None:
    assert described(page_text(model))["encoding"] == "uint16"
    far = model.means.clone()
    far[-1] = 1e6  # of the range that 16 bits divide, the picture is now a ten-thousandth
    assert described(page_text(replace(model, means=far)))["encoding"] == "float32"


def test_gaussians_that_are_not_finite_stay_out_of_their_layers(model: ImageGaussians) -> None:
    colors = model.colors.clone()
    colors[3] = torch.nan
    about = described(page_text(replace(model, colors=colors), PageFacts(layers=(10, 90, 200))))
    assert about["levels"] == [{"count": n, "psnr": None} for n in (9, 99, 299)]
    with pytest.raises(ValueError, match="a Gaussian whose values are finite"):
        page_text(replace(model, colors=colors).map(lambda t: t[3:4]))
    with pytest.raises(ValueError, match="layers must be positive and add up to 300 Gaussians, got"):
        page_text(model, PageFacts(layers=(10, 90)))


def test_the_target_gives_every_level_its_psnr(model: ImageGaussians) -> None:
    about = described(page_text(model, PageFacts(target=model.render().clamp(0, 1) * 0.99)))
    levels = about["levels"]
    assert isinstance(levels, list) and [level["count"] for level in levels] == level_counts(300) == [5, 19, 75, 300]
    psnrs = [level["psnr"] for level in levels]
    assert psnrs == sorted(psnrs) and psnrs[-1] > 40


def test_metrics_beside_the_model_count_only_where_they_are_its_own(model: ImageGaussians, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    assert facts_beside(path, model).psnr == ()
    for n, want in ((300, (31.5,)), (299, ())):
        metrics = {"n": n, "width": WIDTH, "height": HEIGHT, "psnr": 31.5}
        (tmp_path / "metrics.json").write_text(json.dumps(metrics))
        assert facts_beside(path, model).psnr == want
    assert facts_beside(path, model).ledger == {"model.safetensors": path.stat().st_size}


def test_the_page_of_a_coded_picture_says_the_psnr_that_the_file_holds(model: ImageGaussians, tmp_path: Path) -> None:
    encoded = encode_model(replace(model, layers=(100, 300)))
    (tmp_path / "a.s2d").write_bytes(encoded.data)
    facts = facts_beside(tmp_path / "a.s2d", encoded.model)
    levels = described(page_text(encoded.model, facts))["levels"]
    assert isinstance(levels, list) and [level["count"] for level in levels] == list(encoded.model.layers)
    said = [level["psnr"] for level in levels]
    assert said == pytest.approx([layer.psnr for layer in encoded.layers], abs=0.006)
    whole = described(page_text(encoded.model, replace(facts, layers=(), psnr=facts.psnr[-1:])))["levels"]
    assert isinstance(whole, list) and [level["psnr"] for level in whole] == [None] * (len(whole) - 1) + said[-1:]


def test_the_command_writes_a_page_beside_the_model(
    model: ImageGaussians, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as end:
            main(["view", str(path), *arguments])
        return int(end.value.code or 0)

    assert run() == 0
    page = tmp_path / "model.html"
    assert capsys.readouterr().out == f"{page}  {page.stat().st_size:,} bytes, 300 Gaussians\n"
    assert run("--port", "0") == 2
    assert "--port does not apply: model.safetensors is a fitted picture" in capsys.readouterr().err
    assert run("-o", str(tmp_path / "page.txt")) == 2
    assert "ends in .html" in capsys.readouterr().err


# What is drawn


@needs_chromium
@pytest.mark.parametrize("query", RENDERERS)
def test_the_page_draws_what_render_draws(query: str, model: ImageGaussians, browser: Page, tmp_path: Path) -> None:
    open_page(browser, tmp_path, page_text(model), query)
    assert browser.evaluate("splatViewer.renderer").startswith("by WebGL2" if query == WEBGL else "on the processor")
    for view in (
        {"x": -20, "y": -10, "zoom": 1},
        {"x": 10, "y": 5, "zoom": 3},
        {"x": -1.3, "y": -2.7, "zoom": 4.21},
        {"x": -20, "y": -10, "zoom": 1, "count": 40},
    ):
        got, where = shown(browser, **view)
        want, inside = part_of(model, {"count": 300, **where}, got.shape[1], got.shape[0])
        check_same(got, want, inside)


@needs_chromium
@pytest.mark.parametrize("query", RENDERERS)
def test_weights_below_the_cut_off_are_not_drawn(query: str, browser: Page, tmp_path: Path) -> None:
    one = make_model(1, WIDTH, HEIGHT)
    one = replace(one, means=torch.tensor([[45.0, 30.0]]), log_scales=torch.tensor([[2.3, 1.5]]), angles=torch.ones(1))
    one = replace(one, colors=torch.tensor([[100.0, 50.0, 60.0]]))  # at the edge, 1/255 of it shows
    open_page(browser, tmp_path, page_text(one), query)
    got, where = shown(browser, x=0, y=0, zoom=4)
    check_same(got, *part_of(one, where, got.shape[1], got.shape[0]))


@needs_chromium
@pytest.mark.parametrize("query", RENDERERS)
def test_far_beyond_pixels_the_picture_is_still_drawn_from_the_gaussians(
    query: str, model: ImageGaussians, browser: Page, tmp_path: Path
) -> None:
    open_page(browser, tmp_path, page_text(model, PageFacts()), query)
    got, where = shown(browser, x=40.123, y=30.456, zoom=2000, count=300)
    rows, columns = np.meshgrid(np.arange(5, got.shape[0], 31), np.arange(5, got.shape[1], 37), indexing="ij")
    at = np.stack([where["x"] + (columns + 0.5) / 2000, where["y"] + (rows + 0.5) / 2000], -1).reshape(-1, 2)
    want = model.map(torch.Tensor.double).query(torch.from_numpy(at)).clamp(0, 1).numpy()
    assert np.abs(got[rows, columns, :3].reshape(-1, 3) - want).mean() <= 0.75 / 255
    i = len(at) // 2
    value = browser.evaluate(f"splatViewer.value({columns.flat[i]}, {rows.flat[i]})")
    assert np.abs(np.clip(value, 0, 1) - want[i]).max() <= 1 / 255


@needs_chromium
@pytest.mark.parametrize("channels", ["L", "RGBA"])
def test_grey_and_alpha_are_shown(channels: Mode, browser: Page, tmp_path: Path) -> None:
    model = make_model(300, WIDTH, HEIGHT)
    generator = torch.Generator().manual_seed(1)
    colors = torch.rand(300, {"L": 1, "RGBA": 4}[channels], generator=generator) * 0.2
    model = by_importance(replace(model, colors=colors, layout=Layout.of(channels)))
    for query in RENDERERS:
        open_page(browser, tmp_path, page_text(model), query)
        got, where = shown(browser, x=0, y=0, zoom=4)
        height, width = got.shape[:2]
        picture = model.render(crop=(where["x"], where["y"], width / 4, height / 4), width=width, height=height)
        want = picture.double().numpy()
        inside = part_of(model, where, width, height)[1]
        if channels == "RGBA":
            y, x = np.indices((height, width)) // 8
            want = want[..., :3] + (1 - want[..., 3:]) * np.where((x + y) % 2 == 0, 0.82, 0.66)[..., None]
        check_same(got, np.broadcast_to(want.clip(0, 1), (height, width, 3)), inside)


@needs_chromium
@pytest.mark.parametrize("query", RENDERERS)
def test_the_page_of_a_layered_file_draws_what_each_layer_decodes_to(query: str, browser: Page, tmp_path: Path) -> None:
    photo = Path(__file__).parent.parent / "scenes" / "photos" / "kodim05.png"
    part = read_picture(photo).pixels[200 : 200 + HEIGHT, 300 : 300 + WIDTH].contiguous()
    fit, path = FitConfig(layers=(15, 60, 240), preset="draft"), tmp_path / "photo.s2d"
    path.write_bytes(encode_image(part, EncodeConfig(qp=20), fit).data)
    model = load_image_model(path)
    open_page(browser, tmp_path, page_text(model, facts_beside(path, model)), query)
    levels = []
    for key, layer in (("", 3), ("[", 2), ("[", 1)):
        if key:
            send_key(browser, key)
        one = decode_image(path, layers=layer).model
        assert browser.evaluate("splatViewer.view")["count"] == len(one)
        got, where = shown(browser, x=-5, y=-5, zoom=4, count=len(one))
        want, inside = part_of(one, where, got.shape[1], got.shape[0])
        check_same(got, want, inside)
        levels.append(want)
    assert np.abs(levels[0] - levels[1]).mean() > 2 / 255 < np.abs(levels[1] - levels[2]).mean()


def with_description(text: bytes, **changes: object) -> bytes:
    """A page whose Gaussians are drawn in another way."""
    before = described(text)
    old = json.dumps(before).replace("<", "\\u003c").encode()
    assert old in text
    return text.replace(old, json.dumps({**before, **changes}).encode())


@needs_chromium
@pytest.mark.parametrize("topk", [1, 4, 10])
def test_topk_takes_the_largest_weights_and_says_who_draws(
    topk: int, model: ImageGaussians, browser: Page, tmp_path: Path
) -> None:
    open_page(browser, tmp_path, with_description(page_text(model), blend="topk", topk=topk))
    assert browser.evaluate("splatViewer.renderer") == "on the processor"
    said = browser.evaluate("document.getElementById('numbers').textContent")
    assert "WebGL2 is used for blend sum alone" in said and f"topk, {topk} a pixel" in said
    got, where = shown(browser, x=0, y=0, zoom=1)
    options = RasterizeOptions(blend="topk", topk=topk)
    shapes = (model.log_scales, model.angles)
    picture, _ = rasterize_image(model.means, shapes, model.colors, (WIDTH, HEIGHT), blend=options)
    x, y = int(-where["x"]), int(-where["y"])  # of the picture's corner on the screen
    part = got[y : y + HEIGHT, x : x + WIDTH, :3]
    # At its edge a Gaussian may count for one and not for the other.
    assert np.abs(part - picture.clamp(0, 1).double().numpy()).mean() <= 1 / 255


@needs_chromium
@pytest.mark.parametrize("query", RENDERERS)
def test_dilation_widens_and_dims_in_pixels_of_the_screen(
    query: str, model: ImageGaussians, browser: Page, tmp_path: Path
) -> None:
    open_page(browser, tmp_path, with_description(page_text(model), dilation=0.7), query)
    got, where = shown(browser, x=10, y=5, zoom=3)
    height, width = got.shape[:2]
    covariances = 9 * covariances_of(model)
    wider = covariances + 0.7 * torch.eye(2)
    peaks = (torch.linalg.det(covariances) / torch.linalg.det(wider)).sqrt()
    means = (model.means - torch.tensor([where["x"], where["y"]])) * 3
    picture, _ = rasterize_image(means, wider, model.colors, (width, height), opacities=peaks)
    check_same(got, picture.clamp(0, 1).double().numpy(), part_of(model, {**where, "count": 300}, width, height)[1])


_HIDE = """
const context = HTMLCanvasElement.prototype.getContext, extension = WebGL2RenderingContext.prototype.getExtension;
const hidden = %s;
HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
  return hidden.includes(kind) ? null : context.call(this, kind, ...rest);
};
WebGL2RenderingContext.prototype.getExtension = function (name) {
  return hidden.includes(name) ? null : extension.call(this, name);
};
"""


@needs_chromium
@pytest.mark.parametrize(
    ("hidden", "renderer", "reason"),
    [
        (["EXT_float_blend"], "by WebGL2, summed in 16-bit floats", ""),
        (["EXT_color_buffer_float", "EXT_color_buffer_half_float"], "on the processor", "no float targets"),
        (["webgl2"], "on the processor", "no WebGL2 here"),
    ],
)
def test_what_the_browser_lacks_is_made_up_for_and_said(
    hidden: list[str], renderer: str, reason: str, model: ImageGaussians, browser: Page, tmp_path: Path
) -> None:
    browser.call("Page.enable")
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=_HIDE % json.dumps(hidden))
    try:
        open_page(browser, tmp_path, page_text(model), WEBGL)
    finally:
        browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
    assert browser.evaluate("splatViewer.renderer") == renderer
    assert reason in browser.evaluate("document.getElementById('numbers').textContent")
    got, where = shown(browser, x=10, y=5, zoom=3)
    want, inside = part_of(model, where, got.shape[1], got.shape[0])
    assert np.abs(got[..., :3] - want)[inside].mean() <= 1 / 255


@needs_chromium
def test_webgl_without_a_gpu_is_left_alone(model: ImageGaussians, browser: Page, tmp_path: Path) -> None:
    open_page(browser, tmp_path, page_text(model))
    assert browser.evaluate("splatViewer.renderer") == "on the processor"
    assert "WebGL2 has no GPU here" in browser.evaluate("document.getElementById('numbers').textContent")


@needs_chromium
def test_a_lost_context_is_made_up_for(model: ImageGaussians, browser: Page, tmp_path: Path) -> None:
    open_page(browser, tmp_path, page_text(model), WEBGL)
    lose = (
        "document.querySelector('#stage canvas').getContext('webgl2').getExtension('WEBGL_lose_context').loseContext()"
    )
    browser.evaluate(f"{lose}; new Promise(done => setTimeout(done, 200))")
    assert browser.evaluate("splatViewer.renderer") == "on the processor"
    assert browser.evaluate("document.querySelectorAll('#stage canvas').length") == 2


# How it is moved


def send_key(browser: Page, key: str) -> None:
    browser.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key if len(key) == 1 else "")
    browser.call("Input.dispatchKeyEvent", type="keyUp", key=key)


@needs_chromium
def test_wheel_drag_and_keys_move_as_they_say(model: ImageGaussians, browser: Page, tmp_path: Path) -> None:
    open_page(browser, tmp_path, page_text(model, PageFacts(layers=(20, 80, 200))))
    view = lambda: browser.evaluate("splatViewer.view")  # noqa: E731
    top = browser.evaluate("document.getElementById('stage').getBoundingClientRect().top")
    mouse = {"x": 300, "y": top + 90}
    fitted = view()
    assert fitted["zoom"] == pytest.approx(
        min(s / m for s, m in zip(browser.evaluate("splatViewer.size"), (WIDTH, HEIGHT), strict=True))
    )
    browser.call("Input.dispatchMouseEvent", type="mouseWheel", deltaX=0, deltaY=-500, **mouse)
    near = view()
    assert near["zoom"] == pytest.approx(fitted["zoom"] * np.exp(0.75))
    for axis, pixel in (("x", 300), ("y", 90)):  # what is under the pointer stays there
        assert near[axis] + pixel / near["zoom"] == pytest.approx(
            fitted[axis] + pixel / fitted["zoom"], abs=0.3 / near["zoom"]
        )
    browser.call("Input.dispatchMouseEvent", type="mousePressed", button="left", clickCount=1, **mouse)
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", button="left", buttons=1, x=280, y=top + 100)
    browser.call("Input.dispatchMouseEvent", type="mouseReleased", button="left", x=280, y=top + 100)
    moved = view()
    assert (moved["x"] - near["x"]) * near["zoom"] == pytest.approx(20)
    assert (moved["y"] - near["y"]) * near["zoom"] == pytest.approx(-10)
    send_key(browser, "1")
    assert view()["zoom"] == 1 and view()["x"] == round(view()["x"])
    send_key(browser, "f")
    assert view() == fitted
    for key, count in (("[", 100), ("[", 20), ("[", 20), ("]", 100)):  # stops at the layers
        send_key(browser, key)
        assert view()["count"] == count
    browser.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert browser.evaluate("document.getElementById('shown').textContent") == "layer 2 of 3, 100 of 300"
    send_key(browser, "?")
    assert browser.evaluate("document.getElementById('about').open")
    assert browser.problems == []


@needs_chromium
def test_two_fingers_zoom_about_their_middle(model: ImageGaussians, browser: Page, tmp_path: Path) -> None:
    open_page(browser, tmp_path, page_text(model))
    top = browser.evaluate("document.getElementById('stage').getBoundingClientRect().top")
    before = browser.evaluate("splatViewer.view")

    def touch(kind: str, *places: float) -> None:
        points = [{"x": x, "y": top + 100, "id": i} for i, x in enumerate(places)]
        browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    touch("touchStart", 200, 240)
    touch("touchMove", 180, 260)
    touch("touchEnd")
    after = browser.evaluate("splatViewer.view")
    assert after["zoom"] == pytest.approx(2 * before["zoom"])
    for axis, pixel in (("x", 220), ("y", 100)):
        middle = before[axis] + pixel / before["zoom"]
        assert after[axis] + pixel / after["zoom"] == pytest.approx(middle, abs=1 / after["zoom"])
    assert browser.problems == []


@needs_chromium
def test_the_processor_draws_all_pixels_after_a_coarse_picture(
    model: ImageGaussians, browser: Page, tmp_path: Path
) -> None:
    open_page(browser, tmp_path, page_text(model), "?renderer=canvas")
    now = """(() => {
      const canvas = document.querySelector("#stage canvas"), {width, height} = canvas;
      return canvas.getContext("2d").getImageData(0, 0, width, height).data.join();
    })()"""
    browser.evaluate(f"""new Promise(done => {{
      let last = "", same = 0;
      const look = () => {{
        const text = {now};
        same = text === last ? same + 1 : 0;
        last = text;
        if (same > 4) done(1); else setTimeout(look, 100);
      }};
      look();
    }})""")
    settled = browser.evaluate(f"{now} === splatViewer.pixels().join()")
    assert settled is True


@needs_chromium
def test_ellipses_are_outlines_around_the_means(browser: Page, tmp_path: Path) -> None:
    one = make_model(1, WIDTH, HEIGHT)
    one = replace(one, means=torch.tensor([[45.0, 30.0]]), log_scales=torch.tensor([[2.0, 1.0]]), angles=torch.zeros(1))
    open_page(browser, tmp_path, page_text(replace(one, colors=torch.tensor([[0.9, 0.0, 0.0]]))))
    browser.evaluate("splatViewer.show({ellipses: true})")
    where = browser.evaluate("splatViewer.view")
    alpha = "((x, y) => document.getElementById('overlay').getContext('2d').getImageData(x, y, 1, 1).data[0])"

    def red(x: float, y: float) -> int:
        px, py = ((p - where[k]) * where["zoom"] for p, k in ((x, "x"), (y, "y")))
        return int(browser.evaluate(f"{alpha}({px}, {py})"))

    e, e2 = np.exp(1), np.exp(2)
    for x, y in ((45 + e2, 30), (45 - e2, 30), (45, 30 + e), (45, 30 - e)):
        assert red(x, y) > 100
    for x, y in ((45, 30), (45 + 0.8 * e2, 30), (45, 30 + 1.3 * e)):
        assert red(x, y) < 30
