"""Rendering of scenes: backdrops, things, light, weather, media."""
