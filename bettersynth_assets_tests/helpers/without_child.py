"""Training and answering in this process, in place of ``run_child``: a child imports torch and transformers, about 9 s.

Use it where another test of the same stage runs the real child.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bettersynth_assets.stages import evaluate, train
from toolkit.files import write_json


def run_here(
    module: str, plans: Mapping[Path, Mapping[str, Any]], *, on_event: Callable[[Any], None], **others: object
) -> None:
    """Process the plans as the module's command does; the other arguments are those of child processes."""
    from toolkit.evaluation.plan import read_plan as evaluation_plan
    from toolkit.evaluation.run import evaluate as answer
    from toolkit.training.plan import read_plan as training_plan
    from toolkit.training.session import train as train_plan

    for path, values in plans.items():
        write_json(path, dict(values))
        if module == train.TRAINER:
            train_plan(training_plan(path), on_event)
        else:
            assert module == evaluate.MODULE
            answer(evaluation_plan(path), on_event)
