"""splat.io against splat-transform; see cross_check_io.sh, which runs this. Prints a line for each comparison and exits
with 1 where one is worse than the formats' steps allow."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import splat
from splat.gaussians import Gaussians
from splat.io import load_gaussians, save_gaussians
from splat.metrics import psnr

SOURCES = (
    "guitar.compressed.ply",
    "derived_ply/guitar.ply",
    "biker.spz",
    "biker.compressed.ply",
    "kitchen_room.splat",
    "logo_sog_unbundled/meta.json",
    "statues_sog/angel.sog",
    "statues_sog/massa.sog",
    "playbot_sog/2_0/meta.json",
    "playbot_sog/5_0/meta.json",
    "minimal_fixtures/minimal-v2.spz",
    "minimal_fixtures/minimal-v3.spz",
    "minimal_fixtures/minimal-v4.spz",
    "minimal_fixtures/minimal.splat",
    "minimal_fixtures/minimal.ksplat",
)
# Of what one file says to two readers: float32's rounding. But a rotation's bytes in a .splat we take as
# (b - 128) / 128, so that no rotation is one, and they as 2 b / 255 - 1.
SAME = {"means": 2e-5, "angle": 2e-3, "log_scales": 1e-4, "opacities": 1e-5, "sh0": 1e-4, "shN": 1e-4}
WRITTEN = (".ply", ".compressed.ply", ".spz", "v3.spz", ".sog")
# dB by which our file may be worse. A compressed PLY's depend on which Gaussians share a chunk: our Z-curve has cubes
# for cells, theirs boxes.
MARGIN = {".spz": 0.05, ".compressed.ply": 2.5, ".sog": 0.5}


@dataclass
class Check:
    """The two programs, a folder to work in and what was wrong so far."""

    tool: Path
    folder: Path
    failed: int = 0

    def transform(self, source: Path, target: Path, *options: str) -> None:
        """Runs splat-transform."""
        command = ["node", str(self.tool), "-q", "-w", "-g", "cpu", str(source), str(target), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not target.is_file():
            raise RuntimeError(f"splat-transform {source} {target}: {done.stderr.strip()[:300]}")

    def theirs(self, source: Path) -> Gaussians:
        """What splat-transform reads, by way of a PLY."""
        target = self.folder / "theirs.ply"
        self.transform(source, target)
        return load_gaussians(target)

    def compare(self, what: str, a: Gaussians, b: Gaussians, allowed: dict[str, float]) -> None:
        """Row by row."""
        if len(a) != len(b) or a.sh_degree != b.sh_degree:
            self.report(what, f"{len(a)} of degree {a.sh_degree}, {len(b)} of degree {b.sh_degree}", False)
            return
        got = differences(a, b)
        text = "  ".join(f"{name} {value:.1e}" for name, value in got.items())
        self.report(what, text, all(value <= allowed[name] for name, value in got.items()))

    def report(self, what: str, text: str, good: bool) -> None:
        """A line."""
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'}  {what:48} {text}", flush=True)


def differences(a: Gaussians, b: Gaussians) -> dict[str, float]:
    """The largest of each kind."""
    qa, qb = (torch.nn.functional.normalize(g.quats.double(), dim=-1) for g in (a, b))
    # Half turns about the Gaussian's own axes change nothing: the chord to the nearest of all rotations like b.
    w, x, y, z = qb.unbind(-1)
    like = torch.stack([qb, *(torch.stack(q, -1) for q in ((-x, w, z, -y), (-y, -z, w, x), (-z, y, -x, w)))])
    chord = torch.cat([(qa - like).norm(dim=-1), (qa + like).norm(dim=-1)]).amin(0)
    found: dict[str, Tensor] = {"means": a.means - b.means, "angle": 4 * (chord / 2).clamp(max=1).asin()}
    for name in ("log_scales", "opacities", "sh0", "shN"):
        found[name] = getattr(a, name) - getattr(b, name)
    return {name: float(value.abs().max()) if value.numel() else 0.0 for name, value in found.items()}


def picture(gaussians: Gaussians) -> Tensor:
    """[H, W, 3] from outside, upright for axes whose y points down."""
    middle = gaussians.means.median(0).values
    size = float((gaussians.means - middle).abs().quantile(0.9))
    eye = middle + torch.tensor([1.2, -0.8, -1.6]) * 2.2 * size
    up = (0.0, -1.0, 0.0)
    cameras = splat.Cameras.look_at(eye.tolist(), middle.tolist(), up=up, width=400, height=400, fov_y=45.0)
    return splat.render(gaussians, cameras).color[0].clamp(0, 1)


def check_reading(check: Check, data: Path) -> None:
    """Files of others: what we read is what they read."""
    for name in SOURCES:
        if not (data / name).is_file():
            print(f"--    {name}: not there")
            continue
        allowed = SAME | ({"angle": 0.03} if name.endswith(".splat") else {})
        check.compare(f"read {name}", load_gaussians(data / name), check.theirs(data / name), allowed)


def check_writing(check: Check, name: str, model: Gaussians) -> None:
    """What we write they read as we do; and their file and ours of one model are as good."""
    source = check.folder / "source.ply"
    save_gaussians(source, model)
    wanted = picture(model)
    for kind in WRITTEN:
        suffix = kind.removeprefix("v3")
        version = {"version": 3} if kind == "v3.spz" else {}
        # As large a palette as theirs; ours is smaller by default.
        palette = {"palette_size": 1024 * min(64, 2 ** int(math.log2(len(model) / 1024)))} if kind == ".sog" else {}
        ours, theirs = check.folder / f"ours{suffix}", check.folder / f"theirs{suffix}"
        save_gaussians(ours, model, **version, **palette)
        mine = load_gaussians(ours)
        check.compare(f"write {name} {kind}", mine, check.theirs(ours), SAME)
        if kind == ".ply":
            continue
        check.transform(source, theirs, *(["--spz-version", "3"] if version else []))
        quality = [psnr(picture(load_gaussians(path)), wanted) for path in (ours, theirs)]
        sizes = [path.stat().st_size for path in (ours, theirs)]
        text = f"ours {quality[0]:.1f} dB, {sizes[0]:,} bytes; theirs {quality[1]:.1f} dB, {sizes[1]:,} bytes"
        check.report(f"  pictures of {name} {kind}", text, quality[0] > quality[1] - MARGIN[suffix])
        if suffix == ".spz":  # in the model's order in both, so that the codes can be compared
            steps = {
                "means": 2.0**-12,
                "angle": 0.006,
                "log_scales": 1 / 16,
                "opacities": 1 / 255,
                "sh0": 0.03,
                "shN": 0.13,
            }
            check.compare(
                f"  codes of {name} {kind}", mine, load_gaussians(theirs), {k: v * 1.01 for k, v in steps.items()}
            )
    ours, theirs = check.folder / "ours.glb", check.folder / "theirs.glb"
    save_gaussians(ours, model)
    check.transform(source, theirs)
    check.compare(f"write {name} .glb", load_gaussians(ours), load_gaussians(theirs), SAME)


def with_harmonics(gaussians: Gaussians) -> Gaussians:
    """Of degree 3, made up but alike for neighbours, as trained ones are."""
    g = torch.Generator().manual_seed(0)
    waves = torch.sin(gaussians.means @ torch.randn(3, 45, generator=g) * 3)
    noise = torch.randn(len(gaussians), 45, generator=g)
    return replace(gaussians, shN=(0.12 * waves + 0.02 * noise).reshape(-1, 15, 3))


def main() -> int:
    """0 if all agree."""
    data, tool = (Path(argument) for argument in sys.argv[1:3])
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        check = Check(tool, Path(folder))
        check_reading(check, data)
        check_writing(check, "biker", load_gaussians(data / "biker.spz"))
        check_writing(check, "playbot SH2", load_gaussians(data / "playbot_sog" / "5_0"))
        check_writing(
            check, "made-up SH3", with_harmonics(load_gaussians(data / "statues_sog/massa.sog").map(lambda t: t[::6]))
        )
    print("all agree" if not check.failed else f"{check.failed} do not agree")
    return int(check.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
