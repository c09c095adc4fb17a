"""The command line: splat fit-image | render-image | upscale | train-scene | render | eval | view | convert | info.
One file per command; nothing heavy is imported before the arguments are read."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from splat.cli.convert import Convert
from splat.cli.eval import Eval
from splat.cli.fit_image import FitImage
from splat.cli.info import Info
from splat.cli.render import Render
from splat.cli.render_image import RenderImage
from splat.cli.train_scene import TrainScene, with_preset
from splat.cli.upscale import Upscale
from splat.cli.view import View


def commands(arguments: Sequence[str]) -> Any:
    """The type that the arguments are read as."""
    return (
        Annotated[FitImage, tyro.conf.subcommand("fit-image")]
        | Annotated[RenderImage, tyro.conf.subcommand("render-image")]
        | Annotated[Upscale, tyro.conf.subcommand("upscale")]
        | Annotated[TrainScene, tyro.conf.subcommand("train-scene", default=with_preset(arguments))]
        | Annotated[Render, tyro.conf.subcommand("render")]
        | Annotated[Eval, tyro.conf.subcommand("eval")]
        | Annotated[View, tyro.conf.subcommand("view")]
        | Annotated[Convert, tyro.conf.subcommand("convert")]
        | Annotated[Info, tyro.conf.subcommand("info")]
    )


def main(arguments: list[str] | None = None) -> None:
    """Runs a command. Exit codes: 0 done, 2 bad input (one line on stderr), 130 stopped by Ctrl-C."""
    # torch's threads wait without burning a core that our kernels could use; read when torch is loaded, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        command = tyro.cli(
            commands(sys.argv[1:] if arguments is None else arguments),
            prog="splat",
            description="Differentiable Gaussian splatting: fit pictures, train, render and measure scenes.\n\n"
            "Exit codes: 0 done, 2 bad input, 130 stopped by Ctrl-C. SPLAT_DEBUG=1 shows where an error arose.",
            args=arguments,
        )
        code = command.run()
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        if os.environ.get("SPLAT_DEBUG"):
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"splat: error: {text}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    if code == 130:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more Ctrl-C must not turn the orderly end into a traceback
    sys.exit(code)
