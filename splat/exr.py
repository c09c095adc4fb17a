"""OpenEXR files (extra [hdr]): channels by name, to arrays and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from splat.optional import need

Array: TypeAlias = npt.NDArray[Any]

_DTYPES: dict[str, type[np.generic]] = {"UINT": np.uint32, "HALF": np.float16, "FLOAT": np.float32}


def read_exr(path: Path) -> dict[str, Array]:
    """The channels of a flat file of one part, each [h, w] uint32, float16 or float32 of its data window.

    Raises:
        NotInstalled: the extra is missing.
        OSError: missing, damaged or cut off.
        ValueError: channels of different sizes.
    """
    # The older interface of the package: the newer one (OpenEXR.File) only warns of a file that is cut off.
    file = need("OpenEXR", "hdr", "reading OpenEXR files").InputFile(str(path))
    header = file.header()
    window = header["dataWindow"]
    width, height = window.max.x - window.min.x + 1, window.max.y - window.min.y + 1
    channels = {}
    for name, channel in header["channels"].items():
        if (channel.xSampling, channel.ySampling) != (1, 1):
            raise ValueError(f"channel {name} is stored at another size")
        values = np.frombuffer(file.channel(name), _DTYPES[str(channel.type)])
        channels[name] = values.reshape(height, width)
    return channels


def write_exr(path: Path, channels: dict[str, Array]) -> None:
    """Writes channels [h, w] of float16 or float32, without loss; NotInstalled where the extra is missing."""
    exr = need("OpenEXR", "hdr", "writing OpenEXR files")
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    exr.File(header, {name: np.ascontiguousarray(values) for name, values in channels.items()}).write(str(path))
