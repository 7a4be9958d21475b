"""Statistics of experiments: from scores per training run to verdicts. docs/statistics.md explains the choices.

::

    per-question rows ─ questions ─► scores per arm, benchmark and training seed
                            │                      │
                     question variance    seeds (Welch, paired) ─► Difference per look
                            │                      │
                            ▼             sequential ─ family (Holm) ─ verdict
                   generalising interval           │
                            └────────► table ◄─────┴─ kit_score, power
                                         │
                         leaderboard ─ conclusions ─► Markdown, JSON, CSV      plan: cost and power before the first run
                               │
                             ladder: agreement of the orders at several profiles
    scores ─► decisions: agreement of the orders by few and by many seeds

These are pure functions on NumPy arrays. ``run_store`` keeps the trainings, ``long_tables`` keeps their results, and
``scores`` reads these for a comparison (docs/runs.md). Nothing here imports Dagster, torch or pandas; only ``ladder``
imports ``scipy.stats``, when it compares.
"""
