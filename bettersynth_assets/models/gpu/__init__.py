"""GPU-only code of models, each with the plain way that it replaces."""
