"""From captions to a training set (section 3.1 of the paper): instructions, pairs of images, CLIP filter, latents."""
