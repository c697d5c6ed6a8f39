"""Ray's own autoscaler starts and ends nodes for a job; the nodes are processes of this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ray

from pipeline.data.output import records
from pipeline.engine.job import JobError, run_job
from pipeline.engine.runtime import nodes
from pipeline.settings import JobSettings, replace
from tests.conftest import equal_pairs, free_port, wait_until, write_parquet
from tests.engine.faults import SLOW
from tests.processes import processes_naming

CONFIG = {
    "cluster_name": "fake",
    "max_workers": 2,
    "idle_timeout_minutes": 0.2,
    "provider": {
        "type": "external",
        "disable_node_updaters": True,
        "use_node_id_as_ip": True,  # by address all nodes are one, and none is ever seen idle
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
    },
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 3}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "ray.head.default",
    "auth": {"ssh_user": "nobody"},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}


@pytest.fixture
def autoscaling():
    """The address of a head node with an autoscaler that may start two nodes of three CPUs."""
    place = Path(tempfile.mkdtemp(prefix="r"))  # pytest's own are too long for Ray's sockets
    port = free_port()
    provider = CONFIG["provider"] | {"gcs_address": f"127.0.0.1:{port}"}
    (place / "config.json").write_text(json.dumps(CONFIG | {"provider": provider}))
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--num-cpus=2", f"--port={port}", "--node-ip-address=127.0.0.1"),
        *("--include-dashboard=false", "--object-store-memory=500000000"),
        *(f"--temp-dir={place}/t", f"--autoscaling-config={place}/config.json"),
    ]
    environment = os.environ | {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with (place / "log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: "Ray runtime started" in (place / "log").read_text(), 60)
        yield f"127.0.0.1:{port}"
    finally:
        ray.shutdown()
        for pid in processes_naming(str(place)):  # the head, and nodes that the autoscaler started
            os.kill(pid, signal.SIGKILL)
        head.wait(10)
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.parametrize("pairs", [4, pytest.param(40, marks=pytest.mark.soak)])
def test_nodes_come_for_a_job_and_go_after_it(
    pairs, autoscaling, quick, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(nodes, "SAY_EVERY", 1.0)
    long = pairs > 4  # enough work for a second node to come in time
    ray.init(address=autoscaling, log_to_driver=False, runtime_env=SLOW if long else None)
    manifest = write_parquet(tmp_path / "m.parquet", equal_pairs(tmp_path, pairs))
    job = JobSettings(
        manifest=manifest, output=str(tmp_path / "out"), actors=2 if long else 1,
        cpus_per_actor=3.0, batch_size=1, rows_per_block=1,
    )  # fmt: skip

    # No node type offers this: said, not waited for.
    with monkeypatch.context() as patch:
        patch.setattr(nodes, "PATIENCE", 2.0)
        with pytest.raises(
            JobError, match="gpus_per_actor: an actor asks for 1 GPU, but the cluster's 1 node do"
        ):
            run_job(quick, replace(job, gpus_per_actor=1.0, cpus_per_actor=0.0))
        with pytest.raises(
            JobError, match="cpus_per_actor: an actor asks for 4 CPU, but the cluster's"
        ):
            run_job(quick, replace(job, cpus_per_actor=4.0))

    summary = run_job(quick, job)
    said = capfd.readouterr().err
    assert "waiting for a place for a style actor (3 CPU): 1 node, no node offers it yet" in said
    assert (summary["ok"], summary["missing"]) == (pairs, 0)
    workers = {row["node"] for row in records.iterate(job.output, {}, ["node"])}
    assert ray.get_runtime_context().get_node_id() not in workers
    if long:
        assert len(workers) == 2, "the job did not scale up to both actors"
        wait_until(lambda: len(nodes.node_resources()) == 1)
