"""Jobs whose actors ask for GPUs. Ray counts them; whether there are any is the device's affair."""

from pathlib import Path

import pytest
import ray

from pipeline.engine.job import run_job
from pipeline.settings import JobSettings
from tests.conftest import equal_pairs, write_parquet
from tests.engine import faults
from tests.outputs import check_images, records_of


@pytest.fixture
def start(forking):
    """A Ray of one GPU, so it says."""

    def start_with(fault=None):
        runtime_env = faults.runtime_env(fault) if fault else None
        with forking():
            ray.init(
                "local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False,
                object_store_memory=10**9, runtime_env=runtime_env,
            )  # fmt: skip

    yield start_with
    ray.shutdown()


@pytest.fixture
def job(tmp_path):
    manifest = write_parquet(tmp_path / "m.parquet", equal_pairs(tmp_path, 10))
    return JobSettings(manifest=manifest, output=str(tmp_path / "out"), rows_per_block=4)


def test_an_actor_holds_a_gpu_and_the_pairs_of_a_block_share_its_slots(start, job, quick):
    start("counted")
    summary = run_job(quick, job)
    assert (summary["ok"], summary["missing"], summary["duplicates"]) == (10, 0, 0)
    found = records_of(job.output)
    check_images(job.output, found)
    assert {record["batch_size"] for record in found.values()} == {64}


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU")
def test_a_gpu_that_pytorch_does_not_see_ends_the_job(start, job, quick):
    start()
    with pytest.raises(ray.exceptions.RayError, match="PyTorch sees none: install a CUDA build"):
        run_job(quick, job)
