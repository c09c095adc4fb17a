"""splat convert"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from splat.cli.peers import PeerArguments
from splat.cli.shared import refuse_given

_SCENE_ONLY = ("sh_degree", "spz_version", "palette_size", "normals")


@dataclass
class Convert:
    """Convert a file of Gaussians to another format, by the suffixes.

    Scenes: reads .ply, .compressed.ply, .splat, .ksplat, .spz, .sog (also a folder, meta.json, lod-meta.json), .glb and
    .safetensors; writes all but .ksplat and lod-meta.json.

    Fitted pictures: reads and writes .safetensors, .ply, .json and .npz, all to the bit; writes .svg, which browsers
    show. Reads checkpoints of GaussianImage and Image-GS (.pth.tar, .pt), and writes them with --to.

    Examples:

      splat convert scene.ply scene.spz

      splat convert scene.ply scene.sog --sh-degree 1

      splat convert out/model.safetensors photo.svg --count 2000

      splat convert gaussian_model.pth.tar model.safetensors --width 768 --height 512    # a fitted picture

      splat convert model.safetensors ckpt_step-0.pt --to image-gs
    """

    source: tyro.conf.Positional[Path]
    """File to read."""
    target: tyro.conf.Positional[Path]
    """File to write; replaced if there is one."""
    sh_degree: Literal[0, 1, 2, 3, 4] | None = None
    """Keep spherical harmonics up to this degree only."""
    spz_version: Literal[3, 4] | None = None
    """Version of a .spz file (default 4)."""
    palette_size: int | None = None
    """Entries of a .sog file's palette for the harmonics beyond degree 0 (default: by the number of Gaussians)."""
    normals: bool = True
    """Write a .ply file's nx ny nz (zeros), which some readers want."""
    count: int | None = None
    """Fitted pictures: keep only so many Gaussians, those whose lack would show most."""
    peer: tyro.conf.OmitArgPrefixes[PeerArguments] = field(default_factory=PeerArguments)

    def run(self) -> int:
        """Reads, writes and says what became of it."""
        if self.peer.concerns(self.source):
            refuse_given(self, (*_SCENE_ONLY, "count"), "it is no option for checkpoints of GaussianImage and Image-GS")
            return self.peer.convert(self.source, self.target)
        self.peer.refuse(f"{self.source.name} is no checkpoint of GaussianImage or Image-GS")
        from splat.image.export import is_image_model

        if is_image_model(self.source):
            refuse_given(self, _SCENE_ONLY, f"{self.source.name} is a fitted picture")
            return self._convert_picture()
        refuse_given(self, ("count",), f"{self.source.name} is no fitted picture")
        return self._convert_scene()

    def _convert_picture(self) -> int:
        from splat.image.export import load_image_model, save_image_model
        from splat.image.levels import by_importance

        model = load_image_model(self.source)
        count = len(model)
        if self.count is not None:
            if not 1 <= self.count <= count:
                raise ValueError(f"--count must be in 1 .. {count}, got {self.count}")
            model = by_importance(model).map(lambda t: t[: self.count])
        kind = save_image_model(model, self.target)
        before, after = self.source.stat().st_size, self.target.stat().st_size
        print(f"{self.source}  fitted picture, {count:,} Gaussians, {before:,} bytes")
        print(
            f"{self.target}  {kind.name}, {len(model):,} Gaussians, {after:,} bytes: {after / before:.0%} of the source"
        )
        print(f"kept: {kind.keeps}")
        return 0

    def _convert_scene(self) -> int:
        from splat.io import format_of, format_to_write, load_gaussians, save_gaussians
        from splat.io.describe import size_of

        target_format = format_to_write(self.target)
        normals = None if self.normals else False
        given = {"version": self.spz_version, "palette_size": self.palette_size, "normals": normals}
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if wrong := [name for name in options if name not in target_format.options]:
            flag = {"version": "spz-version", "normals": "no-normals"}.get(wrong[0], "palette-size")
            raise ValueError(f"--{flag} is no option for {self.target.name} ({target_format.name})")
        source_format = format_of(self.source).name
        gaussians = load_gaussians(self.source)
        if self.sh_degree is not None:
            gaussians = replace(gaussians, shN=gaussians.shN[:, : (self.sh_degree + 1) ** 2 - 1])
        save_gaussians(self.target, gaussians, **options)
        before, after = size_of(self.source), size_of(self.target)
        count = len(gaussians)
        print(f"{self.source}  {source_format}, {count:,} Gaussians, {before:,} bytes")
        each = f", {after / count:.1f} a Gaussian" if count else ""
        print(f"{self.target}  {target_format.name}, {after:,} bytes{each}: {after / before:.0%} of the source")
        print(f"kept: {target_format.keeps}")
        invalid = count - int(gaussians.valid.sum())
        if invalid and not target_format.with_invalid:
            print(f"left out: {invalid:,} Gaussians that cannot be drawn")
        return 0
