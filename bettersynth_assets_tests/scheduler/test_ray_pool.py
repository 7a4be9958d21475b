"""Workers on a Ray cluster of three nodes give the same bytes, even if a node is killed during the run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from bettersynth_assets.errors import ConfigError, UserError
from bettersynth_assets.scheduler.back_ends import open_pool
from bettersynth_assets_tests.helpers.worker_graph import SHARDS, Run, until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]
ONE, TWO = SHARDS[:2]
NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes of one CPU each; this process is on the first."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        for _ in range(2):
            cluster.add_node(**NODE)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("alone"))
    run.pipeline.ensure_all("scaled")
    return run.rows()


def on(cluster: Any, root: Any, **gpu: object) -> Run:
    return Run(root, pool="ray", ray_address=cluster.address, workers="auto", **gpu)


def test_ray_actors_give_the_same_bytes(alone, cluster, tmp_path):
    (tmp_path / f"meet-squares-{ONE}").write_text(TWO)
    run = on(cluster, tmp_path)
    assert run.prepare() == {}
    assert run.rows() == alone
    assert sorted(run.log) == sorted(f"{stage} {shard} begins" for stage, shard, *_ in run.worked())
    assert {threads for stage, *_, threads in run.worked() if stage == "squares"} == {"1"}


def test_a_user_error_ends_the_run(cluster, tmp_path):
    (tmp_path / f"refuse-squares-{TWO}").touch()
    with pytest.raises(UserError, match="model path 'x' does not exist"):
        on(cluster, tmp_path).prepare()


def test_settings_that_a_cluster_does_not_support_are_refused(cluster, tmp_path):
    for gpu, words in (
        ({"devices": [0]}, r"gpu.devices = \[0\], but under `pool: ray`"),
        ({"ray_address": "ray://127.0.0.1:10001"}, "runs on a node of the cluster itself"),
    ):
        with pytest.raises(ConfigError, match=words), open_pool(Run(tmp_path, pool="ray", **gpu).job):
            pass


def test_the_step_opens_no_port_for_its_actors(cluster, tmp_path):
    """Messages go through Ray, so no other process can connect to a pool."""

    def ports() -> set[int]:
        return {c.laddr.port for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN}

    with open_pool(on(cluster, tmp_path).job) as pool:
        before = ports()
        worker = pool.start(0)
        try:
            until(lambda: pool.wait([worker], 1))
            assert worker.message() == ("ready", None)
            assert pool.wait([worker], 0) == []
            assert ports() == before
        finally:
            worker.end()


def test_a_killed_node_only_causes_its_shard_to_be_processed_again(alone, cluster, tmp_path):
    """Runs last, because the cluster is smaller afterwards."""
    for shard in SHARDS[:3]:
        (tmp_path / f"wait-squares-{shard}").touch()
    run = on(cluster, tmp_path)
    killed = []

    def look(line: str) -> None:
        """Kill the third node when it begins its shard, and let the others finish theirs."""
        run.log.append(line)
        if len([1 for stage, *_ in run.worked() if stage == "squares"]) == 3 and not killed:
            killed.append(cluster.list_all_nodes()[-1])
            cluster.remove_node(killed[0], allow_graceful=False)
            for path in tmp_path.glob("wait-*"):
                path.unlink()

    run.pipeline.log = look
    assert run.prepare() == {}
    assert run.rows() == alone
    redone = [line for line in run.log if "another worker processes it again" in line]
    assert len(redone) == 1
    assert "Actor" in redone[0] or "connection" in redone[0]
    assert len([1 for stage, *_ in run.worked() if stage == "squares"]) == len(SHARDS) + 1
    until(lambda: len(run.pipeline.current("scaled")) == len(SHARDS))
