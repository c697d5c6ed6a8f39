"""Two folders in place of a manifest: what is made of them, and what is refused."""

import argparse

import pyarrow.parquet as pq
import pytest

from jobs import _cli, _folders, _parser, stylize, verify
from pipeline.data.output import lease
from pipeline.settings import SettingError
from tests.conftest import image_bytes


@pytest.fixture
def folders(tmp_path):
    """Three photographs in two classes and two paintings; the options that name them."""
    for name in ("photos/cat/a.png", "photos/cat/b.png", "photos/dog/c.png", "art/x.png",
                 "art/y.png"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(len(name), 64, 64))
    return ["--content", f"{tmp_path}/photos", "--style", f"{tmp_path}/art"]


def settle(*argv):
    kinds = _cli.JOB_KINDS
    (job, _, given), _ = _cli.read_options(list(argv), argparse.ArgumentParser(), kinds)
    return _folders.settle(job, given)


def ids_of(manifest):
    return pq.read_table(manifest)["pair_id"].to_pylist()


def test_the_manifest_is_in_the_output_and_new_images_are_new_pairs(folders, tmp_path):
    output = ["--output", f"{tmp_path}/out"]
    job, settings = settle(*folders, *output)
    assert job.manifest == f"{tmp_path}/out/manifest"
    with _folders.made(settings, job) as made:
        assert made == job
    first = ids_of(job.manifest)
    assert sorted(name.partition("--")[0] for name in first) == ["a", "b", "c"]
    with _folders.made(settings, job):
        assert ids_of(job.manifest) == first
    (tmp_path / "photos" / "dog" / "d.png").write_bytes(image_bytes(1, 64, 64))
    with _folders.made(settings, job):
        assert set(ids_of(job.manifest)) > set(first)
        assert len(ids_of(job.manifest)) == 4
    job, settings = settle(*folders, *output, "--mode", "cross", "--label-from", "parent")
    with _folders.made(settings, job):
        assert len(ids_of(job.manifest)) == 8
        assert "cat--a--x--" in " ".join(ids_of(job.manifest))


def test_a_dry_run_writes_nothing_and_takes_the_same_pairs(folders, tmp_path, capsys):
    (tmp_path / "photos" / "d.heic").write_text("of a telephone")
    command = [*folders, "--output", f"{tmp_path}/out", "--weights", "compact"]
    more = ("--image-size", "64", "--dry-run", "--price-per-gpu-hour", "2")
    assert stylize.main([*command, *more]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("3 pairs of 3 content images and 2 styles; skipped: 1 .heic\n")
    assert "3 pairs in the manifest, 3 to do" in said.out
    assert "; the price of a GPU says nothing here, as the job asks for none\n" in said.out
    assert not (tmp_path / "out").exists()


def test_folders_of_another_scheme_than_the_output_are_allowed():
    job, settings = settle("--content", "./photos", "--style", "https://h/x.png", "--output",
                           "s3://b/out", "--allow-schemes", "http")  # fmt: skip
    assert job.allow_schemes == ("http", "file", "https")
    assert settings.output == job.manifest == "s3://b/out/manifest"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--content", "c", "--manifest", "m"], "content and manifest exclude each other: leave"),
        (["--style", "s", "--manifest", "m"], "style and manifest exclude each other: leave out"),
        (["--content", "c"], "style: is missing; give a folder of images, as with --content"),
        (["--style", "s"], "content: is missing; give a folder of images, as with --style"),
        (["--manifest", "m", "--mode", "cross"], "mode: needs --content and --style; for a manif"),
        ([], "manifest: is missing; give --manifest, a table of pairs, or --content and --style"),
        (["--content", "c", "--style", "s", "--output", ""], "output: is missing"),
        (
            ["--content", "c", "--style", "s", "--output", "c/out"],
            "output: c/out is in the cont",
        ),
        (["--content", "c", "--style", "s", "--output", "s"], "output: s is in the style folder"),
        (
            ["--content", "c/**/*.png", "--style", "s", "--output", "c/o"],
            "is in the content f",
        ),
        (["--content", "c", "--style", "s", "--mode", "all"], "mode: 'all' is not one of: cross"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_remedy(argv, message):
    with pytest.raises(SettingError, match=message.replace("**", r"\*\*")):
        settle("--output", "out", *argv)


@pytest.mark.parametrize(
    ("job", "option", "owners"),
    [
        ("verify", "--content", "stylize and python -m jobs.make_manifest"),
        ("report", "--image-size", "stylize"),
        ("make_manifest", "--manifest", "stylize"),
    ],
)
def test_an_option_of_another_command_is_told_whose_it_is(job, option, owners):
    with pytest.raises(SettingError, match=f"^{option}: is no option here, but of .*{owners}$"):
        _cli.read_options([option, "x"], _parser.new_parser(job, ""), _cli.JOB_KINDS, ("output",)
                          ) if job != "make_manifest" else _cli.read_options(
            [option, "x"], _parser.new_parser(job, ""), _cli.KINDS[job])  # fmt: skip


def test_what_cannot_be_made_ends_with_2_and_one_line(folders, tmp_path, capsys, monkeypatch):
    output = f"{tmp_path}/out"
    with lease.hold(output, {}, lost=lambda: None):
        assert stylize.main([*folders, "--output", output]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: output {output}: ")
    assert not (tmp_path / "out" / "manifest").exists()
    (tmp_path / "empty").mkdir()
    assert stylize.main([*folders[:3], f"{tmp_path}/empty", "--output", output]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds no image" in line
    (tmp_path / "out" / "manifest").mkdir(parents=True)
    (tmp_path / "out" / "manifest" / "mine.txt").write_text("x")
    assert stylize.main([*folders, "--output", output]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds 'mine.txt', which make_manifest did not write" in line


def test_verify_takes_the_manifest_of_the_two_folders(folders, tmp_path, capsys):
    output = f"{tmp_path}/out"
    assert verify.main(["--output", output]) == 2
    assert "manifest: is missing, and the output holds none; give the" in capsys.readouterr().err
    job, settings = settle(*folders, "--output", output)
    with _folders.made(settings, job):
        assert verify._with_manifest({"output": output}).manifest == job.manifest
