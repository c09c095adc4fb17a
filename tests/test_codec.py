"""The .s2d codec: round trips, sizes, layers, chunks, and files that mean harm."""

from __future__ import annotations

import math
import signal
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import splat
from splat.cli import main
from splat.image.codec import lattice as lattice_module
from splat.image.codec.container import CodecError, Source, section
from splat.image.codec.encode import EncodeConfig, Encoded, encode_image, encode_model, encode_to_psnr
from splat.image.codec.finish import BITS, FinishConfig, geometry_of, round_gaussians
from splat.image.codec.lattice import MAX_CLASS, Geometry, Lattice, angle_levels, fine_bits, step_of
from splat.image.codec.positions import SplitModels, cell_keys, cells_of, decode_cells, encode_cells
from splat.image.codec.range_coder import RangeDecoder, RangeEncoder
from splat.image.codec.s2d import decode_image
from splat.image.fit import FitConfig, fit_image
from splat.image.fitter import FitProgress
from splat.image.layout import Layout
from splat.image.levels import layer_sizes
from splat.image.model import TENSORS, ImageGaussians
from splat.image.objective import Objective
from splat.image.page import PageFacts, page_text
from splat.image.picture import Picture, read_picture, write_picture
from splat.metrics import psnr

PHOTO = Path(__file__).parent.parent / "scenes" / "photos" / "kodim23.png"


@cache
def picture() -> Picture:
    whole = read_picture(PHOTO)
    return replace(whole, pixels=whole.pixels[100:292, 200:456].contiguous())


def photo() -> torch.Tensor:
    return picture().pixels


@cache
def fitted() -> ImageGaussians:
    return fit_image(picture(), FitConfig(n=400, preset="draft")).model


@cache
def coded() -> Encoded:
    return encode_model(fitted(), photo())


@cache
def layered() -> Encoded:
    model = fitted()
    order = (model.colors.square().sum(1) * model.log_scales.sum(1).exp()).argsort(descending=True)
    return encode_model(replace(model.map(lambda t: t[order]), layers=(40, 150, 400)), photo())


@cache
def chunked() -> Encoded:
    return encode_model(fitted(), photo(), EncodeConfig(chunk=64))


def same(a: ImageGaussians, b: ImageGaussians) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in TENSORS)


def a_lattice(qp: float = 28.0, cell: int = 3) -> Lattice:
    return Lattice(qp, cell, 256, 192, np.eye(3), np.zeros(3))


# ---- numbers


def test_a_step_changes_the_picture_by_about_delta_whatever_the_parameter() -> None:
    """The lengths in lattice.py, against drawn pictures: each parameter moved by its step."""
    at = torch.tensor([[128.3, 96.4]], dtype=torch.float64)
    sd, angle, color = (6.0, 2.0), 0.6, torch.tensor([[0.5, 0.3, 0.1]], dtype=torch.float64)
    lattice = a_lattice(24.0)

    def draw(means: torch.Tensor, logs: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        return ImageGaussians(means, logs, turn, color, 256, 192).render(backend="reference")

    logs, turn = torch.tensor([sd], dtype=torch.float64).log(), torch.tensor([angle], dtype=torch.float64)
    geometry = Geometry(at.numpy(), logs.numpy(), turn.numpy())
    classes = lattice.classes(geometry, color.numpy())
    assert 0 < classes[0] < MAX_CLASS
    length = geometry.lengths[0] * float(color.norm())
    symbols = lattice.round_geometry(geometry, classes)
    steps = {
        "scale": (at, logs + torch.tensor([[lattice_module.scale_step(classes)[0] / 256 * math.log(2), 0.0]]), turn),
        "angle": (at, logs, turn + math.pi / angle_levels(classes, symbols.ratio)[0]),
        "x": (
            at
            + torch.tensor([[8.0 / 2 ** fine_bits(classes, symbols.minor, symbols.ratio, symbols.angle, 3)[0, 0], 0]]),
            logs,
            turn,
        ),
    }
    # The class stands for lengths from 2^-1/2 to 2^1/2 of it, whole bits and levels for as much again.
    expected = lattice.delta * length / (lattice.delta * 2.0 ** classes[0])
    for name, moved in steps.items():
        change = float((draw(*moved) - draw(at, logs, turn)).norm())
        assert 0.5 < change / expected < 2.0, (name, change, expected)


def test_rounding_twice_changes_nothing_and_errors_stay_within_half_a_step() -> None:
    lattice, params = a_lattice(), {name: getattr(fitted(), name) for name in TENSORS}
    geometry, colors = geometry_of(params), params["colors"].double().numpy()
    classes = lattice.classes(geometry, colors)
    symbols = lattice.round_geometry(geometry, classes)
    once = lattice.geometry(symbols)
    again = lattice.round_geometry(once, classes)
    for name in ("cells", "minor", "ratio", "angle", "fine"):
        assert np.array_equal(getattr(symbols, name), getattr(again, name)), name
    inside = ((params["means"] > 0) & (params["means"] < torch.tensor([256.0, 192.0]))).all(1).numpy()
    step = 8.0 / 2 ** fine_bits(classes, symbols.minor, symbols.ratio, symbols.angle, 3)
    assert (np.abs(once.means - geometry.means)[inside] <= step[inside] / 2 + 1e-9).all()
    steps = lattice.round_colors(once, colors)
    error = np.abs(lattice.colors(once, steps) - colors) * once.lengths[:, None]
    assert error.max() <= lattice.delta / 2 + 1e-9


def test_qp_doubles_the_step_every_six() -> None:
    assert step_of(34) == pytest.approx(2 * step_of(28))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 36), st.integers(0, 12)), max_size=60))
def test_cells_come_back_in_the_grids_order(cells: list[tuple[int, int]]) -> None:
    grid = (37, 13)
    keys = np.sort(cell_keys(np.array(cells, np.int64).reshape(-1, 2), grid))
    encoder = RangeEncoder()
    encode_cells(encoder, keys, grid, SplitModels())
    decoder = RangeDecoder(encoder.finish())
    got = decode_cells(decoder, len(cells), grid, SplitModels())
    decoder.finish()
    assert np.array_equal(got, keys)
    assert sorted(map(tuple, cells_of(got, grid).tolist())) == sorted(cells)


def test_positions_cost_what_a_set_of_them_holds() -> None:
    """N points spread evenly over M cells: log2 of M^N less their orders."""
    count, side = 3000, 64
    cells = np.random.default_rng(0).integers(0, side, (count, 2))
    encoder = RangeEncoder()
    encode_cells(encoder, np.sort(cell_keys(cells, (side, side))), (side, side), SplitModels())
    bits = 8 * len(encoder.finish())
    _, several = np.unique(cells, axis=0, return_counts=True)
    orders = math.lgamma(count + 1) - sum(math.lgamma(n + 1) for n in several.tolist())
    ideal = count * math.log2(side * side) - orders / math.log(2)
    assert ideal * 0.99 < bits < ideal * 1.05


# ---- files


def test_a_decoder_gets_what_the_encoder_says() -> None:
    encoded = coded()
    decoded = decode_image(encoded.data)
    assert same(decoded.model, encoded.model) and decoded.bytes_total == len(encoded.data)
    with torch.no_grad():
        assert psnr(decoded.model.render().clamp(0, 1), photo()) == pytest.approx(encoded.psnr, abs=0.02)
    assert decoded.psnr[0] == pytest.approx(encoded.psnr, abs=0.006)
    assert encoded.ledger.total == len(encoded.data)
    assert len(encoded.data) < 5 * len(encoded.model)  # measured 4.6; as float32 they take 32 bytes


def test_rounding_a_part_at_a_time_beats_rounding_at_once() -> None:
    lattice = replace(a_lattice(30.0), basis=np.eye(3))
    params = {name: getattr(fitted(), name) for name in TENSORS}
    objective = Objective.of(photo())

    def quality(config: FinishConfig) -> float:
        symbols = round_gaussians(params, objective, lattice, config)
        geometry = lattice.geometry(symbols)
        parts = [geometry.means, geometry.log_scales, geometry.angles, lattice.colors(geometry, symbols.colors)]
        model = ImageGaussians(*(torch.from_numpy(p).float() for p in parts), width=256, height=192)
        return psnr(model.render().clamp(0, 1), photo())

    # Measured: 0.7 dB.
    assert quality(FinishConfig()) > quality(FinishConfig(rounds=1, color_rounds=1)) + 0.3


def test_more_steps_cost_more_bytes_and_are_better() -> None:
    coarse, fine = (encode_model(fitted(), photo(), EncodeConfig(qp=qp)) for qp in (36.0, 22.0))
    assert len(coarse.data) < len(coded().data) < len(fine.data)
    assert coarse.psnr < coded().psnr < fine.psnr


@pytest.mark.parametrize("size", [900, 1600])
def test_a_file_is_as_large_as_it_may_be(size: int) -> None:
    encoded = encode_image(picture(), EncodeConfig(max_bytes=size), FitConfig(preset="draft"))
    assert 0.93 * size < len(encoded.data) <= size
    assert 0.7 < 8 * len(encoded.data) / len(encoded.model) / BITS["sum"] < 1.4


def test_a_size_that_no_step_reaches_is_refused() -> None:
    with pytest.raises(ValueError, match="max_bytes 40 is too small for 400 Gaussians; fit fewer, about 9"):
        encode_model(fitted(), photo(), EncodeConfig(max_bytes=40))


def test_a_psnr_is_reached_without_much_more() -> None:
    encoded = encode_to_psnr(picture(), 30.0, fit=FitConfig(preset="draft"))
    assert 30.0 <= encoded.psnr < 30.5


def test_the_same_picture_gives_the_same_file_for_any_number_of_threads() -> None:
    threads = splat.get_num_threads()
    splat.set_num_threads(1 if threads > 1 else 3)
    again = encode_model(fitted(), photo())
    splat.set_num_threads(threads)
    assert again.data == coded().data


@pytest.mark.parametrize("blend", ["sum", "topk"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_other_channels_and_blends_come_back(mode: str, blend: str) -> None:
    generator = torch.Generator().manual_seed(1)
    layout = Layout.of(mode)  # type: ignore[arg-type]
    count = 300  # as dense as a fit: normalised weights of topk are all tail elsewhere
    model = ImageGaussians(
        torch.rand(count, 2, generator=generator) * 64,
        torch.rand(count, 2, generator=generator) + 0.5,
        torch.rand(count, generator=generator) * 3,
        torch.rand(count, layout.channels, generator=generator),
        64,
        64,
        layout,
        blend=blend,  # type: ignore[arg-type]
        topk=7,
        dilation=0.25,
    )
    decoded = decode_image(encode_model(model, config=EncodeConfig(qp=6.0)).data).model
    assert (decoded.layout, decoded.blend, decoded.dilation) == (layout, blend, 0.25)
    assert decoded.topk == (7 if blend == "topk" else 10)
    with torch.no_grad():
        assert psnr(decoded.render().clamp(0, 1), model.render().clamp(0, 1)) > 30


def test_layouts_of_stacks_come_back() -> None:
    maps = [splat.TextureMap(photo()[:64, :64]), splat.TextureMap(photo()[:64, :64, :1], name="height")]
    model = fit_image(maps, FitConfig(n=80, preset="draft")).model
    assert decode_image(encode_model(model).data).model.layout == model.layout


# ---- layers and chunks


def test_each_prefix_that_ends_on_a_layer_is_a_file_and_later_ones_are_better() -> None:
    data, known = layered().data, []
    with Source(data) as file:
        ends = [found.end for found in file.sections() if found.name == b"LAYR"]
    assert len(ends) == 3
    for layers, end in enumerate(ends, 1):
        cut = decode_image(data[:end])
        assert same(cut.model, decode_image(data, layers=layers).model) and not cut.cut_off
        assert same(cut.model, decode_image(data, max_bytes=end).model)
        known.append(psnr(cut.model.render().clamp(0, 1), photo()))
        assert cut.psnr[-1] == pytest.approx(known[-1], abs=0.05)
    assert known[0] < known[1] < known[2]
    assert decode_image(data).model.layers == layered().model.layers


def test_a_file_that_was_cut_off_gives_its_whole_layers_and_says_so() -> None:
    with pytest.warns(UserWarning, match="is cut off: 2 layers are whole"):
        cut = decode_image(layered().data[:-5])
    assert cut.cut_off and same(cut.model, decode_image(layered().data, layers=2).model)
    with pytest.raises(CodecError, match="holds no whole layer"):
        decode_image(coded().data[:-5])


def test_a_crop_reads_only_its_chunks_and_draws_the_same() -> None:
    encoded = chunked()
    whole = decode_image(encoded.data).model
    for crop in ((5.0, 5.0, 20.0, 20.0), (200.0, 150.0, 40.0, 30.0), (100.0, 60.0, 64.0, 64.0)):
        part = decode_image(encoded.data, crop=crop)
        torch.testing.assert_close(part.model.render(crop=crop), whole.render(crop=crop), rtol=0, atol=2e-5)
        assert part.bytes_read <= len(encoded.data)
    corner = decode_image(encoded.data, crop=(0.0, 0.0, 8.0, 8.0))
    assert len(corner.model) < 0.7 * len(whole) and corner.bytes_read < 0.8 * len(encoded.data)


def test_a_step_between_quarters_is_the_one_in_the_file() -> None:
    encoded = encode_model(fitted(), photo(), EncodeConfig(qp=28.1))
    assert encoded.qp == 28.0 and encoded.data == coded().data


def test_layers_of_topk_which_do_not_add_up_become_one() -> None:
    model = replace(fitted(), blend="topk", layers=(100, 400))
    encoded = encode_model(model, config=EncodeConfig(qp=20.0))
    assert len(encoded.model.layers) == 1
    assert psnr(encoded.model.render().clamp(0, 1), model.render().clamp(0, 1)) == pytest.approx(encoded.psnr, abs=0.6)


@pytest.mark.parametrize(("blend", "dilation"), [("topk", 0.0), ("sum", 6.0)])
def test_a_halo_holds_all_that_a_blend_or_a_dilation_draws(blend: str, dilation: float) -> None:
    model = replace(fitted(), blend=blend, dilation=dilation)
    encoded = encode_model(model, config=EncodeConfig(chunk=32))
    for crop in ((33.0, 33.0, 30.0, 30.0), (130.0, 97.0, 28.0, 30.0)):
        part = decode_image(encoded.data, crop=crop).model
        torch.testing.assert_close(part.render(crop=crop), encoded.model.render(crop=crop), rtol=0, atol=1e-4)


def test_all_bytes_of_a_file_are_counted_once() -> None:
    decoded = decode_image(layered().data)
    assert decoded.bytes_read == decoded.bytes_total


def test_sections_that_are_not_known_are_passed_over() -> None:
    data = coded().data
    with Source(data) as file:
        head = next(iter(file.sections()))
    more = data[: head.end] + section(b"NEWS", b"what is to come") + data[head.end :] + section(b"META", b"{}")
    assert same(decode_image(more).model, coded().model)


# ---- files that mean harm


@pytest.mark.parametrize("name", ["coded", "layered", "chunked"])
def test_no_damage_does_more_than_raise_an_error(name: str) -> None:
    data = globals()[name]().data
    random, refused, tries = np.random.default_rng(0), 0, 150
    for _ in range(tries):
        bad = bytearray(data)
        for _ in range(random.integers(1, 4)):
            bad[random.integers(0, len(bad))] = random.integers(0, 256)
        cut = bytes(bad[: random.integers(1, len(bad) + 1)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert len(decode_image(cut).model) <= len(globals()[name]().model)
            except CodecError:
                refused += 1
    assert refused > tries / 4  # the rest lost whole layers only


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_content_with_a_good_check_sum_is_not_believed_either(data: st.DataObject) -> None:
    """Damage inside the sections, whose check sums are then made to fit."""
    source = data.draw(st.sampled_from([coded().data, layered().data, chunked().data]))
    parts = [source[:4]]
    with Source(source) as file:
        for found in file.sections():
            content = bytearray(file.content(found))
            for _ in range(data.draw(st.integers(0, 2))):
                content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
            parts.append(section(found.name, bytes(content)))
    try:
        model = decode_image(b"".join(parts)).model
    except CodecError:
        return
    assert len(model) < 100_000


def test_a_small_file_cannot_ask_for_much_memory() -> None:
    data = coded().data
    with Source(data) as file:
        sections = list(file.sections())
        layer = file.content(sections[-1])
    body = layer[2:]  # a count of 400 takes two bytes
    bad = data[: sections[-1].start - 6] + section(b"LAYR", b"\xff\xff\xff\x0f" + body)
    with pytest.raises(CodecError, match="cannot hold 33554431 Gaussians"):
        decode_image(bad)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a .s2d file"),
        (b"PNG..", "not a .s2d file"),
        (b"S2D1", "ends inside its header"),
        (b"S2D1" + section(b"LAYR", b"12"), "first section must be HEAD"),
        (b"S2D1" + section(b"HEAD", b"\x09"), "version 9 of .s2d is newer"),
    ],
)
def test_what_is_no_file_of_ours_is_told(data: bytes, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        decode_image(data)


# ---- the commands


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0)


def test_encode_decode_and_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted().save(tmp_path / "m.safetensors")
    assert run("encode", tmp_path / "m.safetensors", tmp_path / "a.s2d", "--qp", "30", "--chunk", "64", "--quiet") == 0
    assert "bits a Gaussian" in capsys.readouterr().out
    assert run("decode", tmp_path / "a.s2d", tmp_path / "a.png", "--crop", "8", "8", "40", "30", "--scale", "2") == 0
    assert "80 x 60" in capsys.readouterr().out
    assert run("info", tmp_path / "a.s2d") == 0
    said = capsys.readouterr().out
    assert "section    DATA" in said and "chunks     64 pixels" in said and "dB PSNR" in said
    assert run("encode", tmp_path / "m.safetensors", tmp_path / "b.s2d", "--qp", "30", "--max-bytes", "9") == 2
    assert "give one of" in capsys.readouterr().err
    assert run("decode", tmp_path / "none.s2d", tmp_path / "b.png") == 2
    assert "no such file" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "a.s2d", "m.safetensors"]


@pytest.mark.parametrize("target_psnr", [None, 45.0])
def test_ctrl_c_codes_what_there_is_of_the_fit(target_psnr: float | None) -> None:
    fits, shares = [0], list[float]()

    def stop(progress: FitProgress) -> None:
        fits[0] += progress.phase == "init"
        if progress.step == 40:
            raise KeyboardInterrupt

    fit = FitConfig(preset="draft")
    if target_psnr is None:
        encoded = encode_image(photo(), EncodeConfig(max_bytes=800), fit, callback=stop, tell=shares.append)
        assert len(encoded.data) <= 800
    else:
        encoded = encode_to_psnr(photo(), target_psnr, fit=fit, callback=stop, tell=shares.append)
    assert encoded.interrupted and fits == [1] and shares[-1] == 1.0
    assert decode_image(encoded.data).psnr[-1] == pytest.approx(encoded.psnr, abs=0.01) and encoded.psnr > 20


def test_the_pixel_kernel_goes_into_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_picture(tmp_path / "photo.png", photo(), picture().layout)
    out = tmp_path / "a.s2d"
    for options, dilation in (([], 1 / 12), (["--no-pixel-kernel"], 0.0)):
        assert run("encode", tmp_path / "photo.png", out, "-n", "60", "--preset", "draft", "--quiet", *options) == 0
        assert decode_image(out).model.dilation == pytest.approx(dilation, abs=1e-4)
    fitted().save(tmp_path / "m.safetensors")
    assert run("encode", tmp_path / "m.safetensors", out, "--no-pixel-kernel") == 2
    assert "--pixel-kernel does not apply: m.safetensors is a fitted model" in capsys.readouterr().err
    assert run("encode", tmp_path / "photo.png", out, "--photo", tmp_path / "photo.png") == 2
    assert "--photo does not apply" in capsys.readouterr().err


def test_a_picture_of_one_pixel_is_coded_for_a_psnr() -> None:
    encoded = encode_to_psnr(torch.full((1, 1, 3), 0.5), 30.0, fit=FitConfig(preset="draft"))
    assert encoded.psnr >= 30


@pytest.mark.parametrize("target_psnr", [1e9, math.nan, -5.0])
def test_a_psnr_that_cannot_be_is_named(target_psnr: float) -> None:
    with pytest.raises(ValueError, match="target_psnr must be between 0 and 100"):
        encode_to_psnr(photo(), target_psnr)
    with pytest.raises(ValueError, match="fit must have no target_psnr"):
        encode_to_psnr(photo(), 30.0, fit=FitConfig(target_psnr=33.0))


def test_a_target_of_another_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"target must have the model's shape \[192, 256, 3\]"):
        encode_model(fitted(), photo()[:, :, :1])


def test_ctrl_c_while_coding_ends_the_search_with_a_whole_file() -> None:
    sent, fits = list[float](), [0]

    def count(progress: FitProgress) -> None:
        fits[0] += progress.phase == "init"

    def tell(share: float) -> None:
        if not sent:
            signal.raise_signal(signal.SIGINT)
        sent.append(share)

    encoded = encode_to_psnr(photo(), 45.0, fit=FitConfig(preset="draft"), callback=count, tell=tell)
    assert encoded.interrupted and sent[-1] == 1.0 and fits == [1]
    assert decode_image(encoded.data).psnr[-1] == pytest.approx(encoded.psnr, abs=0.01)


def test_layers_that_are_worth_nothing_are_left_out() -> None:
    model = replace(fitted(), layers=(40, 150, 400))
    encoded = encode_model(model, photo(), EncodeConfig(qp=58))  # so coarse that the last layer vanishes
    assert 0 < len(encoded.layers) < 3 and encoded.layers[-1].count == len(encoded.model)
    assert len(set(encoded.model.layers)) == len(encoded.model.layers)
    assert page_text(encoded.model, PageFacts(layers=layer_sizes(encoded.model)))
