"""What a manifest or a storage may not make a job do, and what a job may not give away."""

import contextlib
import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

from pipeline.data.errors import RowError
from pipeline.data.manifest.manifest import ManifestError, open_manifest
from pipeline.data.output import records
from pipeline.data.storage import files, tables
from tests.conftest import image_bytes
from tests.processes import descendants

ROOT = Path(__file__).parents[1]
SECRET = "MARKEDSECRET"
LOOPBACK = re.compile(r"0100007F|0{24}0100007F|0{16}FFFF00000100007F|0{24}01000000")


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def pickled_table(path) -> pa.Table:
    values = pa.array([pickle.dumps(Payload(path))], pa.large_binary())
    column = pa.ExtensionArray.from_storage(ArrowPythonObjectType(), values)
    return pa.table({"pair_id": column, "content_uri": ["c"], "style_uri": ["s"]})


def test_nothing_from_storage_is_unpickled(tmp_path):
    trap = tmp_path / "sprung"
    table = pickled_table(trap)
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match=r"'pair_id' has the Python type ray\.data\.arrow_"):
        open_manifest(str(tmp_path / "m.parquet"), {})
    (tmp_path / "out" / "records").mkdir(parents=True)
    pq.write_table(table, tmp_path / "out" / "records" / "a.parquet")
    with pytest.raises(RowError, match="which is unpickled when read and could run any code"):
        list(records.iterate(str(tmp_path / "out"), {}, ["pair_id"]))
    with pytest.raises(RowError, match="which is unpickled when read and could run any code"):
        tables.read_table(str(tmp_path / "m.parquet"), {})
    assert not trap.exists()
    table["pair_id"].to_pylist()
    assert trap.exists(), "the trap itself works"


@pytest.mark.usefixtures("forked_commands")
def test_a_job_gives_no_secret_away_and_its_ray_listens_on_loopback(s3, weights_file, tmp_path):
    """All that a job writes is searched: its output, its words, and Ray's own logs."""
    options, bucket = s3
    base = f"s3://{bucket}"
    for seed, name in enumerate(("c.png", "s.png")):
        files.write_bytes(f"{base}/{name}", image_bytes(seed, 64, 64), options)
    signed = f"https://user:{SECRET}@127.0.0.1:9/x.png?X-Amz-Signature={SECRET}"
    rows = [
        {"pair_id": "a", "content_uri": "c.png", "style_uri": "s.png"},
        {"pair_id": "b", "content_uri": signed, "style_uri": "s.png"},
    ]
    for spoiled in (  # as they come out of tables and shells
        f" {signed}", f'"{signed}"', signed.replace("//", "/"), f"user:{SECRET}@127.0.0.1:9/x",
        f"https://user:{SECRET}?{SECRET}@127.0.0.1:9/x", f"https://u:x@{SECRET}/y@127.0.0.1:9/x",
    ):  # fmt: skip
        row = {"content_uri": "c.png", "style_uri": spoiled}
        rows.append({"pair_id": f"p{len(rows)}", **row})
    tables.write_table(f"{base}/m.parquet", pa.Table.from_pylist(rows), options)
    (tmp_path / "job.yaml").write_text(
        f"storage_options: {{s3: {{endpoint_url: {options['s3']['endpoint_url']}, "
        f"key: test, secret: {SECRET}}}}}\n"
    )
    command = [
        *(sys.executable, "-m", "jobs.stylize", "--config", str(tmp_path / "job.yaml")),
        *("--manifest", f"{base}/m.parquet", "--output", f"{base}/out", "--verbose"),
        *("--weights", str(weights_file), "--image-size", "64", "--iterations", "4"),
        *("--scales", "1", "--allow-schemes", "https", "--actors", "1"),
    ]
    with tempfile.TemporaryDirectory(prefix="ray") as place:  # sockets want a short path
        environment = {k: v for k, v in os.environ.items() if k != "RAY_AUTH_MODE"}
        environment |= {"RAY_TMPDIR": place, "AWS_SECRET_ACCESS_KEY": SECRET}
        environment["RAY_enable_export_api_write"] = "1"  # Ray's metadata of data sets, for tools
        with (tmp_path / "said").open("wb") as said:
            job = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
            seen, strangers = set(), []
            while job.poll() is None:
                seen |= listening(job.pid)
                if not strangers:
                    strangers += [stranger(at) for at in control_services(job.pid)][:1]
                time.sleep(1)
            (answer, _) = strangers[0].communicate(timeout=60)
        text = (tmp_path / "said").read_text()
        assert job.returncode == 1, text  # the signed rows' server is not there
        assert "1 picture and 7 errors from 8 pairs" in text
        (folder,) = Path(place).iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert f"Ray's logs are kept in {folder}" in text
        written = [path for path in Path(place).rglob("*") if path.is_file()]
        told = [path.read_text() for path in written if "DATASET_METADATA" in path.name]
        assert any("StyleActor" in text for text in told)
        assert any("raylet" in path.name for path in written), "Ray's logs are elsewhere"
        assert [str(path) for path in written if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in text
    assert "InvalidAuthToken" in answer, answer
    for uri in files.list_files(f"{base}/out", options):
        data = files.read_bytes(uri, options)
        if uri.endswith(".parquet"):
            data += str(tables.read_table(uri, options).to_pylist()).encode()
        assert SECRET.encode() not in data, uri
    assert len(seen) >= 4, "Ray's ports were not found"
    assert [at for at in seen if not LOOPBACK.fullmatch(at.partition(":")[0])] == []


def control_services(parent) -> set[str]:
    """The addresses of Ray's control service that descendants of a process were given."""
    lines = []
    for pid in descendants(parent):
        with contextlib.suppress(OSError):
            lines.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode())
    return set(re.findall(r"--gcs[-_]address=([\d.]+:\d+)", " ".join(lines)))


def stranger(address: str) -> "subprocess.Popen[str]":
    """Have a process without the token ask a Ray for what its processes have told each other."""
    code = f"import ray._raylet as r; print(r.GcsClient({address!r}).internal_kv_keys(b''))"
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], **pipe)


def listening(parent) -> set[str]:
    """Where a process or a descendant of it listens, as /proc writes addresses and ports."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                sockets[fields[9]] = fields[1]
    found = set()
    for pid in descendants(parent):
        try:
            links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
        found |= {sockets[inode] for inode in inodes & sockets.keys()}
    return found
