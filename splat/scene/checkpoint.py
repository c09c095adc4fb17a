"""A training run in a file, from which it goes on to the same bits."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from splat.files import load_tensors, save_tensors
from splat.gaussians import NAMES, Gaussians
from splat.scene.config import TrainConfig
from splat.scene.data.capture import Capture
from splat.scene.train import Progress, Trainer

_FORMAT, _VERSION = "splat-training", "1"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds."""

    path: Path
    config: TrainConfig
    progress: Progress
    capture: str
    """Fingerprint of the capture, see `fingerprint`."""
    tables: dict[str, Tensor]

    def restore(self, trainer: Trainer) -> None:
        """Sets a trainer of the same capture to where this one stood."""
        if self.capture != fingerprint(trainer.capture):
            raise ValueError(
                f"{self.path}: made from other pictures, poses or sizes than those of {trainer.capture.path}; "
                "resume with the same data and the same --downscale and split, or begin anew in another folder"
            )
        for name in ("strategy", "sh_degree", "correct"):
            was, wanted = getattr(self.config, name), getattr(trainer.config, name)
            if was != wanted:
                raise ValueError(f"{self.path}: {name} was {was} and cannot become {wanted} in a run that goes on")
        trainer.load(self.tables, self.progress)

    @property
    def gaussians(self) -> Gaussians:
        """The scene as it was, in the capture's normalised world."""
        return Gaussians(**{name: self.tables[f"gaussians.{name}"] for name in NAMES})


def fingerprint(capture: Capture) -> str:
    """A hash of the names, sizes, poses and split of the views; the pictures' and masks' contents are not looked at."""
    digest = hashlib.sha256()
    for view in capture.views:
        digest.update(f"{view.name} {view.width} {view.height}\n".encode())
        digest.update(view.viewmat.numpy().tobytes() + view.K.numpy().tobytes())
    digest.update(str((capture.train, capture.test)).encode())
    return digest.hexdigest()


def save_checkpoint(path: str | Path, trainer: Trainer) -> None:
    """Writes a .safetensors file to a temporary name and renames it: a full disk or a kill leaves the one before."""
    metadata = {
        "format": _FORMAT,
        "version": _VERSION,
        "config": json.dumps(trainer.config.to_dict()),
        "progress": json.dumps(asdict(trainer.position)),
        "capture": fingerprint(trainer.capture),
    }
    save_tensors(path, trainer.tables(), metadata)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads what `save_checkpoint` wrote; ValueError for a missing, damaged or other file."""
    tables, metadata = load_tensors(path, None, format=_FORMAT, version=_VERSION)
    try:
        config = TrainConfig.from_dict(json.loads(metadata["config"]))
        progress = Progress(**json.loads(metadata["progress"]))
        return Checkpoint(Path(path), config, progress, metadata["capture"], tables)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: made by another version of splat ({error}); begin anew in another folder") from error
