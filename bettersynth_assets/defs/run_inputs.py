"""Ensures that all steps of a run read the same user files. In: a step's pipeline. Out: an error, or nothing.

The steps of a run are separate processes. The first step writes the versions of the files into the run's tags; the
other steps compare.
"""

from __future__ import annotations

import json

import dagster as dg

from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.records.input_files import refuse_changed

TAG = ".dagster/bettersynth/input_files"  # the UI hides tags with this prefix


def refuse_changed_inputs(context: dg.AssetExecutionContext, pipeline: Pipeline) -> None:
    """Compare the user's files with the versions that this run first read; called at a step's start and end.

    Raises:
        SeedError: a file has changed; the message names it.
    """
    pipeline.refuse_changed_files()
    run = context.instance.get_run_by_id(context.run_id)
    if run is None or not pipeline.versions:
        return
    recorded = json.loads(run.tags.get(TAG, "{}"))
    if recorded.get("run") == context.run_id:  # a re-executed run inherits the tags of its parent run
        refuse_changed(recorded["files"], pipeline.versions)
    else:
        tag = {"run": context.run_id, "files": pipeline.versions}
        context.instance.add_run_tags(context.run_id, {TAG: json.dumps(tag, sort_keys=True)})
