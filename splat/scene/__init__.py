"""Scenes: what is trained from photographs."""
