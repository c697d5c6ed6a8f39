"""Whole jobs: a real Ray, a real S3 endpoint on loopback, real Parquet and image files."""

import copy
import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from ray.data import DataContext, Dataset

from jobs import stylize
from pipeline.data.images import sizing
from pipeline.data.output import lease, records, resume
from pipeline.data.storage import files, tables, uris
from pipeline.engine import resources
from pipeline.engine.dry_run.estimate import dry_run
from pipeline.engine.job import JobError, _delete_plan, _run_on_ray, run_job
from pipeline.report.page import write_report
from pipeline.settings import JobSettings, replace
from tests.conftest import equal_pairs, image_bytes, write_parquet
from tests.doc_commands import named
from tests.outputs import check_images, records_of
from tests.processes import stop_at

pytestmark = pytest.mark.usefixtures("local_ray")


def put_inputs(base, options):
    """Contents of two shapes and two styles; the second content comes later."""
    for index, size in enumerate([(64, 64), (48, 64), (64, 64), (48, 64)]):
        if index != 1:
            files.write_bytes(f"{base}/c{index}.png", image_bytes(index, *size), options)
    for index in range(2):
        files.write_bytes(f"{base}/s{index}.jpg", image_bytes(9 + index, 80, 64, "JPEG"), options)


def test_originals_lie_beside_the_stylised_images(quick, tmp_path):
    """Same size and format, without a style: one output is a whole training set."""
    put_inputs(str(tmp_path), {})
    rows = [
        {"content_uri": f"c{c}.png", "style_uri": style, "original": not style, "label": "a"}
        for c in (0, 2) for style in (None, "s0.jpg")
    ]  # fmt: skip
    rows.append({"content_uri": "c3.png", "style_uri": None, "original": False, "label": "a"})
    manifest, output = write_parquet(tmp_path / "m.parquet", rows), f"{tmp_path}/out"
    settings = JobSettings(manifest=manifest, output=output, embed_metadata=True, actors=1)
    style = replace(quick, image_size=32)
    summary = run_job(style, settings)
    write_report(settings)
    assert (summary["ok"], summary["errors_by_class"]) == (4, {"bad_row": 1})
    found = records_of(output)
    made = [record for record in found.values() if record["status"] == "ok"]
    originals = [record for record in made if record["style_uri"] == []]
    assert len(originals) == 2
    for record in originals:
        assert (record["status"], record["total_loss"]) == ("ok", None)
        seed = int(record["content_uri"][-5])
        content = Image.open(tmp_path / f"c{seed}.png").convert("RGB")
        with Image.open(f"{output}/{record['file_name']}") as made:
            assert made.size == (32, 32)
            assert np.array_equal(np.asarray(made), sizing.resize(content, (32, 32)))
    assert summary["mean"]["evaluations"] == quick.iterations
    assert not run_job(style, settings)["last_run"]["pairs"]


def test_a_job_over_s3_resumes_and_retries(s3, quick, weights_file):
    options, bucket = s3
    base, output = f"s3://{bucket}/in", f"s3://{bucket}/out"
    put_inputs(base, options)
    files.write_bytes(f"{base}/s1.jpg", image_bytes(10, 80, 64, "JPEG")[:-2], options)
    files.write_bytes(f"{base}/narrow.safetensors", weights_file.read_bytes(), options)
    quick = replace(quick, weights=f"{base}/narrow.safetensors")
    rows = [
        {"pair_id": f"p{c}{s}", "content_uri": f"c{c}.png", "style_uri": f"s{s}.jpg",
         "label": f"class{c}", "split": "train" if s else "val", "note": f"n{c}{s}"}
        for c in range(4) for s in range(2)
    ]  # fmt: skip
    extra = {"label": "x", "split": "val", "note": None}
    rows += [
        {"pair_id": "evil", "content_uri": "file:///etc/passwd", "style_uri": "s0.jpg", **extra},
        {"pair_id": "../up", "content_uri": "c0.png", "style_uri": "s0.jpg", **extra},
    ]
    for row in rows:  # relative to the manifest, which is a directory
        if "://" not in row["content_uri"]:
            row["content_uri"] = f"../{row['content_uri']}"
        row["style_uri"] = f"../{row['style_uri']}"
    for part, some in enumerate((rows[:4], rows[4:])):
        table = pa.Table.from_pylist(some)
        tables.write_table(f"{base}/manifest/part-{part}.parquet", table, options)

    job = JobSettings(
        manifest=f"{base}/manifest/", output=output, storage_options=options,
        batch_size=2, rows_per_block=3, actors=1,
    )  # fmt: skip
    summary = run_job(quick, job)
    assert (summary["pairs"], summary["ok"], summary["error"]) == (10, 6, 4)
    assert summary["errors_by_class"] == {"not_found": 2, "scheme_not_allowed": 1, "bad_name": 1}
    found = records_of(output, options)
    assert len(found) == 10
    check_images(output, found, options)
    first = found["p20"]
    assert first["file_name"] == "images/val/class2/p20.png"
    assert first["content_uri"] == f"{base}/c2.png"
    assert first["loss_history"][-1] < first["loss_history"][0]
    assert len(first["loss_history"]) == first["evaluations"] == 8
    assert first["total_loss"] == pytest.approx(
        first["content_loss"] + first["style_loss"] + first["tv_loss"], rel=1e-5
    )
    assert {name for name, _ in first["layer_losses"]} >= {"content.conv4_2", "style.conv5_1"}
    assert json.loads(first["settings"])["iterations"] == 8
    assert len(first["weights_digest"]) == 64
    assert first["device"].startswith("cpu")
    assert all(first[f"{stage}_seconds"] > 0 for stage in ("load", "optimize", "store"))
    assert found["p10"]["error_class"] == "not_found"
    assert f"{base}/c1.png" in found["p10"]["error_message"]
    assert "letters, digits" in found["../up"]["error_message"]
    warned = [f"style {base}/s1.jpg: was read, but its end is missing or broken"]
    assert {name: row["warnings"] for name, row in found.items() if row["warnings"]} == {
        f"p{c}1": warned for c in (0, 2, 3)
    }
    assert summary["with_warnings"] == 3
    assert summary.keys() <= named("docs/formats.md", "Summary")

    metadata = tables.read_table(f"{output}/images/val/metadata.parquet", options).to_pylist()
    assert {row["file_name"] for row in metadata} == {f"class{c}/p{c}0.png" for c in (0, 2, 3)}

    # Again: nothing to do, nothing changed.
    before = files.list_files(f"{output}/records", options)
    again = run_job(quick, job)
    assert again["last_run"]["pairs"] == 0
    assert again["last_working_run"] == summary["last_run"]
    assert files.list_files(f"{output}/records", options) == before

    # The missing image arrives; only failed rows are done again, beside an earlier version's.
    for file in before[::2]:
        table = tables.read_table(file, options).drop_columns(["warnings"])
        tables.write_table(file, table, options)
    files.write_bytes(f"{base}/c1.png", image_bytes(1, 48, 64), options)
    retried = run_job(quick, replace(job, retry_errors=True))
    assert (retried["pairs"], retried["ok"], retried["error"]) == (10, 8, 2)
    assert retried["last_run"]["pairs"] == 4
    now = records_of(output, options)
    check_images(output, now, options)
    kept = [name for name, row in found.items() if row["status"] == "ok"]
    assert all(now[name]["finished_at"] == found[name]["finished_at"] for name in kept)
    schema = records.records_dataset(output, options).schema
    assert "note" in schema.names
    assert now["p11"]["warnings"] == warned

    written = files.list_files(f"s3://{bucket}", options)
    outside = [uri for uri in written if not uri.startswith((f"{output}/", f"{base}/"))]
    assert outside == []


@pytest.fixture
def inputs(tmp_path):
    put_inputs(str(tmp_path / "in"), {})
    return tmp_path / "in"


def manifest_of(inputs, rows) -> str:
    return write_parquet(inputs / "m.parquet", rows)


def test_batches_of_equal_shape_and_per_row_settings(inputs, quick, tmp_path):
    common = {"style_uri": ["s0.jpg"]}
    rows = [
        {**common, "pair_id": "a", "content_uri": "c0.png"},
        {**common, "pair_id": "b", "content_uri": "c2.png", "iterations": 3},
        {**common, "pair_id": "c", "content_uri": "c3.png"},
        {**common, "pair_id": "d", "content_uri": "c0.png", "preserve_color": "luminance"},
        {**common, "pair_id": "e", "content_uri": "c0.png", "image_size": 96},
        {**common, "pair_id": "f", "content_uri": "c0.png", "image_size": 5},
        {
            "pair_id": "g",
            "content_uri": "c3.png",
            "output_name": "blended.jpg",
            "style_uri": ["s0.jpg", "s1.jpg"],
            "style_blend": [0.25, 0.75],
        },
    ]
    columns = dict.fromkeys(name for row in rows for name in row)
    rows = [columns | row for row in rows]
    manifest = manifest_of(inputs, rows)
    output = str(tmp_path / "out")
    job = JobSettings(manifest=manifest, output=output, batch_size=4, rows_per_block=10, actors=1)
    run_job(quick, job)
    found = records_of(output)
    check_images(output, found)
    assert {found[name]["batch_size"] for name in "abcdeg"} == {4}
    assert found["g"]["file_name"] == "images/blended.png"
    assert found["g"]["style_blend"] == [0.25, 0.75]
    assert found["b"]["evaluations"] == 3
    assert (found["e"]["width"], found["c"]["height"]) == (96, 48)
    assert json.loads(found["d"]["settings"])["preserve_color"] == "luminance"
    assert found["f"]["error_class"] == "bad_row"

    alone = replace(job, output=str(tmp_path / "alone"), batch_size=1)
    run_job(quick, alone)
    for name in "abcde":
        one, other = (
            np.asarray(Image.open(f"{place}/images/{name}.png")).astype(int)
            for place in (output, alone.output)
        )
        assert np.abs(one - other).mean() < 1.0


def test_an_output_grows_with_its_manifest_but_keeps_its_settings(inputs, quick, tmp_path, capsys):
    row = {"content_uri": "c0.png", "style_uri": "s0.jpg"}
    rows = [{**row, "pair_id": "a"}, {**row, "pair_id": "b"}]
    job = JobSettings(manifest=manifest_of(inputs, rows), output=str(tmp_path / "out"), actors=1)
    assert run_job(quick, replace(job, limit=1))["ok"] == 1
    assert "the first 1 of 2 pairs in the manifest, 1 to do, weights" in capsys.readouterr().err
    other = replace(quick, iterations=9)
    left = tmp_path / "out" / "__plan__"  # by a run that was killed
    left.mkdir()
    (left / "part-00000.parquet").write_bytes(b"https://h/c.png?X-Amz-Signature=x")
    with pytest.raises(JobError, match=r"iterations = 8, this one has 9; .*--overwrite"):
        run_job(other, job)
    assert not left.exists()
    with pytest.raises(JobError, match="image_format = 'png', this one has 'jpg'"):
        run_job(quick, replace(job, image_format="jpg"))
    summary = run_job(quick, job)
    assert (summary["ok"], summary["last_run"]["pairs"]) == (2, 1)
    write_parquet(inputs / "m.parquet", [{**row, "pair_id": "b"}, {**row, "pair_id": "c"}])
    summary = run_job(quick, job)
    assert (summary["manifest_rows"], summary["ok"], summary["last_run"]["pairs"]) == (2, 2, 1)
    assert summary["other_pairs"] == {"ok": 1, "error": 0}
    assert records.job_of(job.output, {})["recorded_of_others"] == 1
    write_parquet(inputs / "m.parquet", rows)
    assert run_job(other, replace(job, overwrite=True))["ok"] == 2
    assert records_of(job.output)["a"]["evaluations"] == 9


def test_a_row_that_means_something_else_by_now_is_refused(inputs, quick, tmp_path, monkeypatch):
    """Two folders whose manifests say the same of different pictures; a row that was changed."""
    base = tmp_path / "more"
    put_inputs(str(base), {})
    rows = [
        {"content_uri": "c0.png", "style_uri": "s0.jpg", "output_name": "cat"},
        {"content_uri": "c1.png", "style_uri": "s0.jpg", "output_name": "late"},
    ]
    first = JobSettings(manifest=manifest_of(inputs, rows), output=str(tmp_path / "out"), actors=1)
    second = replace(first, manifest=manifest_of(base, rows))
    assert run_job(quick, first)["ok"] == 1  # c1.png is not there
    made = records_of(first.output)

    def refuse(*_):
        raise AssertionError("Ray was asked for actors")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.engine.job._run_on_ray", refuse)
        message = r"row 0 has pair_id 'c0--s0--\w{20}', whose image was made with content_uri = "
        for job in (second, replace(second, retry_errors=True)):
            with pytest.raises(JobError, match=message):
                run_job(quick, job)
            with pytest.raises(JobError, match=message):
                dry_run(quick, job)
        manifest_of(inputs, [rows[0] | {"style_uri": "s1.jpg"}, rows[1]])
        message = r"row 0 \(pair_id 'c0--s1--\w{20}'\) would overwrite images/cat\.png, the"
        with pytest.raises(JobError, match=message):
            run_job(quick, first)
        with pytest.raises(JobError, match=message):
            dry_run(quick, first)
    assert records_of(first.output) == made
    summary = run_job(quick, replace(second, overwrite=True))
    assert (summary["ok"], summary["error"]) == (1, 1)
    (ok,) = (row for row in records_of(first.output).values() if row["status"] == "ok")
    assert ok["content_uri"] == f"{base}/c0.png"


def test_a_run_that_was_taken_over_leaves_the_others_plan(inputs, quick, tmp_path, monkeypatch):
    row = {"pair_id": "a", "content_uri": "c0.png", "style_uri": "s0.jpg"}
    job = JobSettings(manifest=manifest_of(inputs, [row]), output=str(tmp_path / "out"))

    def other_comes(*_):
        (tmp_path / "out" / lease.LEASE).write_text('{"run": "other"}')
        raise KeyboardInterrupt

    monkeypatch.setattr(resume, "repair", other_comes)  # the plan is written by then
    with pytest.raises(lease.LostError):
        run_job(quick, job)
    assert (tmp_path / "out" / "__plan__").is_dir()


def test_a_job_that_lost_its_lease_ends_with_1_and_records_nothing(
    inputs, quick, tmp_path, monkeypatch, capsys
):
    """Its tasks see it first: the driver looks every 15 seconds."""
    rows = [{"pair_id": f"p{i}", "content_uri": "c0.png", "style_uri": "s0.jpg"} for i in range(4)]
    job = JobSettings(manifest=manifest_of(inputs, rows), output=str(tmp_path / "out"), actors=1)
    real = _run_on_ray

    def lose_it(*arguments):
        (tmp_path / "out" / lease.LEASE).write_text('{"run": "other"}')
        real(*arguments)

    monkeypatch.setattr("pipeline.engine.job._run_on_ray", lose_it)
    assert stylize.run(quick, job, stylize.Messages()) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: output {job.output}: another job has taken it over, or its")
    assert list((tmp_path / "out" / "images").iterdir()) == []
    assert records_of(job.output) == {}
    assert (tmp_path / "out" / lease.LEASE).read_text() == '{"run": "other"}'


def test_a_plan_that_cannot_be_deleted_is_named(capsys):
    _delete_plan("nosuch://u:SECRET@bucket/out", {})
    said = capsys.readouterr().err
    assert said.startswith("warning: nosuch://bucket/out/__plan__: cannot be deleted: ValueError;")
    assert "SECRET" not in said
    assert said.count("\n") == 1


def test_overwrite_deletes_only_what_a_job_wrote(inputs, quick, tmp_path):
    row = {"pair_id": "a", "content_uri": "c0.png", "style_uri": "s0.jpg"}
    (inputs / "images").mkdir()
    (inputs / "images" / "photo.png").write_bytes(b"precious")
    job = JobSettings(manifest=manifest_of(inputs, [row]), output=str(inputs), overwrite=True)
    with pytest.raises(JobError, match=r"holds images/ but no job\.json"):
        run_job(quick, job)
    assert (inputs / "images" / "photo.png").read_bytes() == b"precious"


def test_whatever_a_kill_left_apart_is_mended_by_the_next_run(inputs, quick, tmp_path, monkeypatch):
    row = {"content_uri": "c0.png", "style_uri": "s0.jpg"}
    rows = [{**row, "pair_id": name} for name in ("kept", "lost", "twice")]
    rows.append({**row, "pair_id": "failed", "content_uri": "c1.png"})
    output = tmp_path / "out"
    job = JobSettings(
        manifest=manifest_of(inputs, rows), output=str(output), rows_per_block=1, actors=1
    )
    assert run_job(quick, job)["error"] == 1
    files.write_bytes(str(inputs / "c1.png"), image_bytes(1, 48, 64), {})

    def checkpoint_of(name):
        file_names = (output / "__checkpoint__").glob("*.parquet")
        return next(f for f in file_names if pq.read_table(f)["pair_id"].to_pylist() == [name])

    # A store without renames copies, then deletes: killed in between, both names are there.
    twice = checkpoint_of("twice")
    twice.with_suffix(".pending.parquet").write_bytes(twice.read_bytes())
    # A record file that is gone, though the checkpoint has its pair.
    next((output / "records").glob(f"{checkpoint_of('lost').stem}*")).unlink()
    # A --retry-errors that was killed once it had written down what to forget.
    real = resume._keep

    def die(*arguments):
        if files.exists(uris.join(job.output, resume.JOURNAL), {}):
            raise KeyboardInterrupt
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(resume, "_keep", die)
        with pytest.raises(KeyboardInterrupt):
            run_job(quick, replace(job, retry_errors=True))
    assert not (output / "__plan__").exists()  # it holds the manifest's URIs, signed ones too
    summary = run_job(quick, job)  # not asked to retry: but what was begun is finished
    assert (summary["pairs"], summary["ok"]) == (4, 4)
    assert (summary["missing"], summary["duplicates"]) == (0, 0)
    assert summary["last_run"]["pairs"] == 2
    check_images(job.output, records_of(job.output))


def test_an_output_in_which_nothing_can_be_deleted_is_refused(inputs, quick, tmp_path, monkeypatch):
    row = {"pair_id": "a", "content_uri": "c0.png", "style_uri": "s0.jpg"}
    job = JobSettings(manifest=manifest_of(inputs, [row]), output=str(tmp_path / "out"))
    monkeypatch.setattr(files, "delete", lambda uri, options: None)  # as S3 may, with status 200
    message = r"\.probe\.writing could be written but not deleted.*DeleteObject"
    with pytest.raises(JobError, match=message):
        run_job(quick, job)


def test_small_blocks_of_large_images_are_recorded_together(
    quick, weights_file, tmp_path, monkeypatch
):
    """One large row makes blocks small; it must not make as many files as there are blocks."""
    monkeypatch.setattr(resources, "BLOCK_BYTES", 1)
    monkeypatch.setattr(resources, "MOST_FILES", 3)
    demands, map_batches = [], Dataset.map_batches
    monkeypatch.setattr(
        Dataset, "map_batches",
        lambda *given, **named: demands.append(named) or map_batches(*given, **named),
    )  # fmt: skip
    manifest = write_parquet(tmp_path / "m.parquet", equal_pairs(tmp_path, 8))
    job = JobSettings(manifest=manifest, output=str(tmp_path / "out"), actors=1)
    logger, settings = logging.getLogger("ray.data"), DataContext.get_current()
    before = logger.level, copy.copy(vars(settings))
    summary = run_job(quick, job)
    assert (logger.level, vars(settings)) == before, "put back"
    assert (summary["ok"], summary["missing"], summary["duplicates"]) == (8, 0, 0)
    check_images(job.output, records_of(job.output))
    assert len(list((tmp_path / "out/records").glob("*.parquet"))) <= 3
    assert len(list(resume.checkpointed_ids(job.output, {}))) == 8
    load, *others = [demand.get("memory") for demand in demands]
    assert load > 10**8
    assert others == [None, None, None]


def test_a_job_that_is_stopped_before_ray_is_there_leaves_no_plan(quick, tmp_path):
    manifest = write_parquet(tmp_path / "m.parquet", equal_pairs(tmp_path, 1))
    arguments = ["--manifest", manifest, "--output", str(tmp_path / "out")]
    arguments += ["--weights", quick.weights]
    stop_at("pipeline.engine.job.prepare", tmp_path / "out/__plan__", arguments)
    assert not (tmp_path / "out/__plan__").exists()
    assert not (tmp_path / "out/__lease__.json").exists()
