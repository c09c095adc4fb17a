"""A scene in the browser."""

from splat.viewer.server import ViewerOptions as ViewerOptions
from splat.viewer.server import ViewerServer as ViewerServer
