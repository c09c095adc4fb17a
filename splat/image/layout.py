"""Layout: what the channels of a picture, or of the Gaussians that were fitted to it, are."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from splat.core.checks import check_int
from splat.image.normals import octahedral_decode, octahedral_encode, unit
from splat.image.transfer import Transfer

Kind = Literal["grey", "grey-alpha", "rgb", "rgba", "normal", "data"]
Bits = Literal[8, 16, 32]
Mode = Literal["L", "LA", "RGB", "RGBA"]

CHANNELS: dict[Kind, tuple[int, ...]] = {"grey": (1,), "grey-alpha": (2,), "rgb": (3,), "rgba": (4,), "normal": (2, 3)}
"""How many channels a kind can be fitted as; data: any number."""
_KIND_OF: dict[Mode, Kind] = {"L": "grey", "LA": "grey-alpha", "RGB": "rgb", "RGBA": "rgba"}


@dataclass(frozen=True)
class Group:
    """The channels that belong together: those of one picture file."""

    name: str
    """What its files are named after; letters, digits and what else a file name may hold."""
    kind: Kind
    """grey, grey-alpha, rgb, rgba: colours premultiplied by alpha, which comes last. normal: unit normals, fitted as 2
    octahedral channels, or as 3 that are scaled to length 1 when they are read off. data: any scalars."""
    channels: int
    """As fitted."""
    transfer: Transfer = field(default_factory=Transfer)
    """The curve of all channels but alpha and normals."""
    bits: Bits = 8
    """Of a channel in the source: integers of 8 or 16, floats of 32 (or 16 in OpenEXR)."""
    weight: float = 1.0
    """How much the squared errors of its channels count in a fit."""
    suffix: str = ".png"
    """Of the files that it is written to by default."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or any(c in self.name for c in "/\\\0"):
            raise ValueError(f"name must be a part of a file name, got {self.name!r}")
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        check_int("channels", self.channels, 1)
        wanted = CHANNELS.get(self.kind)
        if wanted is not None and self.channels not in wanted:
            raise ValueError(
                f"channels of kind {self.kind} must be {' or '.join(map(str, wanted))}, got {self.channels}"
            )
        if self.bits not in get_args(Bits):
            raise ValueError(f"bits must be 8, 16 or 32, got {self.bits!r}")
        if not isinstance(self.weight, int | float) or not 0 < self.weight < math.inf:
            raise ValueError(f"weight must be a positive number, got {self.weight!r}")
        if self.kind == "normal" and not self.transfer.plain:
            raise ValueError("transfer of kind normal must be stored as is")

    @property
    def alpha(self) -> bool:
        """Whether the last channel is an alpha."""
        return self.kind in ("grey-alpha", "rgba")

    def encode(self, values: Tensor) -> Tensor:
        """Values [..., S] (premultiplied colours, normals of length 1, linear light with log and pq) to what is fitted,
        [..., D] in 0..1."""
        if self.kind == "normal":
            return 0.5 * (octahedral_encode(values) if self.channels == 2 else values) + 0.5
        if self.alpha:
            return torch.cat([self.transfer.encode(values[..., :-1]), values[..., -1:]], -1)
        return self.transfer.encode(values)

    def decode(self, fitted: Tensor) -> Tensor:
        """The inverse of `encode`; what lies outside of 0..1 is clamped first."""
        fitted = fitted.clamp(0, 1)
        if self.kind == "normal":
            return octahedral_decode(2 * fitted - 1) if self.channels == 2 else unit(2 * fitted - 1)
        if self.alpha:
            return torch.cat([self.transfer.decode(fitted[..., :-1]), fitted[..., -1:]], -1)
        return self.transfer.decode(fitted)

    def preview(self, fitted: Tensor) -> Tensor:
        """Fitted values [..., D] as sRGB [..., 1 or 3] to look at: alpha over white, normals as usual in files, log and
        pq as their curve has them, data by its first channel (or its three)."""
        if self.kind == "normal":
            return 0.5 * self.decode(fitted) + 0.5
        if self.alpha:
            return fitted[..., :-1] + (1 - fitted[..., -1:])
        return fitted if self.channels in (1, 3) else fitted[..., :1]


@dataclass(frozen=True)
class Layout:
    """The groups of channels, in their order."""

    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        if not self.groups:
            raise ValueError("groups must hold at least one group")
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names):
            raise ValueError(f"groups must have different names, got {', '.join(names)}")

    @classmethod
    def of(cls, mode: Mode, bits: Bits = 8, name: str = "picture") -> Self:
        """The layout of one ordinary picture: L, LA, RGB or RGBA."""
        if mode not in _KIND_OF:
            raise ValueError(f"mode must be one of {', '.join(_KIND_OF)}, got {mode!r}")
        return cls((Group(name, _KIND_OF[mode], len(mode), bits=bits),))

    @property
    def mode(self) -> Mode | None:
        """L, LA, RGB or RGBA where it is one ordinary picture, values as stored; else None."""
        kind = self.groups[0].kind
        if len(self.groups) > 1 or not self.groups[0].transfer.plain:
            return None
        return next((mode for mode, of in _KIND_OF.items() if of == kind), None)

    @property
    def channels(self) -> int:
        """D, of all groups."""
        return sum(group.channels for group in self.groups)

    def split(self, values: Tensor) -> list[Tensor]:
        """[..., D] by groups."""
        return list(torch.split(values, [group.channels for group in self.groups], -1))

    def encode(self, values: Iterable[Tensor]) -> Tensor:
        """The groups' values (see `Group.encode`) to what is fitted, [..., D]."""
        return torch.cat([group.encode(v) for group, v in zip(self.groups, values, strict=True)], -1)

    def decode(self, fitted: Tensor) -> list[Tensor]:
        """The groups' values of what was fitted."""
        return [group.decode(v) for group, v in zip(self.groups, self.split(fitted), strict=True)]

    def preview(self, fitted: Tensor) -> Tensor:
        """Fitted values [H, W, D] as sRGB [H, W, 1 or 3] to look at; several groups stand side by side,
        [H, W * groups, 3]."""
        views = [group.preview(v) for group, v in zip(self.groups, self.split(fitted), strict=True)]
        return views[0] if len(views) == 1 else torch.cat([view.expand(-1, -1, 3) for view in views], 1)

    def root_weights(self) -> Tensor:
        """[D] square roots of the groups' weights, the largest 1: a fit of channels times these minimises the weighted
        squared error."""
        each = torch.cat([torch.full((group.channels,), float(group.weight)) for group in self.groups])
        return (each / each.max()).sqrt()

    def with_bits(self, bits: Bits) -> Self:
        """The same channels, to be written with other bits."""
        return replace(self, groups=tuple(replace(group, bits=bits) for group in self.groups))

    def records(self) -> list[dict[str, Any]]:
        """As JSON has it."""
        return [asdict(group) for group in self.groups]

    @classmethod
    def from_records(cls, records: Any) -> Self:
        """What `records` gave; ValueError for anything else."""
        try:
            groups = (Group(**{**record, "transfer": Transfer(**record["transfer"])}) for record in records)
            return cls(tuple(groups))
        except (KeyError, TypeError) as error:
            raise ValueError(f"a layout is a list of groups of channels, got {json.dumps(records)[:200]}") from error


RGB = Layout.of("RGB")
