"""Measures what each part of the image fit's recipe is worth, by leaving it out.

    python scripts/ablate_fit.py --kodak FOLDER --pictures 05 08 13 19 20 23 --n 5000 --steps 600

Prints a Markdown table: mean and worst PSNR, the change against the whole recipe, process CPU seconds of a fit. Steps
are counted, not seconds, so that the PSNR does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from splat.core.ops import one_torch_thread
from splat.core.rasterize_l2 import L2Step
from splat.image import fitter, grow
from splat.image.fitter import FIRST_SIZE, Clock, Fit, Plan, Schedule, run_fit
from splat.image.grow import Births
from splat.image.init import Shapes, Structure, initial_shapes, structure_tensor
from splat.image.layout import RGB
from splat.image.objective import Objective
from splat.image.picture import read_picture

NEVER = 1 << 30


def uniform_shapes(structure: Structure, count: int, generator: torch.Generator, size: float) -> Shapes:
    """Round Gaussians of one size all over the picture."""
    flat = torch.zeros_like(structure.gradient)
    return initial_shapes(replace(structure, gradient=flat, coherence=flat), count, generator, size)


def births_by_detail(
    objective: Objective,
    params: Mapping[str, Tensor],
    step: L2Step,
    count: int,
    sigma: float,
    structure: Structure,
    generator: torch.Generator,
) -> Births:
    """New Gaussians where the first ones went too, whatever the residual, with colours to be learnt."""
    nothing = params["colors"].new_zeros(count, params["colors"].shape[1])
    return Births(initial_shapes(structure, count, generator, FIRST_SIZE["sum"]), nothing, nothing)


def first_solve_only(fit: Fit, iterations: int, solve: Any = Fit.solve) -> None:
    """In place of Fit.solve: the first colours are solved, later ones are left to Adam."""
    solve(fit, iterations if fit.step == 0 else 0)


@dataclass(frozen=True)
class Part:
    """A part of the recipe, and what stands in its place when it is left out."""

    name: str
    changes: tuple[tuple[Any, str, Any], ...] = ()
    """Module or class, name in it, value."""


def parts() -> list[Part]:
    def schedule(**values: float) -> tuple[tuple[Any, str, Any], ...]:
        return ((fitter, "Schedule", lambda: Schedule(**values)),)  # type: ignore[arg-type]

    return [
        Part("the whole recipe"),
        Part("first Gaussians: uniform and round, not by structure", ((fitter, "initial_shapes", uniform_shapes),)),
        Part("no growth: all Gaussians from the start", schedule(start=1.0)),
        Part("no exchange", schedule(exchange=0.0, exchange_every=NEVER)),
        Part(
            "births by the picture's detail, without colour, not by the residual",
            ((fitter, "best_births", births_by_detail),),
        ),
        Part("births of one size", ((grow, "SIZE_SPREAD", 0.0),)),
        Part("births without random axis ratios", ((grow, "RATIO_SPREAD", 0.0),)),
        Part("no colour solve after the first", ((Fit, "solve", first_solve_only),)),
        Part("a constant learning rate", schedule(final_rate=1.0)),
    ]


def fit_psnr(target: Tensor, n: int, steps: int, part: Part) -> float:
    """PSNR of a fit without that part."""
    with ExitStack() as stack:
        for where, name, value in part.changes:
            stack.enter_context(patch.object(where, name, value))
        fit = Fit(Objective.of(target), RGB, structure_tensor(target), Plan(n))
        run_fit(fit, Clock(None, None, lambda: False), steps)
    return fit.psnr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kodak", type=Path, required=True, help="folder of kodimNN.png")
    parser.add_argument("--pictures", nargs="+", default=["05", "08", "13", "19", "20", "23"], help="numbers NN")
    parser.add_argument("--n", type=int, default=5000, help="Gaussians")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rows", type=int, nargs="+", default=[], help="only these rows")
    arguments = parser.parse_args()
    targets = [
        read_picture(arguments.kodak / f"kodim{number}.png").pixels.contiguous() for number in arguments.pictures
    ]
    print(f"Kodak {', '.join(arguments.pictures)}, {arguments.n:,} Gaussians, {arguments.steps:,} steps\n")
    print("| left out | mean | worst | change (of each picture) | CPU |\n|---|---|---|---|---|")
    whole: list[float] = []
    for number, part in enumerate(parts()):
        if number and arguments.rows and number not in arguments.rows:
            continue
        began = time.process_time()
        with one_torch_thread():
            scores = [fit_psnr(target, arguments.n, arguments.steps, part) for target in targets]
        seconds = (time.process_time() - began) / len(targets)
        whole = whole or scores
        changes = [a - b for a, b in zip(scores, whole, strict=True)]
        change = f"{statistics.mean(changes):+.2f} dB ({min(changes):+.2f} to {max(changes):+.2f})" if number else ""
        measured = f"{statistics.mean(scores):.2f} dB | {min(scores):.2f} dB | {change} | {seconds:.1f} s"
        print(f"| {part.name} | {measured} |", flush=True)


if __name__ == "__main__":
    main()
