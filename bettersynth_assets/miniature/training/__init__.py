"""Training of the shipped weights; each file makes one model of ``weights/``. Used by ``make_weights`` only."""
