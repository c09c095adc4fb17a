"""gsplat.relocation."""

from __future__ import annotations

from torch import Tensor

from splat.core.checks import Arguments
from splat.scene.densify.mcmc import MOST_COPIES, relocation


def compute_relocation(opacities: Tensor, scales: Tensor, ratios: Tensor, binoms: Tensor) -> tuple[Tensor, Tensor]:
    """What Gaussians must look like for `ratios` equal ones to look like one (3DGS-MCMC, equation 9).

    Args:
        opacities: [N] in 0..1; scales [N, 3] (linear).
        ratios: integers [N], how many; at most n_max count, and 51 (not changed, unlike gsplat's).
        binoms: [n_max, n_max]; only its size is looked at.

    Returns:
        opacities [N] and scales [N, 3].
    """
    check = Arguments()
    check.floats("opacities", opacities, "N")
    check.floats("scales", scales, "N", 3)
    check.tensor("ratios", ratios, "N")
    check.tensor("binoms", binoms, "n_max", "n_max")
    new, factor = relocation(opacities, ratios.long().clamp(1, min(MOST_COPIES, len(binoms))))
    return new, factor[:, None] * scales
