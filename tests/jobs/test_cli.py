import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.exceptions import RayError

from jobs import _cli, stylize, verify
from pipeline.data.output import records
from pipeline.data.output.lease import LostError
from pipeline.data.schemas import RECORD_SCHEMA
from pipeline.data.storage import files
from pipeline.engine.packing.run import PackingError
from pipeline.settings import JobSettings, SettingError, StyleSettings, grouped
from tests.conftest import write_parquet
from tests.options import settings_of
from tests.outputs import put_job_file

ROOT = Path(__file__).parent.parent.parent
BASE = ["--manifest", "m.parquet", "--output", "out"]


def parse(*argv):
    return settings_of([*BASE, *argv])


def test_options_become_settings():
    style, job = parse(
        *("--image-size", "256", "--content-weight", "1e-3", "--style-layers", "conv1_1,conv3_1"),
        *("--style-layer-weights", "0.5,0.5", "--no-color-preconditioner", "--actors", "4"),
        *("--gpus-per-actor", "0.5", "--retry-errors", "--allow-schemes", "https,http"),
        *("--storage-options", '{"s3": {"endpoint_url": "http://127.0.0.1:1"}}'),
    )
    assert style == StyleSettings(
        image_size=256, content_weight=1e-3, style_layers=("conv1_1", "conv3_1"),
        style_layer_weights=(0.5, 0.5), color_preconditioner=False,
    )  # fmt: skip
    assert job == JobSettings(
        manifest="m.parquet", output="out", actors=4, gpus_per_actor=0.5, retry_errors=True,
        allow_schemes=("https", "http"),
        storage_options={"s3": {"endpoint_url": "http://127.0.0.1:1"}},
    )  # fmt: skip
    assert parse("--actors", "3")[1].actors == 3
    assert parse() == (StyleSettings(), JobSettings(manifest="m.parquet", output="out"))


def test_a_config_file_gives_settings_and_options_win(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "image_size: 128\niterations: 7\nactors: 8\nstyle_layers: [conv1_1]\nretry_errors: true\n"
        "color_preconditioner: false\nstorage_options: {s3: {endpoint_url: http://127.0.0.1:1}}\n"
    )
    style, job = parse("--config", str(tmp_path / "c.yaml"), "--iterations", "9")
    assert (style.image_size, style.iterations, style.style_layers) == (128, 9, ("conv1_1",))
    assert job.actors == 8
    assert job.retry_errors
    assert not style.color_preconditioner
    assert job.storage_options == {"s3": {"endpoint_url": "http://127.0.0.1:1"}}
    (tmp_path / "c.toml").write_text('image_size = 128\nweights = "random"\ncontent_weight = 1\n')
    style, _ = parse("--config", str(tmp_path / "c.toml"))
    assert (style.image_size, style.weights, style.content_weight) == (128, "random", 1.0)


def test_storage_options_in_a_file_keep_their_types(tmp_path):
    """A text "false" would be true for fsspec; and a setting's value stays what was written."""
    (tmp_path / "c.yaml").write_text(
        "content_weight: 1e-3\nweights: no\n"
        "storage_options:\n  s3: &s3\n    anon: false\n    key: '0123'\n"
        "    config_kwargs: {max_pool_connections: 50, connect_timeout: 2.5}\n  s3a: *s3\n"
    )
    style, job = parse("--config", str(tmp_path / "c.yaml"))
    assert (style.content_weight, style.weights) == (1e-3, "no")
    config = {"max_pool_connections": 50, "connect_timeout": 2.5}
    options = {"anon": False, "key": "0123", "config_kwargs": config}
    assert job.storage_options == {"s3": options, "s3a": options}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--imgae-size", "64"], "--imgae-size: is no option; did you mean --image-size?"),
        (["--image-size", "9"], "image_size: 9 is out of range; range: 32 to 8192 px"),
        (["--output"], "argument --output: expected one argument; "),
        (["--price-per-gpu-hour", "much"], "argument --price-per-gpu-hour: invalid float value"),
        (["--price-per-gpu-hour", "-1"], "price_per_gpu_hour: -1.0 is no price; give a number fr"),
        (["--price-per-gpu-hour", "nan"], "price_per_gpu_hour: nan is no price; give a number"),
        (["--price-per-gpu-hour=-inf"], "price_per_gpu_hour: -inf is no price; give a number"),
        (["photos/b.jpg"], "photos/b.jpg: belongs to no option (a pattern such as '*.jpg' wants "),
        (["--config", "none.yaml"], "config none.yaml: cannot be read: no such file"),
        (["--content", "photos"], "content and manifest exclude each other: "),
        (["--manifest", "", "--content", "none", "--style", "none"], "none: there is no such file"),
    ],
)
def test_a_mistake_ends_with_one_line_and_for_programs_with_one_object(
    argv, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert stylize.main([*BASE, *argv]) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert said.out == ""
    for where in (0, len(BASE)):
        assert stylize.main([*BASE[:where], "--json", *BASE[where:], *argv]) == 2
        said = capsys.readouterr()
        assert said.err.splitlines() == [line]
        found = json.loads(said.out)
        assert (found["exit_code"], found["message"]) == (2, line)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--image-size", "big"], "image_size: 'big' cannot be read; range: 32 to 8192 px"),
        (["--image-size", "9"], "image_size: 9 is out of range; range: 32 to 8192 px"),
        (["--pooling", "sum"], "pooling: 'sum' is not one of: avg, max$"),
        (["--actors", "1:2:3"], "actors: "),
        (["--actors", "x"], "actors: 'x' cannot be read"),
        (["--storage-options", "{"], r'the value is no JSON; give options .* as \{"s3": \{'),
        (["--storage-options", '{"anon": true}'], "storage_options: must be options by scheme"),
        (["--config", "none.yaml"], "config none.yaml: cannot be read"),
        (["--image-sizes", "64"], r"^--image-sizes: is no option; did you mean --image-size\?$"),
        (["--image_size=64"], r"^--image_size: is no option; did you mean --image-size\?$"),
        (["pairs"], "^pairs: belongs to no option "),
        (["https://me:SECRET@h/x=SECRET"], r"^https://h/x: belongs to no option "),
    ],
)
def test_bad_options_are_refused_with_name_value_and_range(argv, message):
    with pytest.raises(SettingError, match=message):
        parse(*argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour: red", "colour: is no setting"),
        ("image_sise: 64", r"image_sise: is no setting; did you mean image_size\?$"),
        ("- 1", "must hold"),
        ("seed: 1\nstyle_layers: [a\nx: 2", r"expected ',' or '\]', .* \(at line 3, column 2\)$"),
        ("image_size: 1.5", "'1.5' cannot be read"),
        ("storage_options: {s3: {x: 2024-99-99}}", "cannot be read"),
        (
            "storage_options: {s3: !!python/name:os.x }",
            "cannot be read: .* have a meaning in YAML",
        ),
        ("storage_options: {s3: {secret: *MARKED}}", "have a meaning in YAML: quote the value"),
        ("storage_options: {s3: {secret: !MARKED x}}", "have a meaning in YAML: quote the value"),
    ],
)
def test_bad_config_files_are_refused(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SettingError, match=message):
        parse("--config", str(tmp_path / "c.yaml"))


def no_ray(*_, **__):
    raise AssertionError("Ray was started")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--image-size", "9"], "image_size: 9 is out of range"),
        (["--manifest", "none.parquet"], "none.parquet: does not exist"),
        (["--weights", "none.pth"], "Three ways to provide weights"),
        (["--manifest", "no-such-scheme://x"], "cannot be reached"),
    ],
)
def test_what_cannot_start_ends_with_2_and_one_clear_line(
    tmp_path, monkeypatch, capsys, argv, message
):
    monkeypatch.setattr("ray.init", no_ray)
    row = {"content_uri": "c.png", "style_uri": "s.png"}
    manifest = write_parquet(tmp_path / "m.parquet", [row])
    output = str(tmp_path / "out")
    code = stylize.main(["--manifest", manifest, "--output", output, "--weights", "random", *argv])
    assert code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert message in line


@pytest.mark.parametrize("folder", ["images", "records", "__checkpoint__"])
def test_a_folder_that_cannot_be_written_is_found_before_the_work(tmp_path, capsys, folder):
    row = {"pair_id": "a", "content_uri": "c.png", "style_uri": "s.png"}
    manifest, output = write_parquet(tmp_path / "m.parquet", [row]), tmp_path / "out"
    put_job_file(StyleSettings(weights="compact"), manifest, output)
    (output / folder).write_bytes(b"in its place")
    command = ["--manifest", manifest, "--output", str(output), "--weights", "compact"]
    assert stylize.main(command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert line.startswith(f"error: {output}/{folder}/.probe.writing: cannot be written: ")
    assert not (output / "__plan__").exists()


@pytest.fixture
def done(tmp_path, monkeypatch):
    """The command of a job whose one pair is done, so that no Ray is started; and its output."""
    monkeypatch.setattr("ray.init", no_ray)
    row = {"pair_id": "a", "content_uri": "c.png", "style_uri": "s.png"}
    manifest, output = write_parquet(tmp_path / "m.parquet", [row]), tmp_path / "out"
    put_job_file(StyleSettings(weights="compact"), manifest, output)
    for folder in (records.RECORDS, records.CHECKPOINT):
        (output / folder).mkdir(parents=True)
    record = {"pair_id": "a", "status": "ok", "file_name": "images/a.png"}
    table = pa.Table.from_pylist([record], schema=RECORD_SCHEMA)
    pq.write_table(table, output / records.RECORDS / "0.parquet")
    write_parquet(output / records.CHECKPOINT / "0.parquet", [{"pair_id": "a"}])
    command = ["--manifest", manifest, "--output", str(output), "--weights", "compact"]
    return [*command, "--no-report"], output


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--overwrite"]])
def test_records_without_a_job_file_are_nobodys(done, capsys, more):
    command, output = done
    (output / "job.json").unlink()
    assert stylize.main([*command, *more]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "out holds records/ but" in line.replace("out: holds", "out holds")
    assert (output / records.RECORDS / "0.parquet").exists()


def test_of_images_with_and_without_a_split_a_job_warns(done, capsys):
    command, output = done
    assert stylize.main(command) == 0
    assert "warning" not in capsys.readouterr().err
    more = {"pair_id": "b", "status": "ok", "split": "val", "file_name": "images/val/b.png"}
    table = pa.Table.from_pylist([more], schema=RECORD_SCHEMA)
    pq.write_table(table, output / records.RECORDS / "1.parquet")
    assert stylize.main(command) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert line.startswith("warning: 1 of 2 images have no split: ")


def test_of_names_that_load_as_splits_a_job_warns_before_it_starts(done, capsys):
    command, _ = done
    row = {"pair_id": "a", "content_uri": "c.png", "style_uri": "s.png"}
    write_parquet(command[1], [{**row, "output_name": "photo-of-a-train"}])
    assert stylize.main(command) == 0
    first, *_ = (line for line in capsys.readouterr().err.splitlines() if "warning" in line)
    assert first.startswith("warning: 1 image will have a word in the class or name that")
    assert "(photo-of-a-train)" in first
    assert "docs/formats.md" in first


def test_a_summary_that_cannot_be_written_is_no_job_that_could_not_start(done, capsys):
    command, output = done
    (output / "summary.json").mkdir()
    assert stylize.main(command) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "summary.json: cannot be written" in line
    assert "the pairs are done and what is recorded stays" in line
    (output / "summary.json").rmdir()
    assert stylize.main(command) == 0
    assert "1 picture and 0 errors from 1 pair\n" in capsys.readouterr().out


def test_pairs_of_damaged_pictures_are_counted(done, capsys):
    command, output = done
    path = output / records.RECORDS / "0.parquet"
    row = {**pq.read_table(path).to_pylist()[0], "warnings": ["content c.png: was read, but x"]}
    pq.write_table(pa.Table.from_pylist([row], schema=records.RECORD_SCHEMA), path)
    assert stylize.main(command) == 0
    assert "  warnings: 1 pair of damaged pictures, which were read" in capsys.readouterr().out
    assert json.loads((output / "summary.json").read_text())["with_warnings"] == 1


def test_of_two_records_of_one_pair_it_is_said_how_to_mend_them(done, capsys):
    command, output = done
    folder = output / records.RECORDS
    (folder / "1.parquet").write_bytes((folder / "0.parquet").read_bytes())
    assert stylize.main(command) == 1
    said = capsys.readouterr().out
    assert "duplicates: 1 records too many; python -m jobs.verify names their pairs: delete" in said
    assert "missing" not in said


def test_an_output_where_nothing_can_be_deleted_is_refused(done, monkeypatch, capsys):
    command, output = done
    real = files.delete
    monkeypatch.setattr(
        files, "delete", lambda uri, options: ".probe" in uri or real(uri, options)
    )  # says that it has
    assert stylize.main(command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert line.startswith(f"error: output: {output}/.probe.writing could be written but not")


def test_overwrite_says_what_it_leaves(done, monkeypatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    command, output = done
    (output / "images").mkdir()
    (output / "images" / "mine.png").write_bytes(b"")
    monkeypatch.setattr("pipeline.engine.job._run_on_ray", stopped)
    assert stylize.main([*command, "--overwrite"]) == 130
    said = capsys.readouterr().err
    assert "note: --overwrite leaves what no earlier job is known to have written: " in said
    assert (output / "images" / "mine.png").exists()


@pytest.mark.parametrize(
    ("more", "address", "message"),
    [
        (["--gpus-per-actor", "1"], None, "gpus_per_actor: 1, but this machine has 0 GPUs"),
        (["--gpus-per-actor", "1"], "there:1", "actors: the cluster has no GPU yet, so how many"),
        (
            ["--actors", "2", "--cpus-per-actor", "1"], None,
            "cpus_per_actor: 2 actors with 1 CPUs each leave less than 2 of this machine's 2 CPUs",
        ),
    ],
)  # fmt: skip
def test_more_than_the_machines_have_is_refused(done, monkeypatch, capsys, more, address, message):
    command, _ = done
    row = {"content_uri": "c.png", "style_uri": "s.png"}
    write_parquet(command[1], [{**row, "pair_id": name} for name in "abc"])
    monkeypatch.setattr("pipeline.engine.job.cluster.start_ray", lambda verbose: None)
    monkeypatch.setattr("pipeline.engine.job.check_sight", lambda *_: None)
    monkeypatch.setattr("pipeline.engine.job.node_resources", lambda: [{"CPU": 2.0}])
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    else:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert stylize.main([*command, *more]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert line.startswith(f"error: {message}")


REST = "what is recorded stays, the same command does the rest"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            RayError("a.py, line 3\nValueError: the last line"), 1,
            f"error: the run broke off (ValueError: the last line); {REST}, "
            "--verbose shows Ray's log",
        ),
        (PackingError("no shards"), 1, "error: no shards"),
        (LostError("taken over"), 1, "error: taken over"),
        (KeyboardInterrupt(), 130, f"stopped; {REST}"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_whatever_ends_a_run_is_a_code_and_one_line(
    done, monkeypatch, capsys, error, code, message
):
    def ended(*_):
        raise error

    monkeypatch.setattr(stylize, "run_job", ended)
    assert stylize.main([*done[0], "--json"]) == code
    said = capsys.readouterr()
    assert said.err.splitlines() == [message]
    found = json.loads(said.out)
    assert (found["exit_code"], found["message"]) == (code, message)
    assert found["output"] == str(done[1])


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RayError("the node died"), 2, "error: the audit broke off (the node died); --verbose"),
        (KeyboardInterrupt(), 130, "stopped; there is no verdict"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_ends_an_audit_is_a_code_and_one_line(
    done, monkeypatch, capsys, error, code, message
):
    def ended(*_):
        raise error

    monkeypatch.setattr("pipeline.engine.audit.audit.run_audit", ended)
    command = [word for word in done[0] if word not in ("--no-report", "--weights", "compact")]
    assert verify.main(command) == code
    assert [line for line in capsys.readouterr().err.splitlines() if message in line]


def test_a_reader_that_leaves_early_breaks_nothing(monkeypatch):
    place, end = os.pipe()
    os.close(place)
    with os.fdopen(end, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with _cli.reader_may_leave():
            print("x" * 10**6)
        print("more")
        out.flush()


def test_the_help_groups_every_setting_with_unit_and_default(capsys):
    with pytest.raises(SystemExit):
        stylize.main(["--help-all"])
    text = capsys.readouterr().out
    for settings in (StyleSettings, JobSettings):
        for title, specs in grouped(settings).items():
            _, _, group = text.partition(f"\n{title}:\n")
            named = group.partition("\n\n")[0].replace(",", " ").split()
            for spec in specs:
                assert "--" + spec.name.replace("_", "-") in named, (title, spec.name)
    flat = " ".join(text.split())
    for note in ("--content-weight X", "[32 to 8192 px; default 512]", "--storage-options JSON"):
        assert note in flat


def complete(line, target):
    """What argcomplete's shell function would be told of a command line."""
    module = line.split()[2]
    shell = {"_ARGCOMPLETE": "3", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    shell |= {"_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(target)}
    subprocess.run(
        [sys.executable, "-m", module], env=os.environ | shell, cwd=ROOT, capture_output=True
    )
    return target.read_text().split()


def test_a_shell_completes_options_and_choices(tmp_path):
    found = complete("python -m jobs.stylize --style-", tmp_path / "options")
    assert "--style-layer-weights" in found
    assert all(option.startswith("--style-") for option in found)
    assert complete("python -m jobs.make_manifest --mode ", tmp_path / "choices") == [
        "cross",
        "sample",
    ]


@pytest.mark.parametrize("job", ["stylize", "make_manifest", "verify", "report"])
def test_a_shell_recognises_the_jobs(job):
    # argcomplete looks for this mark at the beginning of the file before it runs it.
    assert "PYTHON_ARGCOMPLETE_OK" in (ROOT / "jobs" / f"{job}.py").read_text()[:1024]


def test_what_broke_a_run_off_is_named_not_rays_advice():
    advice = "(To change retry attempts, backoff, or which errors are retried, configure it.)"
    text = f"task failed\n  File x\nValueError: https://h/x?X-Amz-Signature=S is bad\n{advice}\n"
    assert _cli.why_it_broke_off(RuntimeError(text)) == "ValueError: https://h/x is bad"
    assert _cli.why_it_broke_off(RuntimeError(advice)) == "RuntimeError"
