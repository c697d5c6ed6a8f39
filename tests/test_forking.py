"""The workers of the tests' Ray, which fork from one process, are as good as others."""

import os
import time

import pytest
import ray
from ray._raylet import UniqueID


@pytest.mark.usefixtures("local_ray")
def test_forked_workers_do_not_draw_the_same_ids():
    @ray.remote(num_cpus=0.1)
    def draw():
        time.sleep(0.5)
        return os.getpid(), UniqueID.from_random().hex()

    found = ray.get([draw.remote() for _ in range(4)])
    assert len({process for process, _ in found}) > 1
    assert len({drawn for _, drawn in found}) == 4
