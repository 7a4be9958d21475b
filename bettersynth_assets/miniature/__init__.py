"""The miniature: a small world in which everything is real and measurable.

``generate.py`` writes a labelled world (seed with known faults, fine-tuning and evaluation sets), ``make_weights.py``
trains the small models of the real models' classes that lie in ``weights/``, ``quality.py`` measures filters and
captions against the world's truth.
"""
