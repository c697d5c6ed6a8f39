"""Large images do not fill the object store."""

import re

import numpy as np
import pytest
import ray
from PIL import Image
from ray._private.internal_api import memory_summary

from pipeline.engine.job import run_job
from pipeline.settings import JobSettings, replace
from tests.conftest import image_bytes, write_parquet

STORE = 80 * 2**20


@pytest.fixture
def small_store():
    ray.init(
        address="local", num_cpus=2, object_store_memory=STORE, include_dashboard=False,
        log_to_driver=False,
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.mark.soak
def test_more_pixels_than_the_object_store_holds_pass_through_it(small_store, quick, tmp_path):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
    coarse.resize((6000, 4000)).save(tmp_path / "large.jpg", quality=80)
    (tmp_path / "s.png").write_bytes(image_bytes(1, 64, 64))
    count = 60
    rows = [
        {"pair_id": f"p{i:02d}", "content_uri": "large.jpg", "style_uri": "s.png"}
        for i in range(count)
    ]
    job = JobSettings(
        manifest=write_parquet(tmp_path / "m.parquet", rows), output=str(tmp_path / "out"),
        image_format="jpg", rows_per_block=2,
    )  # fmt: skip
    settings = replace(quick, image_size=1024, iterations=1)
    loaded = count * 2 * 3 * 1024 * 688
    assert loaded > 3 * STORE
    summary = run_job(settings, job)
    assert (summary["ok"], summary["missing"]) == (count, 0)
    stats = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    # What is loaded while the first actor starts may overflow once, but not grow with the job.
    spilled = re.search(r"Spilled (\d+) MiB", stats)
    assert int(spilled[1]) * 2**20 < STORE if spilled else "Spilled" not in stats, stats
