"""Differentiable Gaussian splatting for PyTorch."""

# Names are loaded when first used: `import splat` itself is instant, and torch comes in with the first of them.
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from splat.cameras import Cameras as Cameras
    from splat.compat.rasterization import rasterization as rasterization
    from splat.core.binning import ListRoom as ListRoom
    from splat.core.ops import get_num_threads as get_num_threads
    from splat.core.ops import set_num_threads as set_num_threads
    from splat.core.project import ProjectOptions as ProjectOptions
    from splat.core.rasterize import RasterizeOptions as RasterizeOptions
    from splat.gaussians import Gaussians as Gaussians
    from splat.image.codec.encode import EncodeConfig as EncodeConfig
    from splat.image.codec.encode import encode_image as encode_image
    from splat.image.codec.encode import encode_model as encode_model
    from splat.image.codec.s2d import decode_image as decode_image
    from splat.image.draw import rasterize_image as rasterize_image
    from splat.image.fit import FitConfig as FitConfig
    from splat.image.fit import FitResult as FitResult
    from splat.image.fit import fit_image as fit_image
    from splat.image.fitter import FitProgress as FitProgress
    from splat.image.layout import Layout as Layout
    from splat.image.model import ImageGaussians as ImageGaussians
    from splat.image.picture import TextureMap as TextureMap
    from splat.io import load_gaussians as load_gaussians
    from splat.io import save_gaussians as save_gaussians
    from splat.loss import photometric_loss as photometric_loss
    from splat.optim import GaussianAdam as GaussianAdam
    from splat.optim import LearningRates as LearningRates
    from splat.rendering import Rendered as Rendered
    from splat.rendering import RenderOptions as RenderOptions
    from splat.rendering import render as render
    from splat.scene.config import TrainConfig as TrainConfig
    from splat.scene.data import load_capture as load_capture
    from splat.scene.train import Trainer as Trainer

__version__ = "0.1.0"

_HOME = {
    "Cameras": "cameras",
    "ListRoom": "core.binning",
    "get_num_threads": "core.ops",
    "set_num_threads": "core.ops",
    "ProjectOptions": "core.project",
    "RasterizeOptions": "core.rasterize",
    "Gaussians": "gaussians",
    "EncodeConfig": "image.codec.encode",
    "encode_image": "image.codec.encode",
    "encode_model": "image.codec.encode",
    "decode_image": "image.codec.s2d",
    "rasterize_image": "image.draw",
    "FitConfig": "image.fit",
    "FitResult": "image.fit",
    "fit_image": "image.fit",
    "FitProgress": "image.fitter",
    "Layout": "image.layout",
    "ImageGaussians": "image.model",
    "TextureMap": "image.picture",
    "photometric_loss": "loss",
    "GaussianAdam": "optim",
    "LearningRates": "optim",
    "rasterization": "compat.rasterization",
    "Rendered": "rendering",
    "RenderOptions": "rendering",
    "render": "rendering",
    "load_gaussians": "io",
    "save_gaussians": "io",
    "TrainConfig": "scene.config",
    "load_capture": "scene.data",
    "Trainer": "scene.train",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'splat' has no attribute {name!r}")
    value = getattr(import_module(f"splat.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
