"""One version of the user's files for a whole Dagster run. In: a step's pipeline. Out: nothing, or which file changed.

The steps of a run are processes of their own. The first one writes the versions that it sees into the run's tags, and
the others compare.
"""

from __future__ import annotations

import json

import dagster as dg

from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.records.input_files import refuse_changed

TAG = ".dagster/bettersynth/input_files"  # the UI hides tags with this prefix


def refuse_changed_inputs(context: dg.AssetExecutionContext, pipeline: Pipeline) -> None:
    """Compare the user's files with what this step and the run's other steps saw first; for a step's begin and end.

    Raises:
        SeedError: naming the file that was changed.
    """
    pipeline.refuse_changed_files()
    run = context.instance.get_run_by_id(context.run_id)
    if run is None or not pipeline.versions:
        return
    noted = json.loads(run.tags.get(TAG, "{}"))
    if noted.get("run") == context.run_id:  # a run that repeats another one has that one's tags too
        refuse_changed(noted["files"], pipeline.versions)
    else:
        tag = {"run": context.run_id, "files": pipeline.versions}
        context.instance.add_run_tags(context.run_id, {TAG: json.dumps(tag, sort_keys=True)})
