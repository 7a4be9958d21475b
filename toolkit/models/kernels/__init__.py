"""Custom kernels, each with the plain PyTorch code that it replaces."""
