"""Differentiable Gaussian splatting for PyTorch."""

from splat.cameras import Cameras as Cameras
from splat.core.ops import get_num_threads as get_num_threads
from splat.core.ops import set_num_threads as set_num_threads
from splat.core.project import ProjectOptions as ProjectOptions
from splat.core.rasterize import RasterizeOptions as RasterizeOptions
from splat.gaussians import Gaussians as Gaussians
from splat.image.draw import rasterize_image as rasterize_image
from splat.image.fit import FitConfig as FitConfig
from splat.image.fit import FitResult as FitResult
from splat.image.fit import fit_image as fit_image
from splat.image.fitter import FitProgress as FitProgress
from splat.image.model import ImageGaussians as ImageGaussians
from splat.loss import photometric_loss as photometric_loss
from splat.rasterization import rasterization as rasterization
from splat.render import Rendered as Rendered
from splat.render import RenderOptions as RenderOptions
from splat.render import render as render

__version__ = "0.1.0"
