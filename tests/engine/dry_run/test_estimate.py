"""A dry run says what there is to do, and leaves no trace."""

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from jobs import stylize
from jobs._estimate import as_json, money, print_estimate
from pipeline.data.output import clearing, records
from pipeline.data.schemas import RECORD_SCHEMA
from pipeline.data.storage import files, tables, uris
from pipeline.engine.checking import check, check_output
from pipeline.engine.dry_run import estimate
from pipeline.engine.dry_run.timing import Calibration
from pipeline.engine.job import JobError, run_job
from pipeline.engine.progress import (
    CHECKING_MANIFEST,
    LOADING_LIBRARIES,
    LOADING_WEIGHTS,
    TRYING_PAIRS,
)
from pipeline.engine.resources import Resources
from pipeline.settings import JobSettings, replace
from tests.conftest import equal_pairs, image_bytes, write_parquet
from tests.doc_commands import named
from tests.processes import stop_at

PAIRS = 20
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", refuse)


@pytest.fixture
def job(tmp_path):
    """Twenty pairs, one with a bad name, and one with twice the size and half the evaluations."""
    (tmp_path / "c.png").write_bytes(image_bytes(0, 32, 64))
    (tmp_path / "s.png").write_bytes(image_bytes(1, 64, 64))
    row = {"content_uri": "c.png", "style_uri": "s.png", "image_size": None, "iterations": None}
    rows = [{**row, "pair_id": f"p{index:02d}"} for index in range(PAIRS)]
    rows[3]["pair_id"] = "../p03"
    rows[4] |= {"image_size": 128, "iterations": 4}
    manifest = write_parquet(tmp_path / "m.parquet", rows)
    return JobSettings(manifest=manifest, output=str(tmp_path / "out"), rows_per_block=4)


def files_below(folder: Path) -> dict[str, tuple[int, int]]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def test_numbers_add_up_and_nothing_is_left(job, quick, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    before = files_below(tmp_path)
    found = estimate.dry_run(replace(quick, tolerance=0.0), job)
    assert files_below(tmp_path) == before
    assert not (tmp_path / "out").exists()
    assert os.listdir(tmp_path / "temporary") == []
    assert (found.rows, found.pending, found.blocks, found.batches) == (PAIRS, PAIRS, 5, PAIRS)
    assert found.work.faults == {"bad_name": 1}
    ((name, message),) = found.work.bad
    assert name == "../p03"
    assert message.startswith("manifest row 3: pair_id: '../p03' cannot be a file name")
    assert found.work.pairs == PAIRS - 1
    small, large = 0.064**2, 0.128**2
    assert found.work.area == pytest.approx(18 * small + large)
    assert found.work.bound == pytest.approx(18 * small * 8 + large * 4)
    assert found.sampled == 12
    calibration = found.calibration
    assert calibration.shape == pytest.approx(0.5)  # of 64 x 32 px
    assert calibration.seconds > 0
    assert found.work.optimised == found.work.area
    evaluated = found.work.bound + 2 * found.work.area
    assert found.hours() == pytest.approx(evaluated * 0.5 * calibration.seconds / 3600)
    assert found.hours(found.share) == found.hours()  # without a tolerance all are used
    assert found.output_bytes == pytest.approx(found.work.area * 0.5 * calibration.bytes)


def test_a_dry_run_that_is_stopped_leaves_no_plan(job, quick, tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    moment = "pipeline.engine.dry_run.estimate._measure_work"
    stop_at(moment, folder, command(job, quick), TMPDIR=str(folder))
    assert os.listdir(folder) == []


def test_what_is_done_is_not_counted(job, quick, tmp_path, capsys):
    checked = check(quick, job)
    output = job.output
    records.write_json(uris.join(output, "job.json"), check_output(checked), {})
    row = {"content_uri": f"{tmp_path}/c.png", "style_uri": [f"{tmp_path}/s.png"]}
    row |= {"style_blend": [1.0], "settings": json.dumps(dataclasses.asdict(quick))}
    done = [
        {**row, "pair_id": name, "file_name": f"images/{name}.png"}
        | {"status": "ok", "evaluations": 2}
        for name in (f"p{index}" for index in range(10, 18))
    ]
    done += [{**row, "pair_id": "p18", "status": "error", "evaluations": None}]
    table = pa.Table.from_pylist(done, schema=RECORD_SCHEMA)
    tables.write_table(uris.join(output, records.RECORDS, "a.parquet"), table, {})
    marks = pa.table({"pair_id": [*(row["pair_id"] for row in done), "p19"]})  # p19: no record
    tables.write_table(uris.join(output, records.CHECKPOINT, "a.parquet"), marks, {})
    before = files_below(tmp_path)

    found = estimate.dry_run(quick, job)
    assert found.pending == PAIRS - 9
    assert found.work.pairs == found.pending - 1  # the bad row
    assert found.share == pytest.approx(2 / 8)  # of the records
    retried = estimate.dry_run(quick, replace(job, retry_errors=True))
    assert (retried.pending, retried.again, found.again) == (PAIRS - 8, 1, 0)
    print_estimate(retried, quick, job)
    said = f"{PAIRS} pairs in the manifest, {PAIRS - 8} to do (1 failed pair will be done again)"
    assert said in capsys.readouterr().out
    afresh = estimate.dry_run(quick, replace(job, overwrite=True))
    assert (afresh.pending, afresh.share) == (PAIRS, 1.0)
    message = (
        "had image_size = 64, this one has 96; quality = 95, this one has 90; choose .* values, "
    )
    with pytest.raises(JobError, match=message):
        estimate.dry_run(replace(quick, image_size=96, weights_seed=5), replace(job, quality=90))
    assert estimate.dry_run(replace(quick, weights_seed=5), job).pending == PAIRS - 9
    assert files_below(tmp_path) == before
    mark = tmp_path / "out" / clearing.MARK
    mark.touch()
    assert estimate.dry_run(quick, job).pending == PAIRS, "what is half deleted is nobody's result"
    mark.unlink()
    described = json.loads(files.read_bytes(uris.join(output, records.JOB), {}))
    del described["settings"]["learn_preconditioner"]
    older = described | {"fingerprint": "of an older version"}
    version = described["versions"]["neural-style-pipeline"]
    for versions, message in [
        ({"neural-style-pipeline": "0"},
         rf"another version of this program \(0, this is {version}\).* only one of .*: learn_pre"),
        (described["versions"], r"only one of the two has: learn_preconditioner\), though its"),
        ("?", r"another version of this program \(unknown, "),
    ]:  # fmt: skip
        records.write_json(uris.join(output, records.JOB), older | {"versions": versions}, {})
        with pytest.raises(JobError, match=message):
            estimate.dry_run(quick, job)
    with pytest.raises(
        JobError, match=r"had image_size = 64, this one has 96 \(and settings that only one "
    ):
        estimate.dry_run(replace(quick, image_size=96), job)


@pytest.mark.parametrize(("memory", "actors"), [(10**12, 4), (3 * 10**9, 1)])
def test_actors_are_as_many_as_fit_into_a_containers_memory(
    job, quick, monkeypatch, memory, actors
):
    monkeypatch.setattr(estimate.machine, "memory", lambda: memory)
    monkeypatch.setattr(estimate, "calibrate", lambda *_: None)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert estimate.dry_run(quick, job).resources.actors == actors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"manifest": "none.parquet"}, "does not exist"),
        ({"manifest": "twice.parquet"}, "have the same pair_id"),
        ({"manifest": "."}, "out is in the manifest's folder .*choose one beside it"),
        ({"manifest": "out/"}, "out is in the manifest's folder"),
        ({"output": "c.png"}, "^output .*c.png: is a file; give a folder$"),
    ],
)
def test_what_would_stop_the_job_stops_the_dry_run(job, quick, tmp_path, changes, message):
    row = {"content_uri": "c.png", "style_uri": "s.png", "pair_id": "a"}
    write_parquet(tmp_path / "twice.parquet", [row, row])
    changes = {name: str(tmp_path / value) for name, value in changes.items()}
    with pytest.raises(JobError, match=message):
        estimate.dry_run(quick, replace(job, **changes))
    with pytest.raises(JobError, match=message):
        run_job(quick, replace(job, **changes))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("gs://bucket/out", "output gs://bucket/out: cannot be reached .*gcsfs"),
        ("foo://bucket/out", "output foo://bucket/out: cannot be reached .*foo"),
    ],
)
def test_an_output_that_cannot_be_reached_is_said(job, quick, output, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # not installed
    with pytest.raises(JobError, match=message):
        estimate.dry_run(quick, replace(job, output=output))


def test_pairs_that_stop_at_their_first_evaluation_give_no_estimate(job, quick):
    """Without a style and from the content image the loss is 0 at once."""
    found = estimate.dry_run(replace(quick, style_weight=0.0), job)
    assert found.calibration is None
    assert found.hours() == found.output_bytes == 0


def test_originals_are_counted_but_neither_timed_nor_paid_for(quick, tmp_path):
    (tmp_path / "c.png").write_bytes(image_bytes(0, 64, 64))
    row = {"content_uri": "c.png", "style_uri": None, "original": True}
    rows = [{**row, "pair_id": f"o{index}"} for index in range(40)]
    rows.append({"pair_id": "p", "content_uri": "c.png", "style_uri": "c.png", "original": None})
    manifest, output = write_parquet(tmp_path / "m.parquet", rows), str(tmp_path / "out")
    job = JobSettings(manifest=manifest, output=output)
    found = estimate.dry_run(quick, job)
    assert (found.work.pairs, found.sampled, found.calibration.timed) == (41, 12, 1)
    assert found.work.area == pytest.approx(41 * 0.064**2)
    assert found.work.optimised == pytest.approx(0.064**2)
    assert found.work.bound == pytest.approx(0.064**2 * quick.iterations)
    records.write_json(uris.join(output, "job.json"), check_output(check(quick, job)), {})
    settings = json.dumps(dataclasses.asdict(quick))
    done = [
        {"pair_id": "o0", "status": "ok", "evaluations": None, "style_uri": []},
        {"pair_id": "p", "status": "ok", "evaluations": 2, "style_uri": [f"{tmp_path}/c.png"]},
    ]
    done = [{**row, "content_uri": f"{tmp_path}/c.png", "settings": settings,
             "file_name": f"images/{row['pair_id']}.png",
             "style_blend": [1.0] * len(row["style_uri"])} for row in done]  # fmt: skip
    table = pa.Table.from_pylist(done, schema=RECORD_SCHEMA)
    tables.write_table(uris.join(output, records.RECORDS, "a.parquet"), table, {})
    found = estimate.dry_run(quick, job)
    assert (found.pending, found.calibration) == (39, None)
    assert found.share == pytest.approx(2 / quick.iterations)


def test_without_a_gpu_pairs_of_a_gpu_job_are_timed_one_by_one(job, quick, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    job = replace(job, gpus_per_actor=1.0, actors=2, batch_size=8)
    found = estimate.dry_run(quick, job)
    assert (found.resources.batch_size, found.calibration.batch) == (8, 1)
    assert found.calibration.device == f"cpu x {torch.get_num_threads()}"
    print_estimate(found, quick, job, 0.8)
    out = capsys.readouterr().out
    assert " on this machine's CPUs alone; try it on a GPU node for the time and the cost" in out
    assert "\n  time of this machine's CPUs: about " in out


def test_the_first_bad_rows_are_named_in_the_manifests_order(quick, tmp_path, capsys):
    row = {"content_uri": "c.png", "style_uri": "s.png"}
    rows = [
        {**row, "pair_id": f"../\x1b{index}", "style_uri": f"s{9 - index}"} for index in range(9)
    ]
    manifest = write_parquet(tmp_path / "m.parquet", rows)
    job = JobSettings(manifest=manifest, output=str(tmp_path / "out"))
    found = estimate.dry_run(quick, job)
    assert [name for name, _ in found.work.bad] == [f"../\x1b{index}" for index in range(5)]
    assert stylize.main(command(job, quick)) == 1
    out = capsys.readouterr().out
    assert out.count("manifest row") == 5
    assert "  bad_name: 9\n" in out
    assert "\x1b" not in out  # a terminal would obey


def command(job, quick, *more):
    return [
        *("--manifest", job.manifest, "--output", job.output, "--weights", quick.weights),
        *("--image-size", "64", "--dry-run", *more),
    ]


def test_the_command_says_it_in_words(job, quick, tmp_path, capsys):
    assert stylize.main(command(job, quick)) == 1  # one row is bad
    out = capsys.readouterr().out
    assert f"nothing was written in {job.output}" in out
    assert f"{PAIRS} pairs in the manifest, {PAIRS} to do" in out
    assert "  bad_name: 1\n    pair ../p03: manifest row 3: pair_id: '../p03' cannot be" in out
    assert "..." not in out
    assert "time of an actor with" in out
    assert "at most" in out
    assert "images:  about" in out
    assert not (tmp_path / "out").exists()
    (tmp_path / "c.png").write_bytes(b"no image")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "__lease__.json").write_text('{"run": "x", "host": "elsewhere"}')
    assert stylize.main(command(job, quick)) == 1
    out = capsys.readouterr().out
    assert "of 12 pairs that should be loaded, 12 cannot be:\n  not_an_image: 12\n    pair p" in out
    assert out.count("c.png: not an image that Pillow can read") == 5
    assert "\n    ...\n" in out
    assert "no estimate of time and size" in out
    assert "a run works in this output, or was killed on another machine" in out


def test_with_a_limit_it_is_said_of_how_many_pairs(job, quick, capsys):
    assert stylize.main(command(job, quick, "--limit", "1")) == 0
    said = f"dry run: the first 1 of {PAIRS} pairs in the manifest, 1 to do\n"
    assert said in capsys.readouterr().out


def estimated(work, calibration, resources=None):
    """Of a manifest whose pairs are all to do."""
    return estimate.Estimate(
        rows=work.pairs,
        manifest_rows=work.pairs,
        pending=work.pairs,
        work=work,
        resources=resources,
        in_use=False,
        calibration=calibration,
    )


def test_evaluations_are_counted_as_the_job_counts_them():
    work = estimate.Work(
        pairs=10, area=10.0, optimised=5.0, bound=3000.0, sample=[], faults={}, bad=[]
    )
    calibration = Calibration(device="x", timed=1, batch=1, shape=0.75, seconds=2.0, bytes=1e6)
    found = estimated(work, calibration)
    assert found.hours() == pytest.approx((3000 + 2 * 5) * 0.75 * 2 / 3600)
    assert found.hours(0.5) == pytest.approx((1500 + 2 * 5) * 0.75 * 2 / 3600)
    assert found.output_bytes == pytest.approx(7.5e6)


@pytest.mark.parametrize(
    ("hours", "said"), [(0.000204, "0.734 s"), (0.05, "3 min"), (1.9, "114 min"), (2.5, "2.5 h")]
)
def test_times_are_given_in_a_unit_that_fits(quick, job, capsys, hours, said):
    work = estimate.Work(1, 1.0, 1.0, bound=0.0, sample=[], faults=Counter(), bad=[])
    seconds = hours * 3600 / 2
    calibration = Calibration(device="cpu", timed=1, batch=1, shape=1.0, seconds=seconds, bytes=1e6)
    found = estimated(work, calibration, Resources(1, 0.0, 1.0, 1, 1, 1, 1, 0))
    print_estimate(found, quick, job)
    out = capsys.readouterr().out
    assert f"with 1 CPU thread: about {said} (8 evaluations a pair), at most {said} (" in out
    assert out.startswith("dry run: 1 pair in the manifest, 1 to do\n")
    assert f"\ntime:    about {said} with 1 actor on this machine's CPUs\n" in out
    assert "\n  1 block of up to 1 pair, a commit every 1 pair" in out


def of_gpus(actors=4, share=1.0):
    work = estimate.Work(9, 9.0, 9.0, bound=0.0, sample=[], faults=Counter(), bad=[])
    calibration = Calibration("NVIDIA L4", timed=1, batch=8, shape=1.0, seconds=1600.0, bytes=1e6)
    found = estimated(work, calibration, Resources(actors, 0.5, 1.0, 1, 8, 8, 8, 0))
    return dataclasses.replace(found, share=share)


def test_the_first_lines_say_what_how_long_how_much_and_how_large(quick, job, capsys):
    print_estimate(of_gpus(), quick, job, 0.8)
    what, time, size, *_, last = capsys.readouterr().out.splitlines()
    assert last == f"nothing was started, nothing was written in {job.output}"
    assert what == "dry run: 9 pairs in the manifest, 9 to do"
    gpu = "time:    about 4 h on 2 GPUs, 8 h of GPU time"
    assert time == f"{gpu}; cost: about 6.40, at most 6.40"
    assert size == "images:  about 9 MB of png"
    print_estimate(of_gpus(), quick, job)
    assert f"\n{gpu}; give --price-per-gpu-hour for the cost\n" in capsys.readouterr().out


def test_a_dry_run_for_programs_is_one_object(job, quick, capsys):
    assert stylize.main(command(job, quick, "--json", "--price-per-gpu-hour", "2")) == 1
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert said.err == ""
    assert (found["exit_code"], found["pairs"], found["to_do"]) == (1, PAIRS, PAIRS)
    assert found["bad_rows"] == {"bad_name": 1}
    assert found["device"].startswith("cpu")
    assert found["device_hours"] > 0
    assert found.keys() <= named("docs/formats.md", "A dry run for programs")
    assert found["cost"] is None, "there is no GPU"
    assert as_json(of_gpus(), quick, 0.8)["cost"] == pytest.approx(6.4)


@pytest.mark.parametrize(
    ("amount", "said"), [(0, "0.00"), (0.0123, "0.012"), (6.4, "6.40"), (12345.6, "12,345.60")]
)
def test_amounts_have_the_digits_that_count(amount, said):
    assert money(amount) == said


def test_a_reader_may_leave_before_the_end(job, quick):
    """As ``| head`` does; what is found still decides the exit code."""
    run = subprocess.Popen(
        [sys.executable, "-m", "jobs.stylize", *command(job, quick)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    run.stdout.close()
    activities = (LOADING_LIBRARIES, LOADING_WEIGHTS, CHECKING_MANIFEST, TRYING_PAIRS)
    assert run.stderr.read().splitlines() == [activity.doing for activity in activities]
    assert run.wait(60) == 1


def test_seeds_that_change_nothing_are_told(quick, tmp_path, capsys):
    rows = [{**row, "seed": index} for index, row in enumerate(equal_pairs(tmp_path, 2))]
    manifest = write_parquet(tmp_path / "seeds.parquet", rows)
    job = JobSettings(manifest=manifest, output=str(tmp_path / "out"))
    for init_image, told in (("content", True), ("noise", False)):
        check(replace(quick, init_image=init_image), job)
        assert ("--init-image noise uses them" in capsys.readouterr().err) is told
