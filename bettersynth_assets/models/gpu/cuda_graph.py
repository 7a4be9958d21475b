"""CUDA-graph wrapper for fixed-size batches. In: rows. Out: the model's output for them.

Replaces calling the function; elsewhere than on a GPU it is called. A replay is one call on the host instead of some
hundred, which leaves the host's threads free to decode the next images. Its gain has not been measured separately.
A smaller batch is padded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Captured:
    """A function of one tensor (rows, ...) to another, whose kernels are the same at every call."""

    def __init__(self, run: Callable[[Any], Any], rows: int) -> None:
        """Take the function, and the rows of a full batch."""
        self._run, self._rows = run, rows
        self._graph: Any = None

    def __call__(self, batch: Any) -> Any:
        """Work a batch of at most that many rows; the device of the tensor decides how."""
        import torch

        count = len(batch)
        if count < self._rows:
            batch = torch.cat([batch, batch.new_zeros((self._rows - count, *batch.shape[1:]))])
        if not batch.is_cuda:
            return self._run(batch)[:count]
        if self._graph is None:
            self._record(batch)
        self._input.copy_(batch)
        self._graph.replay()
        return self._output[:count].clone()

    def _record(self, batch: Any) -> None:
        import torch

        self._input = batch.clone()
        stream = torch.cuda.Stream(batch.device)
        stream.wait_stream(torch.cuda.current_stream(batch.device))
        with torch.cuda.stream(stream):
            for _ in range(2):  # kernels are compiled and chosen outside of the recording
                self._run(self._input)
        torch.cuda.current_stream(batch.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads go on decoding meanwhile, which only this mode lets them.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._output = self._run(self._input)
        self._graph = graph
