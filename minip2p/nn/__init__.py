"""Parts that two networks share: attention, norms, residual and transformer blocks."""
