"""GPU-only code of models; each module names the plain code that it replaces."""
