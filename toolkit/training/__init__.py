"""Training in two phases: ``python -m toolkit.training.run plan.json``."""
