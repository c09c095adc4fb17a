"""Scenes: photographs in, a trained scene out."""
