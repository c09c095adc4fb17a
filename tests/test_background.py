"""Backgrounds of training pictures."""

from __future__ import annotations

import pytest
import torch

from splat.scene.background import Background, composite

NUMBERS = torch.tensor([0.3, 0.6, 0.9])


@pytest.mark.parametrize(
    ("choice", "color"),
    [
        ("black", [0, 0, 0]),
        ("white", [1, 1, 1]),
        ("0.2, 0.4,1", [0.2, 0.4, 1]),
        ((0.2, 0.4, 1), [0.2, 0.4, 1]),
    ],
)
def test_a_colour_is_the_same_in_every_step(choice: str | tuple[float, ...], color: list[float]) -> None:
    background = Background.parse(choice)
    assert not background.random
    assert torch.equal(background.draw(NUMBERS), torch.tensor(color, dtype=torch.float32))
    assert torch.equal(background.still(), background.draw(NUMBERS))


def test_a_random_one_is_what_was_drawn_and_black_for_show() -> None:
    background = Background.parse("random")
    assert background.random
    assert torch.equal(background.draw(NUMBERS), NUMBERS)
    assert torch.equal(background.still(), torch.zeros(3))


@pytest.mark.parametrize("choice", ["grey", "1,2,3", "0.5", "0,0", (0.1, 0.2), (0, 0, float("nan")), None, 3])
def test_other_choices_are_refused(choice: object) -> None:
    with pytest.raises(ValueError, match=r'background must be "black", "white", "random" or three numbers'):
        Background.parse(choice)  # type: ignore[arg-type]


def test_numbers_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"numbers must have shape \[3\], got \[1, 3\]"):
        Background.parse("black").draw(NUMBERS[None])


def test_a_photo_shows_the_background_where_it_is_transparent() -> None:
    rgb = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(0))
    alpha = torch.tensor([[0.0, 1.0, 0.25], [0.0, 1.0, 0.25]])
    out = composite(rgb, alpha, NUMBERS)
    assert torch.equal(out[:, 0], NUMBERS.expand(2, 3))
    assert torch.equal(out[:, 1], rgb[:, 1])
    assert torch.allclose(out[:, 2], 0.25 * rgb[:, 2] + 0.75 * NUMBERS)
