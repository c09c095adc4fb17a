"""gsplat.exporter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from torch import Tensor

from splat.core.binning import ALPHA_MIN
from splat.core.finite import finite_rows
from splat.gaussians import Gaussians


def export_splats(
    means: Tensor,
    scales: Tensor,
    quats: Tensor,
    opacities: Tensor,
    sh0: Tensor,
    shN: Tensor,
    format: Literal["ply", "splat", "ply_compressed"] = "ply",
    save_to: str | None = None,
) -> bytes:
    """A file of Gaussians, unactivated: means [N, 3], scales [N, 3] (logs), quats [N, 4], opacities [N] (logits), sh0
    [N, 1, 3], shN [N, K - 1, 3]. Those with a value that is not finite are left out, and from "ply_compressed" those
    with an opacity of 1/255 or less.

    Args:
        format: "ply", what 3DGS writes (without normals); "splat", of the antimatter15 viewer, without harmonics;
            "ply_compressed", of PlayCanvas and SuperSplat.
        save_to: path that it is also written to.

    Returns:
        The file's bytes.
    """
    writers = _writers()
    if format not in writers:
        raise ValueError(f"format must be one of {', '.join(writers)}, got {format!r}")
    gaussians = Gaussians(means, quats, scales, opacities, sh0, shN).detach()
    keep = torch.stack([finite_rows(value, 0) for value in gaussians.parameters().values()]).all(0)
    if format == "ply_compressed":
        keep &= gaussians.opacities > ALPHA_MIN
    gaussians = gaussians.select(keep)
    with TemporaryDirectory() as folder:
        path = Path(save_to) if save_to else Path(folder) / f"splats.{'splat' if format == 'splat' else 'ply'}"
        writers[format](path, gaussians)
        return path.read_bytes()


def _writers() -> dict[str, Callable[[Path, Gaussians], None]]:
    from splat.io.compressed_ply import write_compressed_ply
    from splat.io.dotsplat import write_dotsplat
    from splat.io.ply import write_ply

    def without_normals(path: Path, gaussians: Gaussians) -> None:
        write_ply(path, gaussians, normals=False)

    return {"ply": without_normals, "splat": write_dotsplat, "ply_compressed": write_compressed_ply}
