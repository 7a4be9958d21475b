"""CUDA-graph wrapper for fixed-size batches. In: rows. Out: the model's output for them.

Replaces calling the function; elsewhere than on a GPU it is called. A replay is one call on the host instead of some
hundred, which leaves the host's threads free to decode the next images. Its gain has not been measured separately.
A smaller batch is padded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class CudaGraph:
    """A function from one tensor (rows, ...) to another that launches the same kernels at every call."""

    def __init__(self, run: Callable[[Tensor], Tensor], rows: int) -> None:
        """Wrap a function.

        Args:
            run: the function.
            rows: rows of a full batch.
        """
        self._run, self._rows = run, rows
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Tensor) -> Tensor:
        """Run the function on a batch of at most ``rows`` rows, on the batch's device."""
        import torch

        count = len(batch)
        if count < self._rows:
            batch = torch.cat([batch, batch.new_zeros((self._rows - count, *batch.shape[1:]))])
        if not batch.is_cuda:
            return self._run(batch)[:count]
        graph = self._graph = self._graph or self._capture(batch)
        self._input.copy_(batch)
        graph.replay()
        return self._output[:count].clone()

    def _capture(self, batch: Tensor) -> torch.cuda.CUDAGraph:
        import torch

        self._input = batch.clone()
        stream = torch.cuda.Stream(batch.device)
        stream.wait_stream(torch.cuda.current_stream(batch.device))
        with torch.cuda.stream(stream):
            for _ in range(2):  # compiles and selects kernels before capture
                self._run(self._input)
        torch.cuda.current_stream(batch.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads keep decoding during capture, which only this mode permits.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._output = self._run(self._input)
        return graph
