"""Two-stage training: ``python -m toolkit.training.run plan.json``."""
