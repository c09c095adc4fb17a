"""The entropy coder of pictures: what goes in comes out, in the same bytes from both backends, at about the cost that
theory allows; and damaged data do no harm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splat.core import ops
from splat.image.codec import reference_coder
from splat.image.codec.range_coder import Models, RangeDecoder, RangeEncoder
from splat.image.codec.reference_coder import Kind

Array = npt.NDArray[np.int32]
INT32 = (-(2**31), 2**31 - 1)
BACKENDS = [pytest.param(True, id="compiled"), pytest.param(False, id="twin")]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs on the compiled coder and on its twin."""
    monkeypatch.setattr(ops, "available", request.param)


def on_both(function: Callable[[], Any]) -> list[Any]:
    """What the compiled coder does, then its twin; a ValueError is a result too."""
    results = []
    for available in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ops, "available", available)
            try:
                results.append(function())
            except ValueError as error:
                results.append(str(error))
    return results


def zeros(count: int) -> Array:
    return np.zeros(count, np.int32)


def coded(values: Array, kind: str = "signed", contexts: Array | None = None, memory: int = 0) -> bytes:
    encoder = RangeEncoder()
    getattr(encoder, kind)(values, zeros(len(values)) if contexts is None else contexts, memory=memory)
    return encoder.finish()


@st.composite
def calls(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Some calls of the coder: the kind, what is coded, in what contexts."""
    drawn = []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["signed", "unsigned", "bounded", "bits"]))
        count = draw(st.integers(0, 40))
        near = draw(st.sampled_from([3, 200, 2**31 - 1]))
        if kind == "signed":
            values = draw(st.lists(st.integers(max(-near - 1, INT32[0]), near), min_size=count, max_size=count))
            sizes = None
        elif kind == "unsigned":
            values, sizes = draw(st.lists(st.integers(0, near), min_size=count, max_size=count)), None
        else:
            low, most = (1, near) if kind == "bounded" else (0, 31)
            sizes = draw(st.lists(st.integers(low, most), min_size=count, max_size=count))
            values = [draw(st.integers(0, (n if kind == "bounded" else 2**n) - 1)) for n in sizes]
        contexts = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
        drawn.append(
            {"kind": kind, "values": values, "sizes": sizes, "contexts": contexts, "memory": draw(st.integers(0, 3))}
        )
    return drawn


def encode_all(drawn: list[dict[str, Any]]) -> bytes:
    encoder = RangeEncoder()
    for call in drawn:
        how = () if call["kind"] == "bits" else (np.array(call["contexts"], np.int32), Models(4), call["memory"])
        sizes = () if call["sizes"] is None else (np.array(call["sizes"], np.int32),)
        getattr(encoder, call["kind"])(np.array(call["values"], np.int32), *sizes, *how)
    return encoder.finish()


def decode_all(data: bytes, drawn: list[dict[str, Any]]) -> list[list[int]]:
    decoder, results = RangeDecoder(data), []
    for call in drawn:
        how = () if call["kind"] == "bits" else (np.array(call["contexts"], np.int32), Models(4), call["memory"])
        sizes = () if call["sizes"] is None else (np.array(call["sizes"], np.int32),)
        results.append(getattr(decoder, call["kind"])(*sizes, *how).tolist())
    decoder.finish()
    return results


@settings(max_examples=80, deadline=None)
@given(calls())
def test_what_goes_in_comes_out_in_the_same_bytes_from_both_backends(drawn: list[dict[str, Any]]) -> None:
    compiled, twin = on_both(lambda: encode_all(drawn))
    assert compiled == twin
    for back in on_both(lambda: decode_all(compiled, drawn)):
        assert back == [call["values"] for call in drawn]


@settings(max_examples=80, deadline=None)
@given(calls(), st.binary(max_size=60))
def test_any_bytes_give_values_or_a_value_error_the_same_from_both_backends(
    drawn: list[dict[str, Any]], data: bytes
) -> None:
    compiled, twin = on_both(lambda: decode_all(data, drawn))
    assert compiled == twin
    if not isinstance(compiled, str):
        for values, call in zip(compiled, drawn, strict=True):
            assert all(INT32[0] <= v <= INT32[1] for v in values)
            if call["sizes"] is not None:
                top = [n if call["kind"] == "bounded" else 2**n for n in call["sizes"]]
                assert all(0 <= v < t for v, t in zip(values, top, strict=True))


@pytest.mark.usefixtures("backend")
def test_nothing_costs_nothing() -> None:
    assert RangeEncoder().finish() == b""
    RangeDecoder(b"").finish()
    for kind in ("signed", "unsigned"):
        assert coded(zeros(0), kind, memory=4) == b""
        assert getattr(RangeDecoder(b""), kind)(zeros(0), memory=4).tolist() == []
    encoder = RangeEncoder()
    encoder.bits(zeros(5), zeros(5))
    encoder.bounded(zeros(5), zeros(5) + 1, zeros(5))
    assert encoder.finish() == b""


def ideal_bits(values: Array) -> float:
    """Code length by the estimator of Krichevsky & Trofimov (1981) over the values from the least to the greatest."""
    indices = values - values.min()
    counts = np.full(indices.max() + 1, 0.5)
    total, bits = counts.sum(), 0.0
    for i in indices.tolist():
        bits -= np.log2(counts[i] / total)
        counts[i] += 1
        total += 1
    return float(bits)


def source(name: str, count: int) -> Array:
    random = np.random.default_rng(3)
    values = {
        "geometric": random.geometric(0.3, count) - 1,
        "flat geometric": random.geometric(0.03, count) - 1,
        "laplace": np.rint(random.laplace(0, 4, count)),
        "rare": random.random(count) < 0.03,
        "drifting": np.rint(random.laplace(0, np.exp(np.linspace(0, 3, count)))),
        "two peaks": np.where(random.random(count) < 0.6, random.normal(12, 2, count), random.normal(45, 3, count)),
    }[name]
    return np.rint(values).astype(np.int32)


@pytest.mark.parametrize("count", [300, 5000])
@pytest.mark.parametrize(
    ("name", "kind", "excess"),
    [
        ("geometric", "unsigned", 1.02),
        ("flat geometric", "unsigned", 1.02),
        ("laplace", "signed", 1.02),
        ("rare", "unsigned", 1.05),
        ("drifting", "signed", 0.96),
        ("two peaks", "bounded", 1.02),
    ],
)
def test_the_size_is_near_the_adaptive_ideal(name: str, kind: str, excess: float, count: int) -> None:
    values = source(name, count)
    if kind == "bounded":
        encoder = RangeEncoder()
        encoder.bounded(values, zeros(count) + 64, zeros(count))
        data = encoder.finish()
    else:
        data = coded(values, kind)
    assert 8 * len(data) < excess * ideal_bits(values) + 8  # and the rest of the last byte


def test_bits_cost_their_width_and_levels_their_logarithm() -> None:
    random, count = np.random.default_rng(4), 4000
    widths = random.integers(0, 25, count).astype(np.int32)
    encoder = RangeEncoder()
    encoder.bits(random.integers(0, 1 << widths), widths)
    assert 0 <= 8 * len(encoder.finish()) - widths.sum() <= 16
    for levels in (5, 48, 1000):
        encoder = RangeEncoder()
        encoder.bounded(random.integers(0, levels, count), zeros(count) + levels, zeros(count))
        assert count * np.log2(levels) < 8 * len(encoder.finish()) < 1.025 * count * np.log2(levels)


def test_the_value_before_helps_where_neighbours_are_alike() -> None:
    random = np.random.default_rng(5)
    walk = zeros(4000)
    for i in range(1, len(walk)):
        walk[i] = np.rint(0.95 * walk[i - 1] + random.normal(0, 1))
    assert len(coded(walk, memory=12)) < 0.85 * len(coded(walk))
    classes = (np.abs(walk) // 2).clip(0, 7)
    assert len(coded(classes, "unsigned", memory=8)) < 0.7 * len(coded(classes, "unsigned"))


def test_contexts_keep_different_sources_apart_and_cost_little_where_they_are_alike() -> None:
    random = np.random.default_rng(6)
    contexts = random.integers(0, 32, 3000).astype(np.int32)
    different = np.rint(random.laplace(0, np.where(contexts < 16, 0.5, 30.0))).astype(np.int32)
    apart = sum(len(coded(different[which])) for which in (contexts < 16, contexts >= 16))
    assert len(coded(different, contexts=contexts // 8)) < 1.03 * apart < 0.9 * len(coded(different))
    alike = np.rint(random.laplace(0, 5, 3000)).astype(np.int32)
    assert len(coded(alike, contexts=contexts)) < 1.05 * len(coded(alike))


@pytest.mark.usefixtures("backend")
def test_models_go_on_with_what_they_learnt() -> None:
    parts = np.split(source("laplace", 600) + 50, 30)
    known, fresh = RangeEncoder(), RangeEncoder()
    models = Models()
    for part in parts:
        known.signed(part, zeros(20), models, memory=3)
        fresh.signed(part, zeros(20), memory=3)
    data = known.finish()
    assert len(data) < 0.9 * len(fresh.finish())
    decoder, models = RangeDecoder(data), Models()
    for part in parts:
        assert (decoder.signed(zeros(20), models, memory=3) == part).all()
    decoder.finish()


@pytest.mark.usefixtures("backend")
def test_the_extremes_of_int32_are_values_like_others() -> None:
    values = np.array([INT32[0], INT32[1], 0, -1, INT32[0], 1, INT32[1]], np.int32)
    assert (RangeDecoder(coded(values, memory=4)).signed(zeros(7), memory=4) == values).all()
    largest = zeros(9) + INT32[1]
    assert (RangeDecoder(coded(largest, "unsigned")).unsigned(zeros(9)) == largest).all()


@pytest.mark.usefixtures("backend")
def test_carries_run_through_held_back_bytes() -> None:
    # All ones: low stays just under the top, so that its bytes of 255 wait; what follows settles them.
    for ones in range(12):
        for tail in ([0], [1], [255, 1]):
            values = np.array([255] * ones + tail, np.int32)
            encoder = RangeEncoder()
            encoder.unsigned(zeros(3) + 1, zeros(3))
            encoder.bits(values, zeros(len(values)) + 8)
            decoder = RangeDecoder(encoder.finish())
            decoder.unsigned(zeros(3))
            assert (decoder.bits(zeros(len(values)) + 8) == values).all()
            decoder.finish()


@pytest.mark.usefixtures("backend")
def test_the_bytes_of_the_format_do_not_change() -> None:
    encoder = RangeEncoder()
    numbers = np.arange(60, dtype=np.int32)
    encoder.signed(numbers * 7919 % 23 - 11, numbers % 3, memory=2)
    encoder.unsigned(numbers**3 % 500, numbers % 2)
    encoder.bounded(numbers % 5 * 13, zeros(60) + 70, numbers % 1)
    encoder.bits(numbers, zeros(60) + 6)
    assert encoder.finish().hex() == GOLDEN


GOLDEN = (
    "01ecbb39ec2534fcabf578ad03bf7daf666906eaa8ec6e3d55cc60672e0fb1f0ab6b4a39a7633ca3c05823f8fc594776f73d"
    "e671fc198884f1664273478210aeb3166c2e5910f74f417759d8d73af9df46161799a0d091fe7a4142261f5f97c08a6301c3"
    "2554370eae4479b0751081f519364003c33063d975a4f4b2dc182a0fa7b6e6de98530272aa97a997da3aa7e01293725bb804"
    "a4dc96ee01293725bb804a4dc96ee01293725bb804a4dc96ee01293725bb804a4dc96a"
)


@pytest.mark.usefixtures("backend")
def test_what_is_cut_or_too_long_is_damaged() -> None:
    values = source("laplace", 400)
    data = coded(values)
    for cut in (0, 1, 50, len(data) - 5, len(data) - 1):
        decoder = RangeDecoder(data[:cut])
        with pytest.raises(ValueError, match="coded data are damaged"):
            decoder.signed(zeros(400))
            decoder.finish()
    longer = RangeDecoder(data + b"abc")
    assert (longer.signed(zeros(400)) == values).all()
    with pytest.raises(ValueError, match="damaged: 3 bytes follow the last symbol"):
        longer.finish()


@pytest.mark.parametrize("fill", [0x00, 0xFF])
@pytest.mark.usefixtures("backend")
def test_the_longest_codes_end(fill: int) -> None:
    # Bytes of one value keep every decision the same: the longest escape, or the most symbols for the fewest bytes.
    data = bytes([fill]) * 3000
    for kind in ("signed", "unsigned"):
        decoder = RangeDecoder(data)
        try:
            values = getattr(decoder, kind)(zeros(5000))
        except ValueError as error:
            assert "damaged" in str(error)
        else:
            assert values.dtype == np.int32 and len(values) == 5000


def test_every_damaged_byte_is_survived_in_the_same_way_by_both_backends() -> None:
    values = source("laplace", 60)
    data = coded(values, memory=3)
    for i in range(len(data)):
        damaged = data[:i] + bytes([data[i] ^ 0x55]) + data[i + 1 :]
        compiled, twin = on_both(lambda damaged=damaged: RangeDecoder(damaged).signed(zeros(60), memory=3).tolist())
        assert compiled == twin != values.tolist()


def test_bad_arguments_are_named() -> None:
    encoder = RangeEncoder()
    for call, kind, message in (
        (lambda: encoder.signed([1, 2], [0]), ValueError, r"values must have shape \[M\] = \[1\], got \[2\]"),
        (lambda: encoder.signed([[1]], [[0]]), ValueError, r"contexts must have shape \[M\], got \[1, 1\]"),
        (lambda: encoder.signed([0.5], [0]), TypeError, "values must be integers, got float64"),
        (lambda: encoder.signed([1 << 31], [0]), ValueError, r"values\[0\] must be in -2147483648 .. 2147483647"),
        (lambda: encoder.unsigned([3, -1], [0, 0]), ValueError, r"values\[1\] must be in 0 .. 2147483647, got -1"),
        (lambda: encoder.signed([1], [4], Models(4)), ValueError, r"contexts\[0\] must be in 0 .. 3, got 4"),
        (lambda: encoder.bounded([3, 7], [9, 7], [0, 0]), ValueError, r"values\[1\] must be in 0 .. 6, got 7"),
        (lambda: encoder.bounded([0], [0], [0]), ValueError, r"levels\[0\] must be in 1 .. 2147483647, got 0"),
        (lambda: encoder.bits([8], [3]), ValueError, r"values\[0\] must be in 0 .. 7, got 8"),
        (lambda: encoder.bits([0], [32]), ValueError, r"widths\[0\] must be in 0 .. 31, got 32"),
        (lambda: encoder.signed([1], [0], Models(300), 300), ValueError, r"memory x contexts must be in 0 .. 65536"),
        (lambda: Models(0), ValueError, r"contexts must be in 1 .. 65536, got 0"),
    ):
        with pytest.raises(kind, match=message):
            call()
    models = Models()
    encoder.signed([1], [0], models)
    with pytest.raises(
        ValueError, match="models were first used for signed with memory 0, now for unsigned with memory 2"
    ):
        encoder.unsigned([1], [0], models, memory=2)
    encoder.finish()
    with pytest.raises(ValueError, match="the encoder is finished"):
        encoder.signed([1], [0])


def test_opcheck() -> None:
    values, contexts, none = torch.tensor([3, -2, 0], dtype=torch.int32), torch.zeros(3).int(), torch.zeros(0).int()
    models = torch.from_numpy(reference_coder.new_models(Kind.SIGNED, 1, 0))
    symbols = (contexts, none, 1, 0)
    start = torch.from_numpy(reference_coder.start_encoding())
    torch.library.opcheck(torch.ops.splat.range_encode.default, (start, models, int(Kind.SIGNED), values, *symbols))
    data = torch.tensor([200, 7, 9, 1], dtype=torch.uint8)
    start = torch.from_numpy(reference_coder.start_decoding(data.numpy()))
    torch.library.opcheck(torch.ops.splat.range_decode.default, (start, models, data, int(Kind.SIGNED), *symbols))
