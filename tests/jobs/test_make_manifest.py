"""The command, and that jobs.stylize takes what it makes."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import make_manifest, stylize
from pipeline.data.make_manifest.built import Built
from pipeline.data.manifest.manifest import open_manifest
from pipeline.data.storage import files, filesystems
from pipeline.settings import ManifestSettings
from tests.conftest import image_bytes


def no_ray(*_, **__):
    raise AssertionError("Ray was started")


@pytest.fixture
def inputs(tmp_path):
    """Eight photographs in a split and two labels, two styles, and files that are no images."""
    for label in ("cat", "dog"):
        folder = tmp_path / "photos" / "train" / label
        folder.mkdir(parents=True)
        (folder / "readme.txt").write_text("not an image")
        for index in range(4):
            (folder / f"{index}.JPG").write_bytes(image_bytes(index, 48, 64, "JPEG"))
    (tmp_path / "art").mkdir()
    for index in range(2):
        (tmp_path / "art" / f"style {index}.png").write_bytes(image_bytes(9 + index, 64, 64))
    return tmp_path


def arguments(root, output, *more):
    return ["--content", f"{root}/photos", "--style", f"{root}/art", "--output", output, *more]


def upload(folder, bucket, fs):
    for path in folder.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"{bucket}/{path.relative_to(folder)}", path.read_bytes())


def test_the_same_manifest_from_a_disk_and_from_s3(inputs, s3, tmp_path, capsys, weights_file):
    options, bucket = s3
    fs, _ = filesystems.filesystem("s3://x", options)
    upload(inputs, bucket, fs)
    (tmp_path / "c.yaml").write_text(f"storage_options: {options}")
    places = ("--label-from", "parent", "--split-from", "parent", "--rows-per-file", "3")
    assert make_manifest.main(arguments(inputs, str(tmp_path / "pairs"), *places)) == 0
    said = capsys.readouterr()
    local, progress = said.out, said.err.splitlines()
    assert progress == ["3 pairs of 3 content images so far", "6 pairs of 6 content images so far"]
    there = arguments(
        f"s3://{bucket}", f"s3://{bucket}/pairs", *places, "--config", str(tmp_path / "c.yaml")
    )
    there[1] += "/**/*.JPG"
    assert make_manifest.main(there) == 0
    remote = capsys.readouterr().out

    assert "8 pairs of 8 content images and 2 styles in 3 files" in local
    assert "8 pairs of 8 content images and 2 styles in 3 files" in remote
    assert "skipped: 2 .txt" in local
    assert "2 labels (content images of each: " in local
    assert "1 split (content images of each: train 8)" in local
    ids = [
        sorted(pq.read_table(path, filesystem=on)["pair_id"].to_pylist())
        for path, on in ((str(tmp_path / "pairs"), None), (f"{bucket}/pairs", fs))
    ]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 8

    for manifest, root in ((str(tmp_path / "pairs"), tmp_path), (f"s3://{bucket}/pairs", bucket)):
        uris = pq.read_table(
            manifest.removeprefix("s3://"), filesystem=fs if "s3" in manifest else None
        )["content_uri"].to_pylist()
        assert all(str(root) in uri for uri in uris)
        code = stylize.main(
            ["--manifest", manifest, "--output", str(tmp_path / "out"), "--image-size", "64",
             "--weights", str(weights_file), "--config", str(tmp_path / "c.yaml"), "--dry-run"]
        )  # fmt: skip
        assert code == 0
        assert "8 pairs in the manifest, 8 to do" in capsys.readouterr().out


def test_a_job_takes_the_manifest_of_a_data_set(inputs, tmp_path, capsys, weights_file):
    pictures = [image_bytes(index, 48, 64) for index in range(6)]
    table = pa.table({"image": [*pictures, None], "label": [0, 1, 2, 0, 1, 2, 0]})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "train-00000-of-00001.parquet", row_group_size=3)
    more = ("--content", f"{tmp_path}/data", "--style-probability", "0.5")
    assert make_manifest.main(arguments(inputs, str(tmp_path / "pairs"), *more)) == 0
    out = capsys.readouterr().out
    assert "skipped: 1 without a picture" in out
    assert "stay as they are and have no row; --include-originals adds one for each" in out
    assert "1 split (content images of each: train " in out
    plan = ["--manifest", str(tmp_path / "pairs"), "--output", str(tmp_path / "out")]
    assert (
        stylize.main([*plan, "--image-size", "64", "--weights", str(weights_file), "--dry-run"])
        == 0
    )
    assert "pairs in the manifest" in capsys.readouterr().out


def test_what_cannot_be_made_ends_with_2_and_one_clear_line(inputs, capsys):
    output = str(inputs / "pairs")
    for more, message in (
        (["--styles-per-content", "3"], "styles_per_content: 3, but the folder"),
        (["--mode", "all"], "mode: 'all' is not one of: cross, sample"),
        (["--limt", "3"], "--limt: is no option; did you mean --limit?"),
        (["--labels", "x.csv"], "labels: is not used"),
        (["--style", f"{inputs}/none"], "none: there is no such file or folder"),
        (["--output", f"{inputs}/art"], "which make_manifest did not write"),
    ):
        assert make_manifest.main(arguments(inputs, output, *more)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
    assert not (inputs / "pairs").exists()


def test_what_is_left_out_or_may_be_lost_is_said(inputs, tmp_path, capsys):
    output = str(inputs / "pairs")
    (tmp_path / "l.csv").write_text(
        "file_name,label,split\n0.JPG,a,train\n1.JPG,,\nno.JPG,b,val\nnone.JPG,b,val\n"
    )
    more = ("--labels", f"{tmp_path}/l.csv", "--label-from", "csv", "--split-from", "csv")
    assert make_manifest.main(arguments(inputs, output, *more)) == 0
    said = capsys.readouterr().out
    assert "1 label (content images of each: a 2)\n6 content images without a label\n" in said
    assert "1 split (content images of each: train 2)\n6 content images without a split\n" in said
    assert f"{tmp_path}/l.csv names 2 files that are not among the content images\n" in said
    assert "warning: results without a split will lie beside the folders of splits" in said
    more = ("--style-probability", "0.3", "--include-originals", "--overwrite")
    assert make_manifest.main(arguments(inputs, output, *more)) == 0
    said = capsys.readouterr().out
    assert "pairs without a style: copies of the content images\n" in said
    assert "have no row" not in said


def test_ctrl_c_ends_with_130_and_one_line(inputs, monkeypatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.data.make_manifest.building.build", stopped)
    assert make_manifest.main(arguments(inputs, str(inputs / "pairs"))) == 130
    assert capsys.readouterr().err == "stopped; no manifest was made\n"


def test_schemes_that_the_job_must_allow_are_named(inputs, s3, capsys, tmp_path):
    options, bucket = s3
    (tmp_path / "c.yaml").write_text(f"storage_options: {options}")
    more = ("--config", str(tmp_path / "c.yaml"))
    assert make_manifest.main(arguments(inputs, f"s3://{bucket}/pairs", *more)) == 0
    said = capsys.readouterr().out
    command = f"python -m jobs.stylize --manifest s3://{bucket}/pairs --output OUTPUT"
    assert f"next: {command} --allow-schemes file\n" in said


def test_a_manifest_called_as_a_pattern_is_replaced_alone(inputs, s3, tmp_path):
    options, bucket = s3
    (tmp_path / "c.yaml").write_text(f"storage_options: {options}")
    more = ("--config", str(tmp_path / "c.yaml"))
    for name in ("pairs1", "pairs[1]"):
        assert make_manifest.main(arguments(inputs, f"s3://{bucket}/{name}", *more)) == 0
    before = files.list_files(f"s3://{bucket}", options)
    again = (*more, "--overwrite")
    assert make_manifest.main(arguments(inputs, f"s3://{bucket}/pairs[1]", *again)) == 0
    assert files.list_files(f"s3://{bucket}", options) == before
    assert open_manifest(f"s3://{bucket}/pairs[1]", options).rows > 0


def test_a_signed_address_of_labels_is_not_shown(capsys):
    labels = "https://user:SECRET@h/l.csv?X-Amz-Signature=SECRET"
    settings = ManifestSettings(content="c", style="s", output="o", labels=labels, label_from="csv")
    make_manifest.print_summary(Built(unmet_labels=1), settings)
    said = capsys.readouterr().out
    assert "warning: https://h/l.csv names 1 file that" in said
    assert "SECRET" not in said
