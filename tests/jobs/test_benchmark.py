"""The benchmark's measurements run, each in a process of its own, and count what is there."""

import json
import subprocess
from dataclasses import replace

import pytest

from jobs import benchmark
from jobs.bench import bookkeeping, job, parts
from jobs.bench.alone import alone
from jobs.bench.engine import cache_hits
from jobs.bench.inputs import weights_file
from jobs.bench.memory import memory
from jobs.bench.model import Machines, Row, dollars_per_million, slowest
from jobs.bench.stages import stage_cost
from pipeline.engine import flow
from pipeline.settings import StyleSettings
from pipeline.style.network.weights import load_weights


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
    parts = (
        benchmark.style_part("compact", 32, "cpu"),
        benchmark.engine_part(10**6, "cpu"),
        benchmark.job_part(None, 100, benchmark.SIMULATED, "compact", "cpu"),
    )
    assert {name for part in parts for name, _ in part} == {*benchmark.NAMES} - {
        "peers",
        "throughput",
    }


def test_simulated_jobs_have_the_rows_and_devices_that_are_asked_for(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(benchmark, "alone", lambda *call: asked.append(call) or {"told": 1})
    only = ["--part", "job", "--only", "simulated jobs"]
    more = ["--job-pairs", "500", "--devices", "64", "0.2", "--devices", "1", "1"]
    assert benchmark.main([*only, *more]) == benchmark.main(only) == 0
    assert [call[1] for call in asked] == [500, 2000]
    assert [call[3] for call in asked] == [[(64, 0.2), (1, 1)], benchmark.SIMULATED]
    assert capsys.readouterr().out.count("told") == 2


def test_a_real_whole_job_has_the_pairs_and_evaluations_that_are_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(benchmark, "alone", lambda *call: asked.append(call) or {})
    only = ["--part", "job", "--only", "whole job", "--job-pairs", "500"]
    assert benchmark.main(only) == benchmark.main([*only, "--evaluations", "60"]) == 0
    assert asked == [(job.whole_job, 500, 256, each, "compact") for each in (100, 60)]


def test_figures_are_kept_even_if_a_later_measurement_fails(monkeypatch, tmp_path):
    def measured(work, *_):
        if work is job.simulated_jobs:
            raise KeyboardInterrupt
        return {"figure": 1}

    monkeypatch.setattr(benchmark, "alone", measured)
    file = tmp_path / "found.json"
    with pytest.raises(KeyboardInterrupt):
        benchmark.main(["--part", "job", "--json", str(file)])
    assert json.loads(file.read_text())["whole job"] == [{"figure": 1}]


def test_a_measured_stage_is_called_as_a_jobs_own():
    """Its processes are told from others by that name."""
    work = parts.named(parts.load, "f")
    assert flow._stage(work, context=None).__name__ == flow._stage(flow.load).__name__ == "load"


@pytest.mark.parametrize("option", ["--evaluations", "--job-pairs", "--rows", "--pairs", "--size"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "x"])
def test_counts_begin_with_one(option, value, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse([f"{option}={value}"])
    assert f"{option}: '{value}' is no whole number from 1 on" in capsys.readouterr().err


def test_a_job_takes_the_wide_network_as_a_file(tmp_path):
    assert weights_file("compact", str(tmp_path)) == "compact"
    state, _ = load_weights(StyleSettings(weights=weights_file("wide", str(tmp_path))))
    assert len(state["features.28.bias"]) == 512


@pytest.mark.parametrize(
    "devices", [("0", "1"), ("1.5", "1"), ("2", "0"), ("2", "-1"), ("1", "nan"), ("inf", "1")]
)
def test_devices_that_cannot_be_simulated_are_refused(devices, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse(["--devices", *devices])
    assert "--devices: give a whole number" in capsys.readouterr().err


def test_the_slowest_part_decides_what_a_job_makes():
    row = Row(nodes=0.004, driver=0.001, bytes=50_000, requests=3)
    few = Machines(1, 0.01, cores=8, bandwidth=1e9, requests=3500)
    assert slowest(row, few) == ("devices", 100)
    assert slowest(row, replace(few, actors=64)) == ("driver", 1000)
    assert slowest(replace(row, driver=1e-4), replace(few, actors=64)) == (
        "requests",
        pytest.approx(3500 / 3),
    )
    assert slowest(row, replace(few, cores=0.2)) == ("cores", 50)
    assert slowest(row, replace(few, cores=0.2, one_machine=True)) == ("cores", 40)
    assert slowest(row, replace(few, bandwidth=1e6)) == ("network", 20)
    assert dollars_per_million(100, gpus=1, price=3.6) == pytest.approx(10)


@pytest.mark.soak  # three jobs of Ray: a minute
def test_a_simulated_device_sets_the_pace_of_a_real_job():
    found = alone(job.simulated_jobs, 48, 32, [(2, 0.05)], 0.01)
    named = {name: found[name] for name in found if name.startswith("2 actors")}
    ((made, modelled, _),) = (named[name] for name in named if "made" in name)
    ((ok, _, cost, _),) = (named[name] for name in named if "ok" in name)
    assert (ok, modelled) == (48, 40)
    assert cost > 0
    assert 10 < made <= 44
    assert found["a row: bytes"] > 1000
