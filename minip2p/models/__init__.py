"""The networks, one a file, each read from top to bottom: its config, its blocks, the model."""
