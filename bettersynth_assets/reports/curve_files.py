"""Files of a repetition curve. In: its result. Out: ``curve.md``, ``curve.json``, ``curve.svg``."""

from __future__ import annotations

import base64
from pathlib import Path

from bettersynth_assets.experiment_runs.result import write_forms
from bettersynth_assets.experiments.curve import CurveResult
from bettersynth_assets.experiments.curve_tables import FORMATS
from bettersynth_assets.reports.curve_plot import plot

NAME = "curve"


def write_curve(curve: CurveResult, folder: Path) -> dict[str, Path]:
    """Write tables and plot; return the files by their endings."""
    files = write_forms(folder, NAME, {**FORMATS, "svg": plot}, curve)
    return {file.suffix[1:]: file for file in files}


def as_image(svg: Path) -> str:
    """Return a plot as a Markdown image that the UI shows without another request."""
    return f"![{NAME}](data:image/svg+xml;base64,{base64.b64encode(svg.read_bytes()).decode('ascii')})"
