"""Where Gaussians are added, moved and removed while a scene is trained.

A strategy looks at the Gaussians and at what it has observed, and says what to change as an `Edit`; `surgery` applies
an edit to whatever tables there are. Everything random is drawn by Gaussian id and iteration, see `splat.core.random`.
"""

from splat.scene.config import DefaultConfig, McmcConfig
from splat.scene.densify.base import Edit, Strategy, View
from splat.scene.densify.default import DefaultStrategy
from splat.scene.densify.mcmc import McmcStrategy

__all__ = ["DefaultConfig", "DefaultStrategy", "Edit", "McmcConfig", "McmcStrategy", "Strategy", "View"]
