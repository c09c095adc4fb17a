"""The picture codec: a model of 2D Gaussians as a compact file."""
