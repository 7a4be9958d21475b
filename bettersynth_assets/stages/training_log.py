"""Log lines of trainings. In: events of the trainer. Out: lines; a call for each finished run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from bettersynth_assets.engine.stage import Log
from bettersynth_assets.scheduler.child_process import Event


def nothing(folder: Path) -> None:
    """No-op callback of a finished run."""


class Reporter:
    """Logs a child's events; the training seeds are interleaved.

    Args:
        source: name of the set that the runs are trained on.
        log: called with each line.
        seeds: training seed of each run, by its folder.
        on_done: called with the folder of each finished run.
    """

    def __init__(
        self, source: str, log: Log, seeds: Mapping[Path, int], on_done: Callable[[Path], object] = nothing
    ) -> None:
        self.source, self.log, self.seeds, self.on_done = source, log, seeds, on_done

    def __call__(self, event: Event) -> None:
        """Log one event."""
        folder = Path(event.get("output_dir", ""))
        run = f"seed {self.seeds[folder]}" if folder in self.seeds else ""
        kind, where = event.get("event"), " ".join(filter(None, (self.source, run, event.get("stage"))))
        if kind == "start":
            self.log(f"{where}: {event['steps']} steps over {event['rows']} rows")
        elif kind == "resume":
            self.log(f"{where}: continues after step {event['step']}")
        elif kind == "damaged":
            self.log(f"{where}: {event['message']}")
        elif kind == "features":
            self.log(f"{where}: features of {event['computed']} images in {event['seconds']:.1f} s")
        elif kind == "projector":
            self.log(f"{where}: projector fitted to {event['rows']} rows in {event['seconds']:.1f} s")
        elif kind == "step":
            rate = f"{event['samples_per_s']:.1f} samples/s"
            self.log(f"{where}: step {event['step']}/{event['steps']}, loss {event['loss']:.4f}, {rate}")
        elif kind == "done":
            self.on_done(folder)
            self.log(
                f"{where}: " + ("finished earlier" if event["cached"] else f"finished in {event['seconds']:.1f} s")
            )
