"""The miniature: a small synthetic world whose ground truth is known, with small trained models.

``generate.py`` writes the world: a seed file with known faults, a fine-tuning set and evaluation sets.
``training/make_weights.py`` trains the models in ``weights/``, which have the same classes as the real models.
``quality.py`` compares the results of filters and captioners with the ground truth.
"""
