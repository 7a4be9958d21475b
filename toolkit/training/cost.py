"""What a phase costs: exposures, supervised tokens, seconds, peak memory, energy.

In: the exposures of a phase and its training loop. Out: values for its manifest::

    exposures          int          rows shown, repeats included
    unique_rows        int          different rows among them (id, text and image)
    supervised_tokens  int          tokens with a label, over all exposures
    seconds            float        of training; of a resumed phase, of all its processes up to their last checkpoints
    gpu_seconds        float        seconds times devices; 0.0 on the CPU
    peak_rss_gib       float        largest resident memory of a training process
    gpu_peak_gib       float, null  largest memory that torch allocated on a device
    energy_joules      float, null  of all devices, by NVML's counters; null if one has none
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from accelerate.utils import gather_object

from toolkit.data.exposures import Exposures
from toolkit.resource_usage import GIB, gpu_energy_joules, peak_memory_gib, reset_peak_memory

Values = dict[str, float | None]
Rule = Callable[[Sequence[float]], float]
RULES: dict[str, Rule] = {"peak_rss_gib": max, "gpu_peak_gib": max, "energy_joules": sum}
"""How values of processes, and of a phase before and after a checkpoint, are combined."""


class Meter:
    """Measures a training loop, also across the checkpoints from which it is resumed.

    Args:
        device: device of this process.
        processes: number of training processes.
        before: values of the checkpoint from which the phase is resumed; None for a phase that starts.
    """

    def __init__(self, device: torch.device, processes: int, before: Values | None) -> None:
        self.device, self.processes, self.before = device, processes, before
        reset_peak_memory()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.start()

    def start(self) -> None:
        """Start the clock and the energy counter; peak memory counts from the construction."""
        self._began, self._energy = time.monotonic(), gpu_energy_joules(self.device)

    def read(self) -> Values:
        """Return the values up to now, over all processes; all of them must call it."""
        on_gpu, energy = self.device.type == "cuda", gpu_energy_joules(self.device)
        seconds = time.monotonic() - self._began
        mine: Values = {
            "peak_rss_gib": peak_memory_gib(),
            "gpu_peak_gib": torch.cuda.max_memory_allocated(self.device) / GIB if on_gpu else None,
            "energy_joules": None if energy is None or self._energy is None else energy - self._energy,
        }
        found: list[Values] = gather_object([mine]) if self.processes > 1 else [mine]
        session: Values = {"seconds": seconds, "gpu_seconds": seconds * self.processes if on_gpu else 0.0}
        session |= {name: _combined(rule, [one[name] for one in found]) for name, rule in RULES.items()}
        if self.before is None:
            return session
        rules: dict[str, Rule] = {"seconds": sum, "gpu_seconds": sum, **RULES}
        return {name: _combined(rule, [self.before.get(name), session[name]]) for name, rule in rules.items()}


def exposure_counts(exposures: Exposures) -> dict[str, int]:
    """Count the exposures of a phase, the different rows among them, and their labelled tokens."""
    rows, order = exposures.rows, exposures.order
    shown = {(rows.ids[at], int(rows.text[at]), rows.images[at]) for at in set(order.tolist())}
    return {
        "exposures": len(order),
        "unique_rows": len(shown),
        "supervised_tokens": int(rows.labelled[order].sum()),
    }


def _combined(rule: Rule, values: Sequence[float | None]) -> float | None:
    """Combine values; unknown if one of them is."""
    known = [value for value in values if value is not None]
    return float(rule(known)) if len(known) == len(values) else None
