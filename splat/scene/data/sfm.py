"""Camera poses for photos that have none: structure from motion by COLMAP (pycolmap), on the CPU."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from splat.scene.data.cache_folder import cached_folder, key_of
from splat.scene.data.capture import Progress, listed
from splat.scene.data.colmap_files import read_model, write_model
from splat.scene.data.pixels import BrokenPhoto, decode, read_header, resize_area

MAX_SIDE = 1600
"""Longest side of the copies that features are looked for in, pixels."""
MOST_FEATURES = 4096
"""Of a photo: the time for a pair of photos grows with the square."""
MOST_EXHAUSTIVE = 150
"""More photos than this are matched with their neighbours by name only: pairs grow with the square."""
_PAIRS_AT_ONCE = 100
_SETTINGS = "1"  # to be counted up when other poses come out for the same photos
_EXIF_IFD, _FOCAL_35MM = 0x8769, 0xA405


@dataclass(frozen=True)
class Poses:
    """What structure from motion found."""

    model: Path
    """Folder of COLMAP's model of the photos, turned upright as EXIF says, at a size of its own."""
    notes: tuple[str, ...]


def find_poses(
    folder: Path, photos: Sequence[Path], *, sequence: bool = False, progress: Progress | None = None
) -> Poses:
    """Poses of photos of one scene; those of the same photos are kept from one run to the next.

    Args:
        folder: where results are kept (or beside it, when it cannot be written).
        photos: files with different names.
        sequence: taken in the order given, as the frames of a video are.

    Raises:
        ValueError: pycolmap is missing, fewer than 2 photos can be read, or no poses come out.
    """
    report = progress or (lambda stage, done, total: None)
    by_sequence = sequence or len(photos) > MOST_EXHAUSTIVE
    key = key_of(photos, f"sfm {_SETTINGS} {MAX_SIDE} {MOST_FEATURES} {by_sequence}")
    where = cached_folder(folder, "sfm", key, lambda work: _reconstruct(work, photos, by_sequence, report))
    found = {image.name for image in read_model(where).images}
    notes = []
    lost = [photo.name for photo in photos if photo.name not in found]
    if lost:
        notes.append(f"no pose was found for {len(lost)} of {len(photos)} photos: {listed(lost)}")
    if by_sequence and not sequence:
        notes.append(f"more than {MOST_EXHAUSTIVE} photos: each was matched with its neighbours by name only")
    return Poses(where, tuple(notes))


def _reconstruct(work: Path, photos: Sequence[Path], by_sequence: bool, report: Progress) -> None:
    """Writes the largest model into `work`."""
    colmap = _pycolmap()
    level = colmap.logging.minloglevel
    colmap.logging.minloglevel = int(colmap.logging.Level.FATAL)  # its account of every step, also of failed attempts
    colmap.set_random_seed(0)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        # Copies and database are large and of no further use; on a crash the system clears them away.
        with TemporaryDirectory(prefix="splat-sfm-") as name:
            scratch = Path(name)
            groups = _copies(photos, scratch / "images", report)
            database = scratch / "database.db"
            _extract(colmap, database, scratch / "images", groups, threads, report)
            names = sorted(name for group in groups.values() for name in group)
            _match(colmap, database, names, by_sequence, threads, report)
            model = read_model(_map(colmap, database, scratch, len(names), threads, report))
            images = tuple(replace(image, name=photos[int(Path(image.name).stem)].name) for image in model.images)
            write_model(work, replace(model, images=images))
    finally:
        colmap.logging.minloglevel = level


_Group = tuple[int, int, float]
"""Width, height and focal length (pixels; 0 = not known) of photos that share a camera."""


def _copies(photos: Sequence[Path], folder: Path, report: Progress) -> dict[_Group, list[str]]:
    """Upright copies of a bounded size (COLMAP does not look at EXIF's orientation), named by the places of the photos
    in the list, as names by the camera that they seem to be from."""
    from PIL import Image

    folder.mkdir()
    groups: dict[_Group, list[str]] = {}
    broken = []
    for number, photo in enumerate(photos):
        try:
            read_header(photo)
            pixels = decode(photo, upright=True)[..., :3]
        except BrokenPhoto as error:
            broken.append(str(error))
            continue
        height, width = pixels.shape[:2]
        factor = max(1.0, max(width, height) / MAX_SIDE)
        small = resize_area(pixels, max(1, round(width / factor)), max(1, round(height / factor)))
        name = f"{number:06d}.png"
        Image.fromarray(np.ascontiguousarray(small)).save(folder / name, compress_level=1)
        size = small.shape[1], small.shape[0]
        groups.setdefault((*size, _focal(photo) * max(size)), []).append(name)
        report("preparing photos", number + 1, len(photos))
    if sum(map(len, groups.values())) < 2:
        why = f" ({listed(broken, 1)})" if broken else ""
        raise ValueError(
            f"at least 2 photos are needed to find camera poses, {len(photos) - len(broken)} can be read{why}"
        )
    return groups


def _focal(photo: Path) -> float:
    """From EXIF, in units of the longer side; 0 where it does not say."""
    from PIL import Image

    try:
        with Image.open(photo) as image:
            value = float(image.getexif().get_ifd(_EXIF_IFD).get(_FOCAL_35MM, 0))
    except Exception:  # EXIF is a hint only, and Pillow raises anything for a damaged block
        return 0.0
    return value / 36 if 5 < value < 1000 else 0.0  # the 35 mm frame is 36 mm wide


def _extract(
    colmap: Any, database: Path, images: Path, groups: dict[_Group, list[str]], threads: int, report: Progress
) -> None:
    total, done = sum(map(len, groups.values())), 0
    options = colmap.FeatureExtractionOptions()
    options.num_threads, options.use_gpu = threads, False
    options.sift.max_num_features = MOST_FEATURES
    report("finding features", 0, total)
    for (width, height, focal), names in groups.items():
        reader = colmap.ImageReaderOptions()
        reader.camera_model = "SIMPLE_RADIAL"
        if focal:
            reader.camera_params = f"{focal},{width / 2},{height / 2},0"
        # A few at a time, so that there is progress to show and Ctrl-C is heard.
        for part in [names[i : i + 2 * threads] for i in range(0, len(names), 2 * threads)]:
            _run(
                colmap.extract_features,
                database,
                images,
                image_names=part,
                camera_mode=colmap.CameraMode.SINGLE,
                reader_options=reader,
                extraction_options=options,
                device=colmap.Device.cpu,
            )
            if reader.existing_camera_id < 0:
                with colmap.Database.open(database) as opened:
                    reader.existing_camera_id = max(camera.camera_id for camera in opened.read_all_cameras())
            done += len(part)
            report("finding features", done, total)


def _match(
    colmap: Any, database: Path, names: Sequence[str], by_sequence: bool, threads: int, report: Progress
) -> None:
    options = colmap.FeatureMatchingOptions()
    options.num_threads, options.use_gpu = threads, False
    pairs, pairing = _pairs(names, by_sequence), colmap.ImportedPairingOptions()
    pairing.match_list_path = database.with_suffix(".pairs")
    report("matching photos", 0, len(pairs))
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        part = pairs[start : start + _PAIRS_AT_ONCE]
        pairing.match_list_path.write_text("".join(f"{first} {second}\n" for first, second in part))
        _run(
            colmap.match_image_pairs,
            database,
            matching_options=options,
            pairing_options=pairing,
            device=colmap.Device.cpu,
        )
        report("matching photos", start + len(part), len(pairs))


def _pairs(names: Sequence[str], by_sequence: bool) -> list[tuple[str, str]]:
    """All, or each photo with the ten after it and those 16, 32, 64 ... places on, which tie a long walk together."""
    count = len(names)
    steps = [*range(1, 11), *(2**k for k in range(4, count.bit_length()))] if by_sequence else range(1, count)
    return [(names[i], names[i + step]) for i in range(count) for step in steps if i + step < count]


def _map(colmap: Any, database: Path, scratch: Path, total: int, threads: int, report: Progress) -> Path:
    """Folder of the largest model."""
    options = colmap.IncrementalPipelineOptions()
    options.num_threads, options.random_seed = threads, 0
    options.min_model_size = 2
    placed = 0

    def place(count: int) -> None:
        nonlocal placed
        placed = min(count, total)
        report("finding poses", placed, total)

    report("finding poses", 0, total)
    (scratch / "models").mkdir()
    models = _run(
        colmap.incremental_mapping,
        database,
        scratch / "images",
        scratch / "models",
        options,
        initial_image_pair_callback=lambda: place(2),
        next_image_callback=lambda: place(placed + 1),
    )
    if not models:
        raise ValueError(
            "no camera poses could be found; the photos must show one scene that stands still, sharply, from places "
            "that differ a little from one photo to the next"
        )
    return scratch / "models" / str(max(models, key=lambda index: models[index].num_reg_images()))


def _run(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """`call` in a thread of its own: Ctrl-C ends it early (at the next moment at which COLMAP looks) and is raised."""
    token = _pycolmap().CancellationToken()
    result: list[Any] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(call(*arguments, **options, cancellation_token=token))
        except BaseException as error:  # handed to the thread that waits
            failure.append(error)

    thread = threading.Thread(target=work, name="sfm", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
    except BaseException:
        token.cancel()
        thread.join()
        raise
    if failure:
        raise ValueError(f"finding camera poses failed: {failure[0]}") from failure[0]
    return result[0]


def _pycolmap() -> Any:
    try:
        return import_module("pycolmap")
    except ImportError as error:
        raise ValueError(
            "the photos have no camera poses, and finding them needs pycolmap: pip install 'torchsplat[sfm]' (or give "
            "a folder with a COLMAP model or a transforms.json)"
        ) from error
