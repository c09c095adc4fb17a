"""Small data sets that tests write: a world of which every ray's colour is known, and COLMAP projects of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from splat.cameras import Cameras
from splat.scene.data.colmap_files import ColmapCamera, ColmapImage, ColmapModel, write_model
from splat.scene.data.distortion import Array, Lens

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
MINI = Path(__file__).parent.parent / "scenes" / "saharov"


def seen_colors(plane: Array) -> npt.NDArray[np.uint8]:
    """uint8 [..., 3] of points [..., 2] of the plane z = 1: waves that no two places nearby share."""
    u, v = plane[..., 0], plane[..., 1]
    waves = np.stack([np.sin(5 * u + 1), np.sin(4 * v - 1), np.sin(3 * (u + v))], -1)
    return np.round(127.5 + 120 * waves).astype(np.uint8)


def lens_picture(lens: Lens) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3] what the lens sees of `seen_colors`; black where it sees nothing of the plane."""
    y, x = np.meshgrid(np.arange(lens.height) + 0.5, np.arange(lens.width) + 0.5, indexing="ij")
    plane = lens.unproject(np.stack([x, y], -1).reshape(-1, 2)).reshape(lens.height, lens.width, 2)
    seen = np.isfinite(plane).all(-1, keepdims=True)
    return np.where(seen, seen_colors(np.nan_to_num(plane)), 0).astype(np.uint8)


def turned(angle: float) -> tuple[tuple[float, float, float, float], Array]:
    """Quaternion wxyz and matrix of a turn about the y axis."""
    c, s = math.cos(angle), math.sin(angle)
    return (math.cos(angle / 2), 0.0, math.sin(angle / 2), 0.0), np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def colmap_model(count: int = 6, *, camera: ColmapCamera | None = None, points: int = 12) -> ColmapModel:
    """`count` images ("0.png" ...) from places on a line, and points, seen where they project to; the last point
    is seen by none."""
    camera = camera or ColmapCamera("PINHOLE", 40, 30, (35.0, 36.0, 21.0, 14.0))
    lens = Lens.from_colmap(camera.model, camera.width, camera.height, camera.params)
    g = np.random.default_rng(0)
    xyz = (g.random((points, 3)) - 0.5) * (3, 2, 1) + (0, 0, 5)
    ids = np.arange(points, dtype=np.int64) * 7 + 3  # neither rows nor sorted by anything but chance
    images = []
    for i in range(count):
        quat, rotation = turned(0.05 * (i - count / 2))
        translation = np.array([0.3 * (i - count / 2), 0.1, 0.2 * i])
        seen = xyz[:-1] @ rotation.T + translation
        pixels = lens.project(seen[:, :2] / seen[:, 2:])
        inside = ((pixels >= 0) & (pixels <= (camera.width, camera.height))).all(1)
        place = (float(translation[0]), float(translation[1]), float(translation[2]))
        images.append(ColmapImage(f"{i}.png", 1, quat, place, pixels[inside], ids[:-1][inside]))
    colors = g.integers(0, 256, (points, 3), dtype=np.uint8)
    return ColmapModel({1: camera}, tuple(images), ids, xyz, colors)


def write_project(root: Path, model: ColmapModel, *, text: bool = False) -> None:
    """images/ with pictures of noise, each of the size of its camera, and sparse/0/."""
    for number, image in enumerate(model.images):
        camera = model.cameras[image.camera_id]
        write_noise(root / "images" / image.name, camera.width, camera.height, seed=number)
    if text:
        write_text_model(root / "sparse" / "0", model)
    else:
        write_model(root / "sparse" / "0", model)


def write_noise(path: Path, width: int, height: int, *, seed: int = 0, channels: int = 3) -> npt.NDArray[np.uint8]:
    """A picture file of noise; returns its pixels [H, W, channels]."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def write_text_model(folder: Path, model: ColmapModel) -> None:
    """The text files as COLMAP writes them, from its documentation."""
    folder.mkdir(parents=True, exist_ok=True)
    cameras = ["# Camera list with one line of data per camera:"]
    for camera_id, c in model.cameras.items():
        cameras.append(f"{camera_id} {c.model} {c.width} {c.height} {' '.join(map(repr, c.params))}")
    images = ["# Image list with two lines of data per image:"]
    for number, image in enumerate(model.images, 1):
        pose = " ".join(map(repr, (*image.quat, *image.translation)))
        images.append(f"{number} {pose} {image.camera_id} {image.name}")
        # An observation without a point comes first, as in most files.
        marks = [
            f"{x!r} {y!r} {p}" for (x, y), p in zip(image.keypoints.tolist(), image.point_ids.tolist(), strict=True)
        ]
        images.append(" ".join(["1.5 2.5 -1", *marks]))
    points = ["# 3D point list with one line of data per point:"]
    for point, xyz, rgb in zip(model.point_ids.tolist(), model.points.tolist(), model.colors.tolist(), strict=True):
        points.append(f"{point} {' '.join(map(repr, xyz))} {' '.join(map(str, rgb))} 0.5 1 1")
    for name, lines in (("cameras", cameras), ("images", images), ("points3D", points)):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def renamed(model: ColmapModel, names: dict[str, str]) -> ColmapModel:
    """With other image names."""
    return replace(model, images=tuple(replace(i, name=names.get(i.name, i.name)) for i in model.images))


def walk(count: int) -> Cameras:
    """Cameras along an arc before the room of `room_pictures`, 480 x 360 pixels."""
    eyes = [[1.6 * math.sin(0.16 * (i - 3)), -2.6 + 0.1 * (i % 2), 1.0 + 0.2 * (i % 3)] for i in range(count)]
    return Cameras.look_at(eyes, [0.0, 0.3, 0.4], width=480, height=360, fov_y=45)


def room_pictures(cameras: Cameras) -> list[npt.NDArray[np.uint8]]:
    """[H, W, 3] what cameras see of a floor (z = 0) and a wall (y = 1), each of 3 x 2 with a photo on it."""
    floor, wall = (_texture(name) for name in ("kodim05.png", "kodim23.png"))
    y, x = torch.meshgrid(torch.arange(cameras.height) + 0.5, torch.arange(cameras.width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1)
    pictures = []
    for K, viewmat, eye in zip(cameras.Ks, cameras.viewmats, cameras.centers, strict=True):
        rays = pixels @ torch.linalg.inv(K).T @ viewmat[:3, :3]
        down, ahead = -eye[2] / rays[..., 2], (1 - eye[1]) / rays[..., 1]  # how far along the ray
        on_floor, on_wall = eye + down[..., None] * rays, eye + ahead[..., None] * rays
        # Outside of its texture a surface is black.
        below = _sampled(floor, on_floor[..., 0] / 1.5, torch.where(down > 0, on_floor[..., 1], 9))
        behind = _sampled(wall, on_wall[..., 0] / 1.5, torch.where(ahead > 0, 1 - on_wall[..., 2], 9))
        color = torch.where(((ahead > 0) & ((ahead < down) | (down < 0)))[..., None], behind, below)
        pictures.append(color.round().to(torch.uint8).numpy())
    return pictures


def _texture(name: str) -> torch.Tensor:
    """[1, 3, H, W] 0 .. 255."""
    with Image.open(MINI.parent / "photos" / name) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float()


def _sampled(texture: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    grid = torch.stack([u, v], -1)[None]
    return torch.nn.functional.grid_sample(texture, grid, align_corners=False)[0].permute(1, 2, 0)
