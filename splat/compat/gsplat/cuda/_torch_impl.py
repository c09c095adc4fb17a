"""gsplat.cuda._torch_impl."""

from splat.compat.pixels import accumulate

__all__ = ["accumulate"]
