"""splat view"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from splat.cli.shared import Color, DataArguments, background_tensor, read_photo, refuse_given, up_tensor
from splat.stop import Stop, deferred_stop

_PICTURE_ONLY = ("output", "open", "photo")
_SCENE_ONLY = ("data", "host", "port", "rendered", "up", "max_gaussians", "background")


@dataclass
class View:
    """Show a scene or a fitted picture in the browser.

    A scene is served until Ctrl-C; that wants the extra [viewer]. Of a fitted picture one HTML file is written, which
    opens without a server and without a network.

    Examples:

      splat view scene.ply --data capture/

      splat view out/model.safetensors --open
    """

    file: tyro.conf.Positional[Path]
    """Scene, or fitted picture (.safetensors, .ply, .json, .npz)."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Picture: the HTML file to write (default: beside the model)."""
    open: bool = False
    """Picture: also open the file in the system's browser."""
    photo: Path | None = None
    """Picture: the photograph that was fitted; the page then says the PSNR of each level."""
    data: Path | None = None
    """Scene: the data set that it was made from: its cameras are drawn and say what is up."""
    host: str = "127.0.0.1"
    """Scene: address to listen at; 0.0.0.0 lets others in the network see the scene."""
    port: int = 8080
    """Scene: port; 0 takes a free one."""
    rendered: bool = False
    """Scene: start with pictures rendered by splat (view-dependent colours) instead of drawn by the browser."""
    up: tuple[float, float, float] | None = None
    """Scene: what is up: X Y Z (default: as the photos say, else 0 -1 0)."""
    max_gaussians: int = 1_000_000
    """Scene: the browser is sent at most so many."""
    background: Color = (0.0, 0.0, 0.0)
    """Scene: R G B in 0..1."""
    reading: Annotated[DataArguments, tyro.conf.arg(name="")] = field(default_factory=DataArguments)

    def run(self) -> int:
        """Writes the page of a picture, or serves a scene until Ctrl-C."""
        from splat.image.export import is_image_model

        if is_image_model(self.file):
            refuse_given(self, _SCENE_ONLY, f"{self.file.name} is a fitted picture")
            return self._write_page()
        refuse_given(self, _PICTURE_ONLY, f"{self.file.name} is no fitted picture")
        with deferred_stop(signal.SIGINT, signal.SIGTERM) as stop:
            return self._serve(stop)

    def _write_page(self) -> int:
        from splat.image.export import load_image_model
        from splat.image.page import facts_beside, write_page

        output = self.output or self.file.with_suffix(".html")
        if output.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"{output}: wanted a file name that ends in .html")
        model = load_image_model(self.file)
        facts = facts_beside(self.file, model)
        if self.photo is not None:
            facts = replace(facts, target=read_photo(self.photo, model))
        size = write_page(output, model, facts)
        print(f"{output}  {size:,} bytes, {len(model):,} Gaussians")
        if self.open:
            import webbrowser

            if not webbrowser.open(output.resolve().as_uri()):
                print("no browser was found; open the file by hand")
        return 0

    def _serve(self, stop: Stop) -> int:
        from splat.scene.gallery import training_cameras
        from splat.viewer import ViewerOptions, ViewerServer

        background_tensor(self.background)
        up_tensor(self.up)
        cameras = () if self.data is None else training_cameras(self.reading.load(self.data))
        options = ViewerOptions(
            max_gaussians=self.max_gaussians, rendered=self.rendered, background=self.background, up=self.up
        )
        with ViewerServer(self.file, cameras=cameras, host=self.host, port=self.port, options=options) as viewer:
            print(f"{self.file.name} is at {viewer.url} (Ctrl-C ends)", flush=True)
            while not stop.requested:
                time.sleep(0.1)
        return 0
