"""splat view"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from splat.cli.shared import Color, DataArguments, background_tensor, up_tensor
from splat.stop import deferred_stop


@dataclass
class View:
    """Show a scene in the browser, until Ctrl-C. Wants the extra [viewer].

    Example: splat view scene.ply --data capture/
    """

    scene: tyro.conf.Positional[Path]
    """Scene file, in world units."""
    data: Path | None = None
    """Data set that the scene was made from: its cameras are drawn and say what is up."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 lets others in the network see the scene."""
    port: int = 8080
    """0 takes a free one."""
    rendered: bool = False
    """Start with pictures rendered by splat (view-dependent colours) instead of drawn by the browser."""
    up: tuple[float, float, float] | None = None
    """What is up: X Y Z (default: as the photos say, else 0 -1 0)."""
    max_gaussians: int = 1_000_000
    """The browser is sent at most so many."""
    background: Color = (0.0, 0.0, 0.0)
    """R G B in 0..1."""
    reading: Annotated[DataArguments, tyro.conf.arg(name="")] = field(default_factory=DataArguments)

    def run(self) -> int:
        """Serves until Ctrl-C."""
        with deferred_stop(signal.SIGINT, signal.SIGTERM) as stop:
            from splat.scene.gallery import training_cameras
            from splat.viewer import ViewerOptions, ViewerServer

            background_tensor(self.background)
            up_tensor(self.up)
            cameras = () if self.data is None else training_cameras(self.reading.load(self.data))
            options = ViewerOptions(
                max_gaussians=self.max_gaussians, rendered=self.rendered, background=self.background, up=self.up
            )
            with ViewerServer(self.scene, cameras=cameras, host=self.host, port=self.port, options=options) as viewer:
                print(f"{self.scene.name} is at {viewer.url} (Ctrl-C ends)", flush=True)
                while not stop.requested:
                    time.sleep(0.1)
        return 0
