"""Training of the shipped weights, one model of ``weights/`` per module. Used by ``make_weights`` only."""
