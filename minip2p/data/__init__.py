"""Images, sets of edit pairs in any layout, captions, precomputed latents; importing and inspecting a set."""
