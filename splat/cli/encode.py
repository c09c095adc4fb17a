"""splat encode"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from splat.cli.fit_bar import FitBar
from splat.cli.shared import check_folder, read_photo, refuse_given
from splat.stop import deferred_stop

if TYPE_CHECKING:
    from splat.image.codec.encode import EncodeConfig, Encoded


@dataclass
class Encode:
    """Write a picture, or Gaussians that were fitted to one, as a .s2d file: small, and drawn at any size.

    Examples:

      splat encode photo.png photo.s2d --target-bpp 0.3        # or --max-bytes, or --target-psnr

      splat encode photo.png photo.s2d --max-bytes 30000 --layers 3      # its first bytes are a coarser picture

      splat encode out/model.safetensors photo.s2d --photo photo.png --qp 24
    """

    source: tyro.conf.Positional[Path]
    """Picture, or fitted model (.safetensors, .ply, .json, .npz)."""
    target: tyro.conf.Positional[Path]
    """.s2d file to write."""
    target_bpp: float | None = None
    """Bits per pixel of the file, at most."""
    max_bytes: int | None = None
    """Bytes of the file, at most."""
    target_psnr: float | None = None
    """Look for the smallest file that reaches this PSNR in dB (of a picture)."""
    qp: float | None = None
    """Step of all numbers, 0 to 63.75: 6 more double it (default: 28 where nothing else is asked for)."""
    n: Annotated[int | None, tyro.conf.arg(aliases=["-n"])] = None
    """Number of Gaussians (of a picture; default: by the size that is asked for, else by size and detail)."""
    layers: int = 1
    """Layers of a picture: the file up to the end of each is a file too, with about four times the Gaussians of the one
    before. The layers of a fitted model are written as they are."""
    preset: Literal["draft", "fast", "best"] = "fast"
    """How long to fit a picture: draft, fast or best."""
    pixel_kernel: bool = True
    """Fit the means over the pixels' squares, with no Gaussian much smaller than a pixel: without, a picture that is
    decoded at a larger size shows needles."""
    photo: Path | None = None
    """Of a fitted model: the picture that it was fitted to, which the rounding then keeps near to."""
    chunk: int = 0
    """Side in pixels (32, 64, ...) of squares that can be read alone; a file with them is a little larger."""
    seed: int = 0
    """The same seed gives the same file."""
    threads: int | None = None
    """CPU threads (default: all that this process may use)."""
    quiet: bool = False
    """No progress bar."""

    def run(self) -> int:
        """Fits where it must, codes and writes."""
        with deferred_stop(signal.SIGINT, signal.SIGTERM) as stop:
            import splat
            from splat.core.ops import one_torch_thread
            from splat.files import atomic_write

            if self.target.suffix.lower() != ".s2d":
                raise ValueError(f"{self.target}: wanted a file name that ends in .s2d")
            check_folder(self.target.parent)
            if self.threads is not None:
                splat.set_num_threads(self.threads)
            with one_torch_thread(), FitBar(self.quiet, json_lines=False) as show:
                encoded = self._encode(show)
            with atomic_write(self.target) as temporary:
                temporary.write_bytes(encoded.data)
        size, model = len(encoded.data), encoded.model
        print(
            f"{self.target}  {size:,} bytes, {8 * size / model.width / model.height:.3f} bits a pixel, "
            f"{encoded.psnr:.2f} dB PSNR, {len(model):,} Gaussians, qp {encoded.qp:g}"
        )
        for i, part in enumerate(encoded.layers if len(encoded.layers) > 1 else (), 1):
            print(f"  layer {i}: {part.count:,} Gaussians in the first {part.size:,} bytes, {part.psnr:.2f} dB PSNR")
        for name, count in encoded.ledger.sections.items():
            print(f"  {name:<20} {count:>9,.0f} bytes {8 * count / max(1, len(model)):>7.2f} bits a Gaussian")
        if self.target_psnr is not None and encoded.psnr < self.target_psnr:
            print(f"{self.target_psnr:g} dB was not reached; try --preset best")
        stopped = encoded.interrupted or stop.requested
        if stopped:
            print("stopped: the file is whole and holds what there was")
        return 130 if stopped else 0

    def _encode(self, show: FitBar) -> Encoded:
        from splat.image.codec.encode import encode_image, encode_model, encode_to_psnr
        from splat.image.export import is_image_model, load_image_model
        from splat.image.fit import FitConfig
        from splat.image.picture import read_picture

        def tell(share: float) -> None:
            show.stage("code", share)

        if is_image_model(self.source):
            model = load_image_model(self.source)
            config = self._config(model.width * model.height)
            refuse_given(self, ("target_psnr", "n", "layers", "pixel_kernel"), f"{self.source.name} is a fitted model")
            target = None if self.photo is None else read_photo(self.photo, model)
            return encode_model(model, target, config, tell)
        refuse_given(self, ("photo",), f"{self.source.name} is no fitted model")
        picture = read_picture(self.source)
        config = self._config(picture.pixels[..., 0].numel())
        fit = FitConfig(n=self.n, layers=self.layers, preset=self.preset, seed=self.seed)
        if self.pixel_kernel:
            fit = fit.for_any_size()
        if self.target_psnr is not None:
            return encode_to_psnr(picture, self.target_psnr, config, fit, callback=show.fit, tell=tell)
        return encode_image(picture, config, fit, callback=show.fit, tell=tell)

    def _config(self, pixels: int) -> EncodeConfig:
        from splat.image.codec.encode import EncodeConfig

        asked = {"--qp": self.qp, "--target-bpp": self.target_bpp, "--max-bytes": self.max_bytes}
        asked["--target-psnr"] = self.target_psnr
        given = [name for name, value in asked.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {', '.join(asked)}, got {' and '.join(given)}")
        most = self.max_bytes
        if self.target_bpp is not None:
            if not 0 < self.target_bpp < 1000:
                raise ValueError(f"--target-bpp must be positive, got {self.target_bpp}")
            most = int(self.target_bpp * pixels / 8)
            if most < 1:
                raise ValueError(f"--target-bpp {self.target_bpp} is less than a byte for this picture")
        return EncodeConfig(qp=self.qp, max_bytes=most, chunk=self.chunk)
