"""Detection of a diverging loss. In: the loss of each step. Out: the reason to stop training, or None.

Two rules, both on the mean loss per token (nats):

* Single step: the loss exceeds ``CEILING`` times the larger of the first step's loss and ln(vocabulary), the loss of
  uniform guessing. A training that can recover has no such step.
* Trend: the mean of the last window of steps exceeds the lowest mean of an earlier window both by the factor ``RATIO``
  and by ``MARGIN``. A window has ``ROWS`` rows, because the loss of a small batch depends mostly on its rows: among
  8 rows, a single row of noise decides whether it is low or high. The mean leaves out the largest losses of a window
  and so ignores spikes. The margin (a factor of e^3 = 20 in perplexity) ignores batches of a different kind, whose loss
  may be several times as large while it is still small.
"""

from __future__ import annotations

import math
from collections import deque

CEILING = 3.0
ROWS = 256
SHORTEST_WINDOW = 8
LEFT_OUT = 1 / 8
"""Share of a window's losses, the largest, that its mean leaves out."""
RATIO = 2.0
MARGIN = 3.0


class LossWatch:
    """Checks the losses of a phase in order.

    Args:
        vocabulary: vocabulary size of the model.
        global_batch: rows of a step.
    """

    def __init__(self, vocabulary: int, global_batch: int) -> None:
        self.uniform = math.log(vocabulary)
        self.window = max(SHORTEST_WINDOW, ROWS // global_batch)
        self._first: float | None = None
        self._last: deque[float] = deque(maxlen=2 * self.window)
        self._best = math.inf

    def add(self, loss: float) -> str | None:
        """Add the loss of the next step; return why training must stop, or None."""
        if self._first is None:
            self._first = loss
        self._last.append(loss)
        ceiling = CEILING * max(self._first, self.uniform)
        if loss > ceiling:
            return f"over {ceiling:.4g}, {CEILING:g} times the larger of the first step's loss and that of guessing"
        if len(self._last) < 2 * self.window:
            return None
        steps = list(self._last)
        self._best = min(self._best, _mean(steps[: self.window]))
        now = _mean(steps[self.window :])
        if now > max(RATIO * self._best, self._best + MARGIN):
            return (
                f"the mean of the last {self.window} steps, {now:.4g}, is far above the lowest so far, {self._best:.4g}"
            )
        return None


def _mean(losses: list[float]) -> float:
    """Return the mean without the largest losses."""
    kept = sorted(losses)[: len(losses) - int(LEFT_OUT * len(losses))]
    return sum(kept) / len(kept)
