"""How good trained models are in the tiny world, measured against the known truth; one module for each kind."""
