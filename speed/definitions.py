"""Time to load the definitions and to serve the asset graph with many recipes and shards.

    python speed/definitions.py [--recipes 12] [--shards 80] [--repeat 5]

Builds the real graph for copies of the default recipe, records one materialization of every shard and set in a SQLite
history, and asks a web server for what the UI's lineage page needs. Prints a line of JSON, in seconds of CPU time,
which other work on the machine does not change, and the medians of the queries also in seconds of time that passed:

    import      imports, in a new process
    build       assets and jobs of all recipes, and the repository with its asset graph, in the same process
    server      from the start of the web server until it has answered the first query
    graph       GraphQL query of all asset nodes with their dependencies, groups and jobs
    live        GraphQL query of their latest materializations and partition counts
    stale       GraphQL query of their staleness
    partitions  GraphQL query of the state of every shard of one asset
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from bettersynth_assets.config.model import PROJECT_ROOT

DEFINITIONS = """
import time
began = time.process_time()
from bettersynth_assets.config.profile import load_profile
from bettersynth_assets.config.recipes import load_recipes
from bettersynth_assets.definitions import build_definitions
from bettersynth_assets.stages.graph import STAGES
imported = time.process_time()
profile = load_profile("miniature").model_copy(update={{"shards": {shards}}})
default = load_recipes(profile, {{}})[0]
recipes = [default.model_copy(update={{"name": f"recipe_{{number:02d}}"}}) for number in range({recipes})]
defs = build_definitions(STAGES, profile, recipes)
"""
TIMES = """
repository = defs.get_repository_def()
repository.get_all_jobs()
print(imported - began, time.process_time() - imported, len(repository.asset_graph.get_all_asset_keys()))
"""
GRAPH = """{assetNodes {id groupName isExecutable kinds owners {__typename} description jobNames opNames isPartitioned
  assetKey {path} dependencyKeys {path} dependedByKeys {path} repository {id name location {id name}}
  tags {key value} pools hasAssetChecks}}"""
LIVE = """{assetNodes {id assetKey {path}
  assetMaterializations(limit: 1) {timestamp runId}
  partitionStats {numMaterialized numMaterializing numPartitions numFailed}
  assetChecksOrError {... on AssetChecks {checks {name executionForLatestMaterialization {status}}}}}}"""
STALE = "{assetNodes {id staleStatus staleCauses {reason}}}"
PARTITIONS = """{assetNodes(assetKeys: [{path: ["recaptioned_set"]}]) {assetPartitionStatuses {
  ... on DefaultPartitionStatuses {materializedPartitions unmaterializedPartitions}}}}"""


def write_history(definitions: dg.Definitions, home: Path, shards: list[str]) -> int:
    """Record a materialization of every shard and set; return their number."""
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    graph, count = definitions.resolve_asset_graph(), 0
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for node in graph.asset_nodes:
            for partition in shards if node.partitions_def is not None else [None]:
                metadata = {"rows_in": 1000, "kept": 900, "path": dg.MetadataValue.path("/data")}
                event = dg.AssetMaterialization(node.key, metadata=metadata, partition=partition)
                instance.report_runless_asset_event(event)
                count += 1
    return count


def ask(port: int, query: str) -> dict[str, Any]:
    """Send a GraphQL query; return the answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        data=json.dumps({"query": query}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        answer: dict[str, Any] = json.load(response)
    assert "errors" not in answer, answer["errors"]
    data: dict[str, Any] = answer["data"]
    return data


def cpu_seconds(server: psutil.Process) -> float:
    """Return the CPU time of a process and its children, which hold the definitions."""
    times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def measure_server(file: Path, home: Path, assets: int, repeat: int) -> dict[str, float]:
    """Start a web server and time the queries of the lineage page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "dagster_webserver", "-f", str(file), "-h", "127.0.0.1", "-p", str(port)]
    env = os.environ | {"DAGSTER_HOME": str(home), "PYTHONPATH": str(PROJECT_ROOT)}
    server = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                if len(ask(port, GRAPH)["assetNodes"]) == assets:
                    break
            except urllib.error.URLError:
                assert server.poll() is None, "the web server has ended"
            time.sleep(0.2)
        process = psutil.Process(server.pid)
        found = {"server": cpu_seconds(process)}
        for name, query in (("graph", GRAPH), ("live", LIVE), ("stale", STALE), ("partitions", PARTITIONS)):
            spent, passed = [], []
            for _ in range(repeat):
                cpu, began = cpu_seconds(process), time.perf_counter()
                ask(port, query)
                spent.append(cpu_seconds(process) - cpu)
                passed.append(time.perf_counter() - began)
            found |= {name: statistics.median(spent), f"{name}_passed": statistics.median(passed)}
        return found
    finally:
        server.terminate()
        server.wait(timeout=60)


def main() -> None:
    """Run the command; see the module docstring."""
    parser = argparse.ArgumentParser(description="Seconds to load the definitions and to serve the asset graph.")
    parser.add_argument("--recipes", type=int, default=12)
    parser.add_argument("--shards", type=int, default=80)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    text = DEFINITIONS.format(recipes=args.recipes, shards=args.shards)
    with tempfile.TemporaryDirectory() as folder:
        home, file = Path(folder) / "home", Path(folder) / "many.py"
        home.mkdir()
        file.write_text(text)
        done = subprocess.run(
            [sys.executable, "-c", text + TIMES], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
        )
        imported, built, assets = done.stdout.split()
        module: dict[str, Any] = {}
        exec(compile(text, str(file), "exec"), module)
        events = write_history(module["defs"], home, module["profile"].shard_names())
        found = {"import": float(imported), "build": float(built)}
        found |= measure_server(file, home, int(assets), args.repeat)
    shown = {name: round(seconds, 3) for name, seconds in found.items()}
    facts = {"recipes": args.recipes, "shards": args.shards, "assets": int(assets), "events": events}
    machine = {"cores": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 1)}
    print(json.dumps(facts | shown | machine))


if __name__ == "__main__":
    main()
