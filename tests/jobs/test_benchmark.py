"""The benchmark's measurements run, each in a process of its own, and count what is there."""

import subprocess

import pytest

from jobs import benchmark
from jobs.bench import bookkeeping
from jobs.bench.alone import alone
from jobs.bench.engine import cache_hits
from jobs.bench.memory import memory
from jobs.bench.stages import stage_cost


def test_a_plan_tells_which_pairs_are_done():
    found = alone(bookkeeping.plan_rows, 100)
    assert (found["rows"], found["faulty"], found["done"]) == (100, 0, 50)
    assert found["peak_mib"] >= found["start_mib"] > 0


def test_a_closed_output_has_all_its_records():
    found = alone(bookkeeping.close_output, 40, files=4)
    assert (found["rows"], found["files"], found["ok"], found["done"]) == (40, 4, 40, 40)


def test_the_style_cache_hits_more_often_in_the_plans_order():
    found = cache_hits(pairs=32, styles=8, cache=2, actors=1)
    assert found["unplanned"] < found["planned"] == found["best"] == 0.75


def test_each_stage_takes_its_time_and_makes_its_pictures():
    found = alone(stage_cost, rows=4, rounds=1, image_size=64)
    assert found["files"] == 4
    assert min(found[stage] for stage in ("load", "style actor", "store")) > 0


def test_memory_is_measured_above_the_networks_own():
    found = memory("compact", 32, 2, False, "cpu")
    assert found["peak_bytes"] > 0
    assert found["bytes_per_image"] == found["peak_bytes"] // 2


def test_an_error_of_a_measurement_is_not_a_figure(capfd):
    with pytest.raises(subprocess.CalledProcessError):
        alone(bookkeeping.close_output, 1, files=0)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_every_measurement_has_a_name_to_choose_it_by():
    # Throughput is measured on a GPU, the peers with --judge.
    parts = (benchmark.style_part("compact", 32, "cpu"), benchmark.engine_part(10**6, "cpu"))
    assert {name for part in parts for name, _ in part} == {*benchmark.NAMES} - {
        "peers",
        "throughput",
    }
