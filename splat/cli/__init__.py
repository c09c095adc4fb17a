"""The command line: splat fit-image | render-image | info. One file per command; nothing heavy is imported before the
arguments are read."""

from __future__ import annotations

import sys
from typing import Annotated

import tyro

from splat.cli.fit_image import FitImage
from splat.cli.info import Info
from splat.cli.render_image import RenderImage

Command = (
    Annotated[FitImage, tyro.conf.subcommand("fit-image")]
    | Annotated[RenderImage, tyro.conf.subcommand("render-image")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)


def main(arguments: list[str] | None = None) -> None:
    """Runs a command. Bad input ends with one line on stderr and exit code 2, Ctrl-C with 130."""
    command = tyro.cli(
        Command,
        prog="splat",
        description="Differentiable Gaussian splatting: fit pictures, render models.",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    try:
        code = command.run()
    except (ValueError, OSError) as error:
        print(f"splat: error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
