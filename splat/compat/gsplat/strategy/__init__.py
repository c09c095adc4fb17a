"""gsplat.strategy."""

from splat.compat.gsplat.strategy.base import Strategy
from splat.compat.gsplat.strategy.default import DefaultStrategy
from splat.compat.gsplat.strategy.mcmc import MCMCStrategy

__all__ = ["DefaultStrategy", "MCMCStrategy", "Strategy"]
