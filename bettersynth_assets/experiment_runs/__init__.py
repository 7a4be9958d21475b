"""Runs experiments: builds the training sets of their arms, trains and evaluates what is missing, writes the result.

::

    Experiment ─ cells ─► (arm, training seed) ─ sets ─► training file ─ runs ─► scores ─ experiments ─► leaderboard
                             ▲                                                                │
                             └───────────── looks: arms without a verdict get more seeds ◄────┘

Used by the command ``bettersynth`` and by the assets of an experiment. Nothing here imports Dagster.
"""
