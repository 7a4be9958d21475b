"""What the answerers of all architectures share: pictures prepared ahead, batch sizes, and answers by ``generate``."""
