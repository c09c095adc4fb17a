"""gsplat.cuda._torch_impl_2dgs."""

from splat.compat.unsupported import SURFELS, unsupported

accumulate_2dgs = unsupported("accumulate_2dgs", SURFELS)
