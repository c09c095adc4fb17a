"""What commands share: how a data set is read, arguments as tensors, a bar."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from splat.image.model import ImageGaussians
    from splat.scene.data import Capture

Color = tuple[float, float, float]


@dataclass(frozen=True)
class DataArguments:
    """How the photos are read."""

    downscale: int | None = None
    """Use photos 1/N as large (default: so that the longer side is at most --max-side)."""
    max_side: int = 1600
    """Longest side of the photos where --downscale is not given, pixels."""
    test_every: int = 8
    """Every N-th photo by name is held out; 0 for none."""
    images: str | None = None
    """Folder of the photos inside the data set (default: images)."""
    masks: Path | None = None
    """Folder of masks, white where photos count."""
    depths: Path | None = None
    """Folder of depth maps (.npy, 16-bit .png, or .exr with the extra [hdr]) for train-scene --loss.depth maps."""
    depth_unit: float | None = None
    """World units of one stored depth unit (default: 1, for .png 0.001)."""

    def load(self, path: Path, tell: Callable[[str, int, int], None] | None = None) -> Capture:
        """The data set; `tell` hears what is being done, as `load_capture` says."""
        from splat.scene.data import DataOptions, load_capture

        options = DataOptions(
            downscale=self.downscale,
            max_side=self.max_side,
            test_every=self.test_every,
            images=self.images,
            masks=self.masks,
            depths=self.depths,
            depth_unit=self.depth_unit,
        )
        return load_capture(path, options, tell)


def check_folder(folder: Path) -> None:
    """Before the work: whether the results can be written. Makes nothing."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file, wanted a folder for the results")
    parent = folder
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise ValueError(f"{folder}: {parent} is a file, wanted a folder")
    try:
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        raise ValueError(f"{folder}: cannot write there ({error.strerror})") from error


def refuse_given(command: Any, names: Sequence[str], why: str) -> None:
    """ValueError where one of these options of a command is not at its default."""
    options = {option.name: option for option in fields(command)}
    for name in names:
        option = options[name]
        default = option.default if option.default_factory is MISSING else option.default_factory()
        if getattr(command, name) != default:
            raise ValueError(f"--{name.replace('_', '-')} does not apply: {why}")


def read_photo(path: Path, model: ImageGaussians) -> Tensor:
    """[H, W, D] the picture that a model was fitted to; ValueError for one of another size or other channels."""
    from splat.image.picture import read_picture

    pixels = read_picture(path).pixels.float()
    wanted = (model.height, model.width, model.layout.channels)
    if tuple(pixels.shape) != wanted:
        height, width, channels = pixels.shape
        raise ValueError(
            f"--photo must be {wanted[1]} x {wanted[0]} with {wanted[2]} channels, as the model is, got {width} x "
            f"{height} with {channels}"
        )
    return pixels


def background_tensor(color: Color) -> Tensor:
    """[3]; ValueError where it is no colour."""
    import torch

    if not all(0 <= value <= 1 for value in color):
        raise ValueError(f"background must be three values in 0..1, got {color}")
    return torch.tensor(color, dtype=torch.float32)


def up_tensor(up: tuple[float, float, float] | None) -> Tensor | None:
    """[3] of length 1; ValueError for no direction."""
    import torch

    if up is None:
        return None
    value = torch.tensor(up, dtype=torch.float32)
    if not bool(value.isfinite().all()) or float(value.norm()) == 0:
        raise ValueError(f"up must be a direction X Y Z, got {up}")
    unit: Tensor = value / value.norm()
    return unit


@contextmanager
def progress(what: str, total: int, quiet: bool) -> Iterator[Any]:
    """A bar on a terminal; yields a function that advances it by one."""
    if quiet or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
