"""Training of MGM in two stages: ``python -m toolkit.training.run plan.json``."""
