"""Structure, sampling and scores by strips of rows are those of the whole picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from splat.image import init
from splat.image.layout import Group, Layout
from splat.image.picture import read_picture
from splat.image.scores import GroupScores, group_scores
from splat.image.transfer import Transfer
from splat.metrics import Scores, ms_ssim, psnr, pu21_psnr, ssim

PHOTO = Path(__file__).parent.parent / "scenes" / "photos" / "kodim23.png"


def photo(height: int = 96, width: int = 128) -> torch.Tensor:
    return read_picture(PHOTO).pixels[200 : 200 + height, 300 : 300 + width].clone()


def test_the_structure_by_strips_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(75, 41, 3, generator=torch.Generator().manual_seed(0))
    whole = init.structure_tensor(image)
    chances = init.density(whole)
    monkeypatch.setattr(init, "STRIP_VALUES", 1)  # strips of 16 rows
    assert len(list(init.strips(75, 41))) == 5
    parts = init.structure_tensor(image)
    for name in ("gradient", "angle", "coherence"):  # to the last bits: vectors of the processor end elsewhere
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(init.density(parts), chances, rtol=1e-6, atol=0)
    assert float(chances.double().sum()) == pytest.approx(1, abs=1e-5)


def test_the_blurred_structure_is_that_of_a_convolution() -> None:
    image = photo(40, 30)
    fields = F.pad(image.permute(2, 0, 1), (1, 1, 1, 1), mode="replicate").double()
    gx, gy = 0.5 * (fields[:, 1:-1, 2:] - fields[:, 1:-1, :-2]), 0.5 * (fields[:, 2:, 1:-1] - fields[:, :-2, 1:-1])
    taps = torch.exp(-0.5 * (torch.arange(-5, 6).double() / 1.5) ** 2)
    window = (taps[:, None] * taps / taps.sum() ** 2)[None, None]

    def blur(field: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(field.sum(0)[None, None], (5, 5, 5, 5), mode="replicate"), window)[0, 0]

    xx, xy, yy = blur(gx * gx), blur(gx * gy), blur(gy * gy)
    want = torch.hypot(xx - yy, 2 * xy) / (xx + yy + 1e-8)
    structure = init.structure_tensor(image)
    torch.testing.assert_close(structure.coherence.double(), want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(structure.gradient.double(), (gx * gx + gy * gy).sum(0).sqrt(), rtol=1e-5, atol=1e-6)


def test_sampling_block_by_block_is_sampling_along_the_whole_curve() -> None:
    probability = torch.rand(150, 210, generator=torch.Generator().manual_seed(0)) ** 4
    order = init._morton_codes(150, 210).flatten().argsort()
    ends = probability.flatten()[order].double().cumsum(0)
    g = torch.Generator().manual_seed(1)
    marks = (torch.arange(4000).double() + torch.rand(4000, generator=g, dtype=torch.float64)) / 4000 * ends[-1]
    pixel = order[torch.searchsorted(ends, marks)]
    want = torch.stack([pixel % 210, pixel // 210], -1).float() + torch.rand(4000, 2, generator=g)
    got = init.sample_positions(probability, 4000, torch.Generator().manual_seed(1))
    # A mark that falls on the border of two pixels, to the last bits, may go to either.
    assert int((got != want).any(1).sum()) <= 2


@pytest.mark.parametrize("size", [(300, 70), (33, 47), (9, 40), (40, 9), (1, 1)])
def test_scores_do_not_depend_on_the_strips(size: tuple[int, int]) -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.rand(*size, 3, generator=g)
    b = (a + 0.1 * torch.randn(*size, 3, generator=g)).clamp(0, 1)
    for rows in (7, 64):
        scores = Scores(*size)
        for first, second in zip(a.split(rows), b.split(rows), strict=True):
            scores.add(first, second)
        assert scores.psnr == pytest.approx(psnr(a, b), rel=1e-12)
        assert scores.ssim == pytest.approx(ssim(a, b), rel=1e-12)
        assert scores.ms_ssim == pytest.approx(ms_ssim(a, b), rel=1e-9)


def test_more_rows_than_the_picture_has_are_refused() -> None:
    scores = Scores(20, 20)
    scores.add(torch.zeros(15, 20, 3), torch.zeros(15, 20, 3))
    with pytest.raises(ValueError, match="5 rows or fewer that are left, got 15"):
        scores.add(torch.zeros(15, 20, 3), torch.zeros(15, 20, 3))


@pytest.mark.parametrize("size", [(70, 40), (9, 40)])
def test_masked_scores_do_not_depend_on_the_strips(size: tuple[int, int]) -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(*size, 3, generator=g), torch.rand(*size, 3, generator=g)
    mask = torch.rand(size, generator=g) > 0.3
    mask[:7] = False  # nothing of the first strip
    scores = Scores(*size)
    for first, second, part in zip(a.split(7), b.split(7), mask.split(7), strict=True):
        scores.add(first, second, part)
    assert scores.psnr == pytest.approx(psnr(a, b, mask=mask), rel=1e-12)
    assert scores.ssim == pytest.approx(ssim(a, b, mask=mask), rel=1e-12)


def test_group_scores_do_not_depend_on_the_strips() -> None:
    groups = (
        Group("light", "rgb", 3, Transfer("log", high=50.0, toe=0.1), bits=32),
        Group("normal", "normal", 2),
        Group("height", "grey", 1),
    )
    layout, g = Layout(groups), torch.Generator().manual_seed(0)
    a, b = torch.rand(33, 40, 6, generator=g), torch.rand(33, 40, 6, generator=g)
    strips = GroupScores(layout)
    for first, second in zip(a.split(7), b.split(7), strict=True):
        strips.add(first, second)
    for got, want in zip(strips.records, group_scores(a, b, layout), strict=True):
        names = [name for name, value in want.items() if isinstance(value, float)]
        assert list(got) == list(want) and got["name"] == want["name"] and names
        assert [got[name] for name in names] == pytest.approx([want[name] for name in names], rel=1e-6)
    light, normal, height = strips.records
    values = [group.decode(v) for v, group in zip(layout.split(a), groups, strict=True)]
    truths = [group.decode(v) for v, group in zip(layout.split(b), groups, strict=True)]
    assert height["psnr"] == pytest.approx(psnr(values[2], truths[2]))
    assert light["pu21_psnr"] == pytest.approx(pu21_psnr(values[0], truths[0]), rel=1e-6)
    angles = (values[1] * truths[1]).sum(-1).clamp(-1, 1).acos().rad2deg()
    assert normal["mean_angle"] == pytest.approx(float(angles.mean()), rel=1e-4)
