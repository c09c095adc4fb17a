"""How well each group of channels was fitted."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from splat.image.layout import Layout
from splat.image.normals import angles_between
from splat.metrics import MAX_PSNR, psnr, pu21_psnr


def group_scores(recon: Tensor, target: Tensor, layout: Layout) -> list[dict[str, Any]]:
    """For each group its name, kind and psnr, of the fitted values [H, W, D] in 0..1 (after the group's curve), in dB.
    Normals also have mean_angle, degrees. Linear light also has pu21_psnr, dB, a value of 1 taken for 100 cd/m^2."""
    rows = []
    for group, ours, truth in zip(layout.groups, layout.split(recon), layout.split(target), strict=True):
        row: dict[str, Any] = {"name": group.name, "kind": group.kind, "psnr": min(MAX_PSNR, psnr(ours, truth))}
        if group.kind == "normal":
            row["mean_angle"] = float(angles_between(group.decode(ours), group.decode(truth)).double().mean())
        elif group.transfer.curve != "stored":
            row["pu21_psnr"] = min(MAX_PSNR, pu21_psnr(group.decode(ours), group.decode(truth)))
        rows.append(row)
    return rows
