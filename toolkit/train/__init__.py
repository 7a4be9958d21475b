"""Training of MGM in two stages: ``python -m toolkit.train.run plan.json``."""
