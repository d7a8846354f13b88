"""Training data, configs and presets of the tiny world."""
