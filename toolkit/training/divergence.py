"""Tells an exploding loss from noise. In: the loss of each step. Out: why training must stop, or None.

Two rules, both in mean loss per token (nats):

* one step: over ``CEILING`` times the larger of the first step's loss and ln(vocabulary), which is the loss of guessing
  uniformly. No step of a training that can recover is that bad.
* a trend: the median of the last ``WINDOW`` steps is over ``RATIO`` times, and over ``MARGIN`` above, the lowest median
  of any ``WINDOW`` steps before. The median ignores single spikes, and the margin (a factor of e^3 = 20 in
  perplexity) batches of another kind, whose loss may be several times as large while it is small.
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
    """Judges the losses of a stage in order.

    Args:
        vocabulary: number of tokens that the model chooses from.
    """

    def __init__(self, vocabulary: int) -> None:
        self.uniform = math.log(vocabulary)
        self._first: float | None = None
        self._last: deque[float] = deque(maxlen=2 * WINDOW)
        self._best = math.inf

    def add(self, loss: float) -> str | None:
        """Take the next step's loss; returns what is wrong with it, if anything."""
        if self._first is None:
            self._first = loss
        self._last.append(loss)
        ceiling = CEILING * max(self._first, self.uniform)
        if loss > ceiling:
            return f"over {ceiling:.4g}, {CEILING:g} times the larger of the first step's and that of guessing"
        if len(self._last) < 2 * WINDOW:
            return None
        steps = list(self._last)
        self._best = min(self._best, median(steps[:WINDOW]))
        now = median(steps[WINDOW:])
        if now > max(RATIO * self._best, self._best + MARGIN):
            return f"the median of the last {WINDOW} steps, {now:.4g}, is far over the lowest before, {self._best:.4g}"
        return None
