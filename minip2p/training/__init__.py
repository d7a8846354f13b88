"""Training: one loop, one small file a stage (autoencoder, CLIP, editor), and the recipe that makes the shipped weights."""
