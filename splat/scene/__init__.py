"""Scenes from photos: data in, training, evaluation, export."""
