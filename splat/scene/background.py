"""What a picture is composited on in training: a fixed colour, or another one in each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_NAMED = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}


@dataclass(frozen=True)
class Background:
    """A colour, or `None`: random. A random one shows whatever is not opaque as an error, so that holes are closed and
    nothing floats where the photos are transparent."""

    color: tuple[float, float, float] | None
    """0..1."""

    @classmethod
    def parse(cls, choice: str | Sequence[float]) -> Self:
        """From "black", "white", "random", "0.2,0.4,0.1" or three numbers in 0..1."""
        wanted = f'background must be "black", "white", "random" or three numbers in 0..1, got {choice!r}'
        if choice == "random":
            return cls(None)
        if isinstance(choice, str) and choice in _NAMED:
            return cls(_NAMED[choice])
        try:
            numbers = [float(v) for v in (choice.split(",") if isinstance(choice, str) else choice)]
        except (TypeError, ValueError) as error:
            raise ValueError(wanted) from error
        if len(numbers) != 3 or not all(0 <= v <= 1 for v in numbers):
            raise ValueError(wanted)
        return cls((numbers[0], numbers[1], numbers[2]))

    @property
    def random(self) -> bool:
        """Whether each step has its own."""
        return self.color is None

    def draw(self, numbers: Tensor) -> Tensor:
        """[3] colour of a step.

        Args:
            numbers: [3] in 0..1, drawn for this step, on the wanted device; what a random background is made of.
        """
        if numbers.shape != (3,):
            raise ValueError(f"numbers must have shape [3], got {list(numbers.shape)}")
        if self.color is None:
            return numbers
        return torch.cat([numbers.new_full((1,), v) for v in self.color])  # a copy to a GPU would wait

    def still(self, device: torch.device | str | None = None) -> Tensor:
        """[3] float32 colour for evaluation and for show; black where it is random."""
        return torch.tensor(self.color or _NAMED["black"], device=device)


def composite(rgb: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
    """A photo with transparency on a background.

    Args:
        rgb: [H, W, 3], not premultiplied.
        alpha: [H, W], 0..1.
        background: [3].
    """
    return rgb * alpha[..., None] + background * (1 - alpha[..., None])
