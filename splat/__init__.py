"""Differentiable Gaussian splatting for PyTorch."""

from splat.core.ops import get_num_threads as get_num_threads
from splat.core.ops import set_num_threads as set_num_threads
from splat.core.rasterize import RasterizeOptions as RasterizeOptions
from splat.image.draw import rasterize_image as rasterize_image
from splat.image.fit import FitConfig as FitConfig
from splat.image.fit import FitResult as FitResult
from splat.image.fit import fit_image as fit_image
from splat.image.model import ImageGaussians as ImageGaussians

__version__ = "0.1.0"
