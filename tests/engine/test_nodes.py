"""Nodes that come and go under a job."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import ray
from ray.cluster_utils import Cluster

from pipeline.data.output import records
from pipeline.engine.job import run_job
from pipeline.settings import JobSettings
from tests.conftest import equal_pairs, wait_until, write_parquet
from tests.engine.faults import SLOW
from tests.outputs import check_images, records_of


@pytest.fixture
def cluster():
    found = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "include_dashboard": False, "object_store_memory": 10**9},
    )
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.mark.soak
def test_a_node_that_joins_gets_work_and_one_that_is_lost_loses_nothing(cluster, quick, tmp_path):
    first = cluster.add_node(num_cpus=3, object_store_memory=10**9)
    ray.init(address=cluster.address, log_to_driver=False, runtime_env=SLOW)
    manifest = write_parquet(tmp_path / "m.parquet", equal_pairs(tmp_path, 36))
    job = JobSettings(
        manifest=manifest, output=str(tmp_path / "out"), actors=2, cpus_per_actor=3.0,
        batch_size=1, rows_per_block=2,
    )  # fmt: skip

    def nodes_with_records():
        return {row["node"] for row in records.iterate(job.output, {}, ["node"])}

    with ThreadPoolExecutor(1) as pool:  # Ray's test cluster is changed from the main thread only
        running = pool.submit(run_job, quick, job)
        wait_until(lambda: running.done() or len(nodes_with_records()) == 1)
        second = cluster.add_node(num_cpus=3, object_store_memory=10**9)
        wait_until(lambda: running.done() or len(nodes_with_records()) == 2)
        assert not running.done(), "the second node got no work before the job's end"
        cluster.remove_node(first, allow_graceful=False)
        summary = running.result(timeout=120)
    assert (summary["ok"], summary["missing"], summary["duplicates"]) == (36, 0, 0)
    assert nodes_with_records() == {first.node_id, second.node_id}
    check_images(job.output, records_of(job.output))
