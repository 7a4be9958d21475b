"""CUDA graphs. In: a function that launches the same kernels at every call. Out: a graph that replays them.

A replay is one call on the host instead of some hundred, which leaves the host's threads free to decode the next
images. ``CudaGraph`` wraps a function of fixed-size batches: on a GPU it replays the function's kernels, elsewhere it
calls the function. It pads smaller batches. Its gain has not been measured separately.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WARM_UPS = 2
"""Calls before capture, which compile and select kernels."""


def capture(
    run: Callable[[], object], device: torch.device, *, warm_up: Callable[[], object] | None = None
) -> torch.cuda.CUDAGraph:
    """Capture the kernels of a call, which reads and writes the same tensors at every replay.

    Args:
        run: launches the kernels on the current stream; the results of the captured call are undefined until a replay.
        device: the GPU.
        warm_up: called on another stream before capture, instead of ``run``: the same kernels without lasting effects.
    """
    import torch

    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            (warm_up or run)()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads keep decoding images during capture, which only this mode permits.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        run()
    return graph


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
        if self._graph is None:
            self._input = batch.clone()
            self._graph = capture(self._run_input, batch.device, warm_up=partial(self._run, self._input))
        self._input.copy_(batch)
        self._graph.replay()
        return self._output[:count].clone()

    def _run_input(self) -> None:
        self._output = self._run(self._input)
