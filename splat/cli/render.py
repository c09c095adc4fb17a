"""splat render"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from splat.cli.shared import Color, DataArguments, background_tensor, progress, up_tensor

if TYPE_CHECKING:
    from splat.cameras import Cameras
    from splat.gaussians import Gaussians

SIZE = (1280, 720)
"""Of pictures where neither data nor a path says one."""


@dataclass
class Render:
    """Render a scene along a camera path, to a video or to pictures.

    Examples:

      splat render scene.ply --data capture/                        # a tour through the photos' poses

      splat render scene.ply --camera-path orbit -o turn.webp

      splat render scene.ply --camera-path camera_path.json --format png -o frames/
    """

    scene: tyro.conf.Positional[Path]
    """Scene file, in world units."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File to write (.mp4 or .webp), or a folder for pictures (default: render.mp4, render.webp or frames/)."""
    camera_path: str = "auto"
    """fly (a tour through the photos' poses), orbit (a circle), or a file: nerfstudio's camera_path.json, a
    transforms.json, or what --save-path wrote (default: fly with --data, else orbit)."""
    data: Path | None = None
    """Data set that the scene was made from: its poses make the path."""
    frames: int | None = None
    """Number of frames of fly and orbit (default: 240)."""
    fps: float = 30
    """Frames a second."""
    width: int | None = None
    """Width in pixels (default: as the photos or the path, else 1280)."""
    height: int | None = None
    """Height in pixels."""
    format: Literal["auto", "png", "mp4", "webp"] = "auto"
    """mp4 (wants the extra [video]), webp (animated) or png (a picture a frame); default: by the output's suffix."""
    up: tuple[float, float, float] | None = None
    """What is up for an orbit: X Y Z (default: as the photos say, else 0 -1 0)."""
    background: Color = (0.0, 0.0, 0.0)
    """What shows where nothing covers, R G B in 0..1."""
    save_path: Path | None = None
    """Also write the camera path as JSON."""
    reading: Annotated[DataArguments, tyro.conf.arg(name="")] = field(default_factory=DataArguments)
    quiet: bool = False
    """Print errors only."""

    def run(self) -> int:
        """Renders and writes."""
        from splat.scene.files import load_scene_file
        from splat.scene.gallery import rendered_frames
        from splat.scene.paths import write_path
        from splat.scene.video import write_video

        format, output = self._target()
        background = background_tensor(self.background)
        gaussians = load_scene_file(self.scene)
        cameras = self._cameras(gaussians)
        if self.save_path is not None:
            write_path(self.save_path, cameras)
        with progress("rendering", len(cameras), self.quiet) as advance:
            count = write_video(
                output, rendered_frames(gaussians, cameras, background, advance), fps=self.fps, format=format
            )
        if not self.quiet:
            print(f"{output}  {count} frames, {cameras.width} x {cameras.height}")
        return 0

    def _target(self) -> tuple[Literal["png", "mp4", "webp"], Path]:
        from splat.scene.video import can_write_mp4

        suffixes: dict[str, Literal["png", "mp4", "webp"]] = {"": "png", ".mp4": "mp4", ".webp": "webp"}
        if self.format != "auto":
            format = self.format
        elif self.output is None:
            format = "mp4" if can_write_mp4() else "webp"
        elif self.output.suffix.lower() in suffixes:
            format = suffixes[self.output.suffix.lower()]
        else:
            raise ValueError(f"{self.output}: wanted a name that ends in .mp4 or .webp, or a folder for png")
        if self.output is None:
            return format, Path("frames" if format == "png" else f"render.{format}")
        if format != "png" and self.output.suffix.lower() != f".{format}":
            raise ValueError(f"{self.output}: a {format} must end in .{format}")
        if format == "png" and self.output.is_file():
            raise ValueError(f"{self.output}: is a file, wanted a folder for the frames")
        return format, self.output

    def _cameras(self, gaussians: Gaussians) -> Cameras:
        from splat.scene.gallery import FLY_FRAMES, training_cameras
        from splat.scene.paths import fly_through, orbit, read_path, with_size
        from splat.scene.stage import stage

        kind = self.camera_path
        if kind == "auto":
            kind = "orbit" if self.data is None else "fly"
        if kind not in ("fly", "orbit"):
            if self.frames is not None:
                raise ValueError("--frames goes with fly and orbit; a file has its own frames")
            return read_path(kind, width=self.width, height=self.height)
        up = up_tensor(self.up)
        frames = FLY_FRAMES if self.frames is None else self.frames
        if self.data is None:
            if kind == "fly":
                raise ValueError("--camera-path fly needs --data, whose poses it goes through")
            return stage(gaussians, [], up).orbit(frames, self.width or SIZE[0], self.height or SIZE[1])
        poses = training_cameras(self.reading.load(self.data))
        path = fly_through(poses, frames) if kind == "fly" else orbit(poses, frames, up)
        return with_size(path, self.width, self.height)
