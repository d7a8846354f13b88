"""What trained models can do, measured."""
