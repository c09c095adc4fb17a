"""gsplat.compression."""

from splat.compat.gsplat.compression.png_compression import PngCompression

__all__ = ["PngCompression"]
