"""Training: one loop, a small file a stage (autoencoder, CLIP, editor), and the recipe of the shipped weights."""
