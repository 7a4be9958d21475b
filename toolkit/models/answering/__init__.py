"""Code shared by the answerers of all architectures: image prefetching, batch sizes, answers through ``generate``."""
