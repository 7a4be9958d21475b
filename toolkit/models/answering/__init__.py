"""Code shared by the answerers of all architectures: image prefetching, answers through ``generate``."""
