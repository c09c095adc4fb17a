"""How well each group of channels was fitted."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from splat.image.layout import Layout
from splat.image.normals import angles_between
from splat.metrics import MAX_PSNR, error_of_psnr, psnr, psnr_of_error, pu21_psnr


class GroupScores:
    """`group_scores` of a pair of pictures that comes as strips of rows."""

    def __init__(self, layout: Layout) -> None:
        self.layout, self.rows = layout, 0
        self.sums: list[dict[str, float]] = [{} for _ in layout.groups]

    def add(self, recon: Tensor, target: Tensor) -> None:
        """The next rows [h, W, D] of both, fitted values in 0..1."""
        self.rows += len(recon)
        layout = self.layout
        for group, sums, ours, truth in zip(
            layout.groups, self.sums, layout.split(recon), layout.split(target), strict=True
        ):
            means = {"psnr": error_of_psnr(psnr(ours, truth))}
            if group.kind == "normal":
                means["mean_angle"] = float(angles_between(group.decode(ours), group.decode(truth)).double().mean())
            elif group.transfer.curve != "stored":
                means["pu21_psnr"] = error_of_psnr(pu21_psnr(group.decode(ours), group.decode(truth)))
            for name, mean in means.items():
                sums[name] = sums.get(name, 0.0) + len(recon) * mean

    @property
    def records(self) -> list[dict[str, Any]]:
        """What group_scores returns."""
        rows = []
        for group, sums in zip(self.layout.groups, self.sums, strict=True):
            row: dict[str, Any] = {"name": group.name, "kind": group.kind}
            for name, total in sums.items():
                mean = total / self.rows
                row[name] = mean if name == "mean_angle" else min(MAX_PSNR, psnr_of_error(mean))
            rows.append(row)
        return rows


def group_scores(recon: Tensor, target: Tensor, layout: Layout) -> list[dict[str, Any]]:
    """For each group its name, kind and psnr, of the fitted values [H, W, D] in 0..1 (after the group's curve), in dB.
    Normals also have mean_angle, degrees. Linear light also has pu21_psnr, dB, a value of 1 taken for 100 cd/m^2."""
    scores = GroupScores(layout)
    scores.add(recon, target)
    return scores.records
