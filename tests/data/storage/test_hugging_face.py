"""``hf://datasets/...`` through huggingface_hub, against a hub on loopback."""

import json
import re
import subprocess
import sys
import urllib.parse

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.manifest import planning
from pipeline.data.manifest.manifest import ManifestError, base_of, open_manifest
from pipeline.data.manifest.rows import RowChecker
from pipeline.data.storage import files
from tests.web_server import Handler, serving

API = "/api/datasets/me/set"


class Hub(Handler):
    """As much of the hub as fsspec needs to list and read the files in ``server.files``."""

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.server.seen.append(path)
        sha = "0" * 40
        found = re.fullmatch(rf"{API}(?:/revision/main)?", path)
        tree = re.fullmatch(rf"{API}/tree/(?:main|{sha})/?(.*)", path)
        file = re.fullmatch(rf"/datasets/me/set/resolve/(?:main|{sha})/(.*)", path)
        if found:
            return self.answer({"id": "me/set", "sha": sha, "siblings": [], "tags": []})
        if tree:
            return self.answer(self.entries(tree[1]))
        if file and file[1] in self.server.files:
            return self.send(self.server.files[file[1]])
        return self.answer({"error": "not found"}, 404, {"X-Error-Code": "EntryNotFound"})

    def do_POST(self):
        given = self.rfile.read(int(self.headers["Content-Length"])).decode()
        paths = urllib.parse.parse_qs(given).get("paths") or json.loads(given)["paths"]
        self.server.seen.append(f"{self.path} {paths}")
        names = self.server.files.keys() & {*paths}
        self.answer([self.entry(name) for name in names])

    def do_HEAD(self):
        self.do_GET()

    def entries(self, folder):
        prefix = f"{folder}/" if folder else ""
        below = [name[len(prefix) :] for name in self.server.files if name.startswith(prefix)]
        inside = {name.split("/")[0] for name in below}
        return [self.entry(f"{prefix}{name}") for name in sorted(inside)]

    def entry(self, name):
        data = self.server.files.get(name)
        if data is None:
            return {"type": "directory", "path": name, "oid": "0"}
        return {"type": "file", "path": name, "oid": "0", "size": len(data)}

    def answer(self, value, status=200, headers=()):
        self.send(json.dumps(value).encode(), status, headers)

    def send(self, data, status=200, headers=()):
        asked = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked:
            status, data = 206, data[int(asked[1]) : int(asked[2]) + 1]
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"0"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    """A hub with the data set ``me/set``: (its files, requests seen, storage options)."""
    # Other tests keep the library from the network; this hub is on loopback.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with serving(Hub, files={}, seen=[]) as server:
        yield server.files, server.seen, {"hf": {"endpoint": server.url, "token": False}}


def table(values) -> bytes:
    images = [{"bytes": value, "path": None} for value in values]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"content_image": pa.array(images, kind), "style_uri": ["../s.png"] * len(values)}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def test_a_data_set_on_the_hub_is_a_manifest(hub):
    stored, seen, options = hub
    stored["data/train-00000-of-00002.parquet"] = table([b"a", b"b"])
    stored["data/train-00001-of-00002.parquet"] = table([b"c"])
    stored["s.png"] = b"style"
    source = "hf://datasets/me/set/data"
    manifest = open_manifest(source, options)
    checker = RowChecker(base_of(source, options), "f", frozenset({"hf"}))
    (first, second) = planning.planned_slices(manifest, checker, None)
    rows = [*first, *second]
    assert rows[2]["content_uri"] == (
        f"{source}/train-00001-of-00002.parquet#image=content_image&group=0&row=0"
    )
    assert [files.read_bytes(row["content_uri"], options) for row in rows] == [b"a", b"b", b"c"]
    assert files.read_bytes(rows[0]["style_uri"][0], options) == b"style"
    assert files.version(rows[0]["content_uri"], options)
    before = len(seen)
    assert files.read_bytes(rows[2]["content_uri"], options) == b"c"
    assert len(seen) == before, "the row group and the file's version are kept"
    with pytest.raises(ManifestError, match="does not exist"):
        open_manifest("hf://datasets/me/set/none.parquet", options)


WITHOUT = """
import sys
sys.modules["huggingface_hub"] = None
from pipeline.data.manifest.manifest import ManifestError, open_manifest
from pipeline.data.storage import files
from pipeline.data.errors import RowError
for read in (open_manifest, files.read_bytes):
    try:
        read("hf://datasets/me/set/a.parquet", {})
    except (ManifestError, RowError) as error:
        print(error)
"""


def test_without_huggingface_hub_one_line_says_what_to_install():
    command = [sys.executable, "-c", WITHOUT]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = (
        "hf://datasets/me/set/a.parquet: hf:// needs a package that is not installed: pip install "
        "huggingface_hub"
    )
    assert output.splitlines() == [f"manifest {line}", line]
