"""Camera paths: a smooth tour through given poses, an orbit, and the files that paths are kept in."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from splat.cameras import Cameras
from splat.core.checks import check_int, check_size
from splat.core.reference.project import rotation
from splat.files import atomic_write

FRAMES_PER_POSE, FEW_POSES = 8, 8
"""A tour goes through at most frames / FRAMES_PER_POSE poses (or FEW_POSES): closer ones would show as shaking."""
MAX_TOUR = 512
"""Most poses that a tour is ordered over."""
_FORMAT, _VERSION = "splat-camera-path", 1


# Poses


def quaternions(rotations: Tensor) -> Tensor:
    """[C, 3, 3] rotation matrices -> [C, 4] wxyz of unit length."""
    m = rotations
    xx, yy, zz = m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]
    # Four times the products of the quaternion's entries; the row of the largest square is the best conditioned.
    a, b, c = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    d, e, f = m[:, 1, 0] + m[:, 0, 1], m[:, 0, 2] + m[:, 2, 0], m[:, 2, 1] + m[:, 1, 2]
    rows = [
        [1 + xx + yy + zz, a, b, c],
        [a, 1 + xx - yy - zz, d, e],
        [b, d, 1 - xx + yy - zz, f],
        [c, e, f, 1 - xx - yy + zz],
    ]
    products = torch.stack([torch.stack(row, -1) for row in rows], -2)
    best = products.diagonal(dim1=1, dim2=2).argmax(1)
    return F.normalize(products[torch.arange(len(m), device=m.device), best], dim=-1)


def up_direction(cameras: Cameras) -> Tensor:
    """[3] the direction that is up in the pictures. For a walk around something with pictures on their side, which have
    no common up, it is the axis of that walk; which way along it is then a guess."""
    turn = cameras.viewmats[:, :3, :3].double().cpu()
    right, down, forward = turn.unbind(1)
    mean = -down.mean(0)
    # The axis that all right sides (or, for pictures on their side, all down sides) are perpendicular to.
    values, vectors = zip(*(torch.linalg.eigh(a.mT @ a) for a in (right, down)), strict=True)
    if float(mean.norm()) > 0.5:
        level: Tensor = vectors[0][:, 0]
        lean = float(level @ mean / mean.norm())
        clear = float(values[0][0]) < 0.1 * float(values[0][1]) and abs(lean) > 0.7
        return (level * math.copysign(1, lean) if clear else F.normalize(mean, dim=0)).to(cameras.viewmats)
    axis: Tensor = vectors[int(values[1][0] < values[0][0])][:, 0]
    lean = float(axis @ mean)
    if abs(lean) < 0.05:  # pictures are taken from above more often than from below
        lean = -float(axis @ forward.mean(0))
    return (axis * math.copysign(1, lean)).to(cameras.viewmats)


def look_point(cameras: Cameras) -> Tensor | None:
    """[3] the point that the cameras look at (nearest to their axes in the least-squares sense), or None where there is
    no such point: nine of ten cameras must have it before them, within 17 degrees of their axis."""
    centers = cameras.centers.double().cpu()
    forward = cameras.viewmats[:, 2, :3].double().cpu()
    across = torch.eye(3, dtype=torch.float64) - forward[:, :, None] * forward[:, None, :]
    A = across.sum(0)
    if len(cameras) < 2 or float(torch.linalg.eigvalsh(A)[0]) < 1e-3 * len(cameras):
        return None
    point: Tensor = torch.linalg.solve(A, (across @ centers[..., None]).sum(0))[:, 0]
    along = ((point - centers) * forward).sum(1)
    miss = (across @ (point - centers)[..., None])[..., 0].norm(dim=1)
    if float((miss < 0.3 * along).double().mean()) < 0.9:
        return None
    return point.to(cameras.viewmats)


def with_size(cameras: Cameras, width: int | None, height: int | None) -> Cameras:
    """The same poses with pictures of another size: the vertical field of view stays, and with one side given the
    aspect too."""
    if width is None and height is None:
        return cameras
    if height is None:
        height = max(1, round(cameras.height * (width or 1) / cameras.width))
    if width is None:
        width = max(1, round(cameras.width * height / cameras.height))
    check_size(width, height)
    Ks = cameras.Ks.clone()
    Ks[:, :2, :2] *= height / cameras.height
    Ks[:, 0, 2] *= width / cameras.width
    Ks[:, 1, 2] *= height / cameras.height
    return replace(cameras, Ks=Ks, width=width, height=height)


def one_size(cameras: Sequence[Cameras]) -> Cameras:
    """Cameras of different picture sizes as those of the first's size; see `with_size`."""
    if not cameras:
        raise ValueError("cameras must hold at least one camera")
    return Cameras.concat([with_size(c, cameras[0].width, cameras[0].height) for c in cameras])


def _cameras(positions: Tensor, quats: Tensor, Ks: Tensor, like: Cameras) -> Cameras:
    """From camera-to-world poses in float64."""
    turn = rotation(quats).mT
    viewmats = torch.eye(4, dtype=torch.float64).repeat(len(positions), 1, 1)
    viewmats[:, :3, :3] = turn
    viewmats[:, :3, 3] = -(turn @ positions[..., None])[..., 0]
    return replace(like, viewmats=viewmats.to(like.viewmats), Ks=Ks.to(like.Ks))


# A tour


def fly_through(cameras: Cameras, frames: int) -> Cameras:
    """A smooth closed tour through the given poses, at an even pace: after the last frame comes the first.

    The poses are put in a short round (by nearest neighbours, then 2-opt) and each is a frame of the path, except where
    they are too many for `frames` (see FRAMES_PER_POSE): then an even choice of them. Between them positions follow a
    cubic spline (around the point that all look at, where there is one, so that the path does not cut through an
    object), rotations a spline of quaternions, so that the roll of the cameras is kept.
    """
    check_int("frames", frames, 1)
    if len(cameras) < 2:
        raise ValueError(f"cameras must be at least 2 poses to fly through, got {len(cameras)}")
    if len(cameras) > MAX_TOUR:
        cameras = cameras[torch.linspace(0, len(cameras) - 1, MAX_TOUR).round().long().tolist()]
    positions = cameras.centers.double().cpu()
    quats = quaternions(cameras.viewmats[:, :3, :3].double().cpu().mT)
    size = float((positions - positions.mean(0)).square().sum(1).mean().sqrt()) or 1.0
    angles = 2 * (quats @ quats.T).abs().clamp_max(1).acos()
    distance = torch.cdist(positions, positions) / size + angles
    focus = look_point(cameras)

    tour = _round_trip(distance + _climbs(positions, focus, up_direction(cameras)) / size)
    legs = distance[tour, tour.roll(-1)]
    most = max(2, min(frames, max(FEW_POSES, frames // FRAMES_PER_POSE)))
    if len(tour) > most:
        start = legs.cumsum(0) - legs
        at = torch.arange(most, dtype=torch.float64) * float(legs.sum()) / most
        tour = tour[torch.unique(torch.searchsorted(start, at).clamp_max(len(tour) - 1))]
        legs = distance[tour, tour.roll(-1)]
    leg, part, lengths = _pace(legs, frames)

    Ks = cameras.Ks.double().cpu()[tour]
    Ks = torch.lerp(Ks[leg], Ks.roll(-1, 0)[leg], part[:, None, None])
    turns = _spline(quats[tour], lengths, leg, part, aligned=True)
    path = _positions(positions[tour], focus, lengths, leg, part)
    return _cameras(path, turns, Ks, cameras)


def _climbs(positions: Tensor, focus: Tensor | None, up: Tensor) -> Tensor:
    """[N, N] twice the differences in height and in distance from what is looked at: with them a round goes along the
    rings that objects are photographed in, one after the other, rather than up and down between them."""
    if focus is None:
        return positions.new_zeros(len(positions), len(positions))
    offset = positions - focus.cpu().double()
    levels = torch.stack([offset @ up.cpu().double(), offset.norm(dim=1)], 1)
    return 2 * torch.cdist(levels, levels)


def _round_trip(distance: Tensor) -> Tensor:
    """Order [N] of a short round trip over a matrix [N, N]; the same on every run."""
    count = len(distance)
    order, left = [0], torch.ones(count, dtype=torch.bool)
    left[0] = False
    for _ in range(count - 1):
        nearest = int(distance[order[-1]].masked_fill(~left, math.inf).argmin())
        order.append(nearest)
        left[nearest] = False
    tour = torch.tensor(order)
    for _ in range(20):  # 2-opt: turn a part of the round about where that shortens it
        improved = False
        for i in range(count - 2):
            a, b = tour[i], tour[i + 1]
            c, d = tour[i + 2 :], tour.roll(-1)[i + 2 :]
            gain = distance[a, b] + distance[c, d] - distance[a, c] - distance[b, d]
            best = int(gain.argmax())
            if float(gain[best]) > 1e-9:
                tour[i + 1 : i + 3 + best] = tour[i + 1 : i + 3 + best].flip(0)
                improved = True
        if not improved:
            break
    return tour


def _pace(legs: Tensor, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frames over the legs of a round, in proportion to their length but at least one each: for each frame its leg and
    how far along it is (0 .. 1, without 1), and the frames of each leg."""
    count = len(legs)
    spare = max(0, frames - count)
    share = legs / legs.sum() * spare if float(legs.sum()) > 0 else torch.full_like(legs, spare / count)
    lengths = 1 + share.floor().long()
    short = max(0, frames - int(lengths.sum()))
    lengths[(share - share.floor()).argsort(descending=True, stable=True)[:short]] += 1
    leg = torch.repeat_interleave(torch.arange(count), lengths)[:frames]
    start = lengths.cumsum(0) - lengths
    return leg, (torch.arange(len(leg)) - start[leg]) / lengths[leg].double(), lengths


def _spline(keys: Tensor, lengths: Tensor, leg: Tensor, part: Tensor, *, aligned: bool = False) -> Tensor:
    """Closed cubic Hermite spline through `keys` [M, D], which are `lengths` [M] frames apart; each tangent is that of
    the parabola through a key and its neighbours. `aligned`: keys are quaternions, of which q and -q are the same."""
    h = lengths.double()[:, None]
    ahead, behind = keys.roll(-1, 0), keys.roll(1, 0)
    if aligned:
        ahead = torch.where((keys * ahead).sum(1, keepdim=True) < 0, -ahead, ahead)
        behind = torch.where((keys * behind).sum(1, keepdim=True) < 0, -behind, behind)
    before = h.roll(1, 0)
    tangents = (h * (keys - behind) / before + before * (ahead - keys) / h) / (h + before)
    arriving = tangents.roll(-1, 0)
    if aligned:  # the next key's tangent belongs to that key's sign
        arriving = torch.where((ahead * keys.roll(-1, 0)).sum(1, keepdim=True) < 0, -arriving, arriving)
    s = part[:, None]
    return (
        (1 + 2 * s) * (1 - s) ** 2 * keys[leg]
        + s * (1 - s) ** 2 * (h * tangents)[leg]
        + s * s * (3 - 2 * s) * ahead[leg]
        - s * s * (1 - s) * (h * arriving)[leg]
    )


def _positions(keys: Tensor, focus: Tensor | None, lengths: Tensor, leg: Tensor, part: Tensor) -> Tensor:
    """[F, 3]; around `focus`, direction and distance go each its own way."""
    if focus is not None:
        radius = (keys - focus.cpu().double()).norm(dim=1, keepdim=True)
        direction = (keys - focus.cpu().double()) / radius.clamp_min(1e-12)
        # Legs that reach over the top or past the back have no shortest way around.
        if float((direction * direction.roll(-1, 0)).sum(1).min()) > -0.5 and float(radius.min()) > 0:
            around = F.normalize(_spline(direction, lengths, leg, part), dim=1)
            return focus.cpu().double() + around * _spline(radius.log(), lengths, leg, part).exp()
    return _spline(keys, lengths, leg, part)


def circle(center: Tensor, offset: Tensor, up: Tensor, frames: int) -> Tensor:
    """[F, 3] once around the axis through `center` along `up` (of length 1), from center + offset on."""
    above = offset @ up * up
    angle = torch.arange(frames, device=up.device)[:, None] / max(1, frames) * 2 * math.pi
    ring: Tensor = angle.cos() * (offset - above) + angle.sin() * torch.linalg.cross(up, offset)
    return center + above + ring


def orbit(cameras: Cameras, frames: int, up: Tensor | None = None) -> Cameras:
    """A circle around the point that the cameras look at, at their median height and distance.

    Args:
        up: [3] of length 1 (default: `up_direction` of the cameras).

    Raises:
        ValueError: the cameras do not look at one point.
    """
    check_int("frames", frames, 1)
    focus = look_point(cameras)
    if focus is None:
        raise ValueError("cameras do not look at one point, which an orbit goes around; use a fly-through")
    up = up_direction(cameras) if up is None else up.to(cameras.viewmats)
    offset = cameras.centers - focus
    height = (offset @ up).median()
    flat = offset - (offset @ up)[:, None] * up
    radius = flat.norm(dim=1).median()
    if float(radius) < 1e-3 * float(offset.norm(dim=1).median()):
        raise ValueError("cameras are all above one point, which an orbit cannot go around; use a fly-through")
    first = F.normalize(flat[int(flat.norm(dim=1).argmax())], dim=0)
    eyes = circle(focus, radius * first + height * up, up, frames)
    around = Cameras.look_at(eyes, focus, up=up, width=cameras.width, height=cameras.height, focal=1.0)
    return replace(around, Ks=cameras.Ks.median(0).values.expand(frames, 3, 3).clone())


# Files


def write_path(path: str | Path, cameras: Cameras) -> None:
    """Writes a path as JSON: size, and for each frame `viewmat` (world to camera, OpenCV axes) and `K`."""
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "width": cameras.width,
        "height": cameras.height,
        "camera_model": cameras.camera_model,
        "frames": [
            {"viewmat": viewmat, "K": K}
            for viewmat, K in zip(cameras.viewmats.tolist(), cameras.Ks.tolist(), strict=True)
        ],
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n")


def read_path(path: str | Path, *, width: int | None = None, height: int | None = None) -> Cameras:
    """Reads a camera path: what `write_path` wrote, nerfstudio's camera_path.json, or a transforms.json (its frames in
    the file's order). Poses are in the world that the file was made for.

    Args:
        width, height: size of the pictures in pixels, where it is not to be the file's; see `with_size`. A
            transforms.json without a size (Blender's) needs both.

    Raises:
        ValueError: missing, damaged, empty or unknown file; no size known.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error})") from error
    try:
        if not isinstance(content, dict):
            raise ValueError("holds no JSON object")
        if content.get("format") == _FORMAT:
            cameras = _read_own(content)
        elif "camera_path" in content:
            cameras = _read_nerfstudio(content)
        elif "frames" in content:
            cameras = _read_transforms(content, width, height)
        else:
            raise ValueError("wanted a camera path, a camera_path.json or a transforms.json")
    except KeyError as error:
        raise ValueError(f"{path}: a frame or the file lacks {error}") from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from error
    return with_size(cameras, width, height)


def _matrices(frames: Any, key: str) -> Tensor:
    if not frames:
        raise ValueError("holds no frame")
    return torch.tensor([frame[key] for frame in frames], dtype=torch.float32)


def _read_own(content: dict[str, Any]) -> Cameras:
    if content["version"] != _VERSION:
        raise ValueError(f"wanted a {_FORMAT} of version {_VERSION}, got {content['version']}")
    viewmats, Ks = (_matrices(content["frames"], key) for key in ("viewmat", "K"))
    return Cameras(viewmats, Ks, content["width"], content["height"], content["camera_model"])


def _read_nerfstudio(content: dict[str, Any]) -> Cameras:
    if content.get("camera_type", "perspective") != "perspective":
        raise ValueError(f"camera_type must be perspective, got {content['camera_type']}")
    width, height = int(content["render_width"]), int(content["render_height"])
    c2w = _matrices(content["camera_path"], "camera_to_world").view(-1, 4, 4)
    focals = [0.5 * height / math.tan(math.radians(frame["fov"]) / 2) for frame in content["camera_path"]]
    Ks = torch.tensor([[[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]] for f in focals])
    return Cameras.from_opengl_c2w(c2w, Ks, width=width, height=height)


def _read_transforms(content: dict[str, Any], width: int | None, height: int | None) -> Cameras:
    frames = content["frames"]
    c2w = _matrices(frames, "transform_matrix")
    about = [content | frame for frame in frames]  # nerfstudio allows intrinsics of each frame
    first = about[0]
    w, h = first.get("w", width), first.get("h", height)
    if w is None or h is None:
        raise ValueError("has no picture size (w, h); give the width and the height")
    if any((frame.get("w", w), frame.get("h", h)) != (w, h) for frame in about):
        raise ValueError("frames must agree in w and h")
    Ks = []
    for frame in about:
        fx = frame["fl_x"] if "fl_x" in frame else 0.5 * w / math.tan(frame["camera_angle_x"] / 2)
        fy = frame.get("fl_y", fx)
        Ks.append([[fx, 0, frame.get("cx", w / 2)], [0, fy, frame.get("cy", h / 2)], [0, 0, 1]])
    return Cameras.from_opengl_c2w(c2w, torch.tensor(Ks, dtype=torch.float32), width=int(w), height=int(h))
