"""Differentiable Gaussian splatting for PyTorch."""

from splat.core.ops import get_num_threads as get_num_threads
from splat.core.ops import set_num_threads as set_num_threads

__version__ = "0.1.0"
