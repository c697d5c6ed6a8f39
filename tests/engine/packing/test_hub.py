"""Uploading shards to a stand-in for the Hugging Face Hub; the real one has not been tried."""

import hashlib
import json
import os
import subprocess
import sys

import huggingface_hub.constants
import pytest

from jobs import stylize
from pipeline.data.output import packing
from pipeline.data.storage import files
from pipeline.engine.packing import hub
from pipeline.settings import JobSettings, SettingError, replace
from tests import stand_in_hub
from tests.stand_in_hub import TOKEN

OLD, OTHER = "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"
NAMES = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]


@pytest.fixture
def server(monkeypatch):
    # Other tests keep the library from the network; this hub is on loopback.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with stand_in_hub.running() as server:
        yield server


def pack(job, contents, digest="d"):
    """Put a format's folder there as a packing leaves it."""
    folder = f"{job.output}/{job.format}"
    shards = []
    for name, data in contents.items():
        files.write_bytes(f"{folder}/{name}", data, {})
        digest_of = hashlib.sha256(data).hexdigest()
        shards.append(packing.Shard(name, "train", 1, len(data), digest_of))
    files.write_bytes(f"{folder}/README.md", b"# A card\n", {})
    packing.write_index(folder, packing.Index(job.format, 9, digest, {"a": 0}, tuple(shards)), {})


@pytest.fixture
def job(server, tmp_path):
    options = {"hf": {"endpoint": server.url, "token": TOKEN}}
    job = JobSettings(
        manifest="m", output=str(tmp_path / "out"), format="parquet", push_to_hub="me/set",
        storage_options=options,
    )  # fmt: skip
    pack(job, dict(zip(NAMES, (b"one", b"two"), strict=True)))
    return job


def test_shards_are_uploaded_once_and_old_ones_are_deleted(server, job):
    mark = json.dumps(["data/gone.parquet", OLD]).encode()
    server.files = {".gitattributes": b"", OTHER: b"of others", OLD: b"old", hub.MARK: mark}
    hub.open_repository(job)
    assert server.created["me/set"]["visibility"] == "private"
    assert server.created["me/set"]["type"] == "dataset"
    assert hub.push(job) == {
        "repository": f"{server.url}/datasets/me/set",
        "uploaded": 3, "there": 0, "deleted": 1,
    }  # fmt: skip
    assert json.loads(server.files.pop(hub.MARK)) == NAMES
    kept = {".gitattributes": b"", OTHER: b"of others", "README.md": b"# A card\n"}
    assert server.files == {**kept, NAMES[0]: b"one", NAMES[1]: b"two"}
    server.files[hub.MARK] = mark
    server.seen.clear()
    server.files["README.md"] = b"edited there"
    pack(job, {NAMES[0]: b"one", NAMES[1]: b"other"})
    hub.open_repository(job)
    again = hub.push(job)
    assert (again["uploaded"], again["there"], again["deleted"]) == (1, 1, 0)
    assert server.seen.count("PUT /lfs") == 1
    assert server.files[NAMES[1]] == b"other"
    assert server.files["README.md"] == b"edited there"
    server.seen.clear()
    assert hub.push(job)["uploaded"] == 0
    assert not [request for request in server.seen if "commit" in request]


def test_a_repository_with_the_shards_of_others_is_refused(server, job):
    server.files = {"README.md": b"", OTHER: b"of others"}
    with pytest.raises(SettingError, match=r"me/set holds data/test-0.*did not upload; choose"):
        hub.open_repository(job)


def test_tars_go_with_their_list_of_classes(server, job):
    job = replace(job, format="webdataset")
    pack(job, {"train-000000.tar": b"tar"})
    assert hub.push(job)["uploaded"] == 3
    assert server.files.keys() == {"train-000000.tar", "classes.json", "README.md", hub.MARK}
    assert hub.push(job)["uploaded"] == 0


def test_the_address_and_the_token_may_be_in_the_environment(server, job):
    code = (
        "from pipeline.engine.packing import hub; from pipeline.settings import JobSettings\n"
        f"job = JobSettings(manifest='m', output={job.output!r}, format='parquet', "
        "push_to_hub='me/set')\n"
        "hub.open_repository(job)\nprint(hub.push(job)['uploaded'])"
    )
    settings = {"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    env = {**os.environ, **settings, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
    )
    assert done.stdout == "3\n"
    assert NAMES[0] in server.files


@pytest.mark.parametrize(
    ("options", "refuses"),
    [
        ({"token": "hf_wrongMARKEDSECRET"}, ""),
        ({"token": TOKEN}, "/auth-check/write"),
        ({"token": TOKEN, "endpoint": "http://127.0.0.1:9"}, ""),
    ],
    ids=["unknown token", "no right to write", "no hub"],
)
def test_a_repository_that_cannot_be_written_is_refused_in_one_line(server, job, options, refuses):
    server.refuses = refuses
    given = {"hf": {"endpoint": server.url, **options}}
    with pytest.raises(SettingError) as caught:
        hub.open_repository(replace(job, storage_options=given))
    (line,) = str(caught.value).splitlines()
    assert line.startswith("push_to_hub: the data set me/set cannot be written (")
    assert "hf auth login" in line
    assert "SECRET" not in line


def test_an_upload_that_fails_says_that_the_shards_are_whole(server, job):
    server.refuses = "/commit/"
    with pytest.raises(hub.PushError) as caught:
        hub.push(job)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("push_to_hub: me/set: ")
    assert line.endswith("the same command uploads what is missing")
    assert "SECRET" not in line
    server.refuses = ""
    assert hub.push(job)["uploaded"] == 3
    packing.write_index(f"{job.output}/parquet", packing.Index("parquet", 9), {})
    with pytest.raises(hub.PushError, match="holds no finished shards"):
        hub.push(job)


def test_without_the_package_a_job_ends_before_it_begins(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    asked = ["--manifest", str(tmp_path / "m.parquet"), "--output", str(tmp_path / "out")]
    for more, message in (
        (["--push-to-hub", "me/set", "--format", "parquet"], "pip install huggingface_hub"),
        (["--push-to-hub", "me/set"], "add --format parquet or webdataset"),
        (["--push-to-hub", "set", "--format", "parquet"], "'set' is no repository; give OWNER/"),
    ):
        for dry in ([], ["--dry-run"]):
            assert stylize.main([*asked, *more, *dry, "--quiet"]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith("error: push_to_hub: ")
            assert message in line
    assert not (tmp_path / "out").exists()
