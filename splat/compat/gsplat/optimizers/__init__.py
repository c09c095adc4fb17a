"""gsplat.optimizers."""

from splat.compat.gsplat.optimizers.selective_adam import SelectiveAdam

__all__ = ["SelectiveAdam"]
