"""Detection of a diverging loss. In: the loss of each step. Out: the reason to stop training, or None.

Two rules, both on the mean loss per token (nats):

* Single step: the loss exceeds ``CEILING`` times the larger of the first step's loss and ln(vocabulary), the loss of
  uniform guessing. A training that can recover has no such step.
* Trend: the median of the last ``WINDOW`` steps exceeds the lowest median of any ``WINDOW`` earlier steps both by the
  factor ``RATIO`` and by ``MARGIN``. The median ignores single spikes. The margin (a factor of e^3 = 20 in perplexity)
  ignores batches of a different kind, whose loss may be several times as large while it is still small.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median

CEILING = 3.0
WINDOW = 8
RATIO = 2.0
MARGIN = 3.0


class LossWatch:
    """Checks the losses of a phase in order.

    Args:
        vocabulary: vocabulary size of the model.
    """

    def __init__(self, vocabulary: int) -> None:
        self.uniform = math.log(vocabulary)
        self._first: float | None = None
        self._last: deque[float] = deque(maxlen=2 * WINDOW)
        self._best = math.inf

    def add(self, loss: float) -> str | None:
        """Add the loss of the next step; return why training must stop, or None."""
        if self._first is None:
            self._first = loss
        self._last.append(loss)
        ceiling = CEILING * max(self._first, self.uniform)
        if loss > ceiling:
            return f"over {ceiling:.4g}, {CEILING:g} times the larger of the first step's loss and that of guessing"
        if len(self._last) < 2 * WINDOW:
            return None
        steps = list(self._last)
        self._best = min(self._best, median(steps[:WINDOW]))
        now = median(steps[WINDOW:])
        if now > max(RATIO * self._best, self._best + MARGIN):
            return f"the median of the last {WINDOW} steps, {now:.4g}, is far above the lowest so far, {self._best:.4g}"
        return None
