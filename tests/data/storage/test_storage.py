import collections
import contextlib
import gzip
import os
import stat
import threading
import time
import tracemalloc

import pyarrow.fs
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.data.errors import RowError
from pipeline.data.manifest.manifest import ManifestError, open_manifest
from pipeline.data.storage import files, filesystems, local, uris, web
from tests.conftest import within
from tests.web_server import Handler, serving


def test_reads_and_writes_on_s3_and_locally(s3, tmp_path):
    options, bucket = s3
    for base in (f"s3://{bucket}/a", str(tmp_path / "a"), f"file://{tmp_path}/b"):
        uri = uris.join(base, "deep", "file.bin")
        assert not files.exists(uri, options)
        files.write_bytes(uri, b"one", options)
        files.write_bytes(uri, b"two", options)
        assert files.read_bytes(uri, options) == b"two"
        (found,) = files.list_files(base, options)
        assert files.read_bytes(found, options) == b"two"
        assert files.list_files(base, options, ".png") == []
        files.delete(base, options)
        files.delete(base, options)
        assert files.list_files(base, options) == []


def test_an_object_that_is_replaced_has_another_version(s3, tmp_path):
    options, bucket = s3
    for uri in (f"s3://{bucket}/a", str(tmp_path / "a")):
        assert files.version(uri, options) is None
        files.write_bytes(uri, b"one", options)
        first = files.version(uri, options)
        assert first == files.version(uri, options)
        files.write_bytes(uri, b"two", options)
        assert None not in (first, files.version(uri, options))
        assert first != files.version(uri, options)
    assert files.version("https://127.0.0.1:1/a", {}) is None


@pytest.mark.parametrize("name", ["out[1]", "out?", "out*"])
def test_a_name_with_a_patterns_letters_stands_for_itself_alone(s3, name):
    options, bucket = s3
    base = f"s3://{bucket}"
    others = [f"{base}/out1/lease", f"{base}/out1/plan/a", f"{base}/out2/lease"]
    mine = [f"{base}/{name}/lease", f"{base}/{name}/plan/a", f"{base}/{name}/plan/b[1].png"]
    for uri in (*others, *mine):
        files.write_bytes(uri, b"x", options)
    assert files.is_folder(f"{base}/{name}/plan", options)
    assert files.list_files(f"{base}/{name}", options) == mine
    files.delete(f"{base}/{name}/lease", options)
    assert not files.exists(mine[0], options)
    assert not files.exists(f"{base}/{name}/leas[e]", options)
    files.delete_files(mine[1:2], options)
    files.delete(f"{base}/{name}/plan", options)
    files.delete(f"{base}/{name}", options)
    assert files.list_files(base, options) == others


def test_files_have_the_scheme_that_their_folder_was_given_by(s3):
    options, bucket = s3
    options = {"s3a": options["s3"]}
    files.write_bytes(f"s3a://{bucket}/out/a b.bin", b"x", options)
    (found,) = files.list_files(f"S3A://{bucket}/out/", options)
    assert found == f"s3a://{bucket}/out/a b.bin"
    assert files.read_bytes(found, options) == b"x"


def test_what_a_console_makes_for_a_folder_is_no_file(s3):
    options, bucket = s3
    fs, _ = filesystems.filesystem("s3://x", options)
    out = f"s3://{bucket}/out"
    for key in ("out/", "out/images/", "out/images/cat/"):
        fs.call_s3("put_object", Bucket=bucket, Key=key, Body=b"")
    assert files.list_files(f"{out}/images", options) == []
    assert files.sizes(f"{out}/images", options) == {}
    files.write_bytes(f"{out}/images/cat/a.png", b"x", options)
    assert files.sizes(f"{out}/images", options) == {"cat/a.png": 1}
    assert files.names_in(out, options) == ["images"]
    arrow, path = filesystems.arrow_filesystem(out, options)
    found = arrow.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
    assert [info.base_name for info in found if info.is_file] == ["a.png"]
    files.delete(out, options)
    assert fs.find(bucket) == []


def test_a_storage_that_is_not_there_is_a_row_error_without_its_password():
    uri = "nosuch://user:SECRET@host/out"
    for call in (
        files.exists, files.is_folder, files.list_files, files.names_in, files.delete,
    ):  # fmt: skip
        with pytest.raises(RowError, match=r"^nosuch://host/out: cannot be (read|deleted): Val"):
            call(uri, {})


def test_a_storage_that_denies_access_is_told_apart(monkeypatch):
    def denied(*_, **__):
        raise PermissionError("Forbidden: https://user:SECRET@h/x?sig=SECRET")

    uri = "memory://bucket/x"
    files.write_bytes(uri, b"x", {})
    for name in ("cat_file", "_open", "pipe_file", "rm", "find", "ls", "isdir"):
        monkeypatch.setattr(MemoryFileSystem, name, denied)
    for call in (
        *(lambda: files.read_bytes(uri, {}), lambda: files.read_bytes(uri, {}, 9)),
        *(lambda: files.write_bytes(uri, b"y", {}), lambda: files.delete(uri, {})),
        *(lambda: files.list_files(uri, {}), lambda: files.names_in(uri, {})),
        *(lambda: files.is_folder(uri, {}), lambda: list(files.read_chunks(uri, {}))),
    ):
        with pytest.raises(RowError, match=r"^memory://bucket/x: access denied: P") as caught:
            call()
        assert caught.value.error_class == "access_denied"
        assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("folder", ["my photos", "my%20photos"])
@pytest.mark.parametrize("before", ["", "file://", "FILE://", "file:", "file://localhost"])
def test_a_local_file_is_found_by_any_spelling_of_its_path(tmp_path, folder, before):
    path = tmp_path / folder / "a.png"
    files.write_bytes(str(path), b"x", {})
    for uri in (f"{before}{path}", path.as_uri()):
        full = uris.resolve(uri, "s3://bucket/m")
        uris.check_scheme(full, frozenset({"file"}))
        assert files.read_bytes(full, {}) == b"x"
        assert uris.absolute(uri) == str(path)
    fresh = uris.absolute((tmp_path / "my out").as_uri())
    assert fresh == str(tmp_path / "my out")


def test_a_file_is_written_without_a_look_at_the_process_umask(tmp_path, monkeypatch):
    """Reading the umask means setting it, for all threads; the system applies it by itself."""
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.delattr(os, "umask")
            files.write_bytes(str(tmp_path / "a"), b"x", {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_browser_is_told_what_an_object_on_s3_is(s3):
    options, bucket = s3
    fs, _ = filesystems.filesystem("s3://x", options)
    names = {
        "report.html": "text/html; charset=utf-8", "job.json": "application/json",
        "images/a.png": "image/png", "a.jpg": "image/jpeg", "a.webp": "image/webp",
        "a.tar": "binary/octet-stream", "html": "binary/octet-stream",
    }  # fmt: skip
    for name, kind in names.items():
        files.write_bytes(f"s3://{bucket}/{name}", b"x", options)
        assert fs.info(f"{bucket}/{name}")["ContentType"] == kind, name


@pytest.mark.parametrize("missing", ["none.bin", "none/none.bin"])
def test_missing_objects_are_row_errors(s3, tmp_path, missing):
    options, bucket = s3
    for base in (f"s3://{bucket}", str(tmp_path)):
        with pytest.raises(RowError, match="does not exist") as caught:
            files.read_bytes(uris.join(base, missing), options)
        assert caught.value.error_class == "not_found"


PIECES = [os.urandom(50_000) for _ in range(8)]


class Answers(Handler):
    """``/503``: that status. ``/503/2``: that status twice per method, then a file."""

    def do_GET(self):
        self.server.seen[self.command] += 1
        status, _, bad = self.path[1:].partition("?")[0].partition("/")
        if bad and self.server.seen[self.command] > int(bad):
            status = 200
        self.send_response(int(status))
        self.end_headers()  # no Content-Length: the file ends with the connection
        if int(status) == 200 and self.command == "GET":
            with contextlib.suppress(ConnectionError):  # clients may hang up at any time
                for piece in PIECES:
                    self.wfile.write(piece)


@pytest.fixture
def website(monkeypatch):
    """A real web server; its ``seen`` counts requests."""
    monkeypatch.setattr(web, "PAUSE", 0.001)
    with serving(Answers, seen=collections.Counter()) as server:
        server.url = server.url.replace("//", "//user:SECRET@")
        yield server


@pytest.mark.parametrize("most", [None, 1000])
@pytest.mark.parametrize(
    ("status", "error_class", "tries"),
    [
        (404, "not_found", 1),
        (410, "not_found", 1),
        (401, "access_denied", 1),
        (403, "access_denied", 1),
        (400, "read_failed", 1),
        (429, "read_failed", 4),
        (500, "read_failed", 4),
        (503, "read_failed", 4),
    ],
)
def test_what_a_web_server_answers_is_told_apart(website, status, error_class, tries, most):
    with pytest.raises(RowError) as caught:
        files.read_bytes(f"{website.url}/{status}?Sig=SECRET", {}, most)
    assert caught.value.error_class == error_class
    assert website.seen["GET"] == tries
    assert ("does not exist" if error_class == "not_found" else str(status)) in str(caught.value)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "does not exist"),
        (403, "access denied: the server answers 403"),
        (503, "cannot be read: the server answers 503"),
    ],
)
def test_what_a_web_server_answers_to_a_manifest_is_told_apart(website, status, message):
    shown = f"http://127.0.0.1:{website.server_port}/{status}"
    with pytest.raises(ManifestError) as caught:
        open_manifest(f"{website.url}/{status}?Sig=SECRET", {})
    assert str(caught.value) == f"manifest {shown}: {message}"


@pytest.mark.parametrize("most", [None, 10**6])
def test_a_web_server_that_was_busy_is_asked_again_and_its_file_read_whole(website, most):
    uri = f"{website.url}/503/3"
    assert files.read_bytes(uri, {}, most) == b"".join(PIECES)
    with pytest.raises(RowError, match="more than max_bytes = 60000 bytes"):
        files.read_bytes(uri, {}, 60_000)


class Endless(Handler):
    """Sends 100 MB, whatever it is asked for. At ``/told`` it states the length, and at ``/packed``
    it compresses the data without being asked to.
    """

    def do_GET(self):
        if self.path == "/packed":
            assert self.headers["Accept-Encoding"] == "identity"
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(self.server.packed)
            return
        self.send_response(206 if "Range" in self.headers else 200)
        if self.path == "/told":
            self.send_header("Content-Length", str(100 * 2**20))
        if self.command == "HEAD":
            self.send_header("Content-Length", "1000")
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.path == "/told":
            self.server.asked_on.wait(20)  # the client must not wait for this
        with contextlib.suppress(ConnectionError):
            for _ in range(100 if self.command == "GET" else 0):
                self.wfile.write(bytes(2**20))
                self.server.sent += 1


@pytest.mark.parametrize("path", ["untold", "told", "packed"])
def test_a_server_that_sends_more_than_it_is_asked_for_is_hung_up_on(path):
    with serving(Endless, sent=0, asked_on=threading.Event()) as server:
        uri = f"{server.url}/{path}"
        files.read_bytes(uri.replace(path, "untold"), {}, 2**30)  # all of it, with its buffers
        assert server.sent == 100
        server.packed = gzip.compress(bytes(100 * 2**20))
        server.sent, started = 0, time.monotonic()
        tracemalloc.start()
        with pytest.raises(RowError, match="more than max_bytes = 1048576 bytes") as caught:
            files.read_bytes(uri, {}, 2**20)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert time.monotonic() - started < 15, "it was waited for"
        server.asked_on.set()
        assert caught.value.error_class == "file_too_large"
        assert server.sent <= 30, "buffers of the system hold some MB"
        assert peak < 12 * 2**20


@pytest.mark.parametrize("host", ["127.0.0.1:9", "no-such-host.invalid"])
def test_a_web_server_that_is_away_is_no_missing_file(monkeypatch, host):
    pauses = []
    monkeypatch.setattr(web.time, "sleep", pauses.append)
    monkeypatch.setattr(web.random, "uniform", lambda least, most: (least, most))
    with pytest.raises(RowError, match=rf"http://{host}/x.png: cannot be read: Client") as caught:
        files.read_bytes(f"http://user:SECRET@{host}/x.png", {}, 1000)
    assert caught.value.error_class == "read_failed"
    assert pauses == [(0, 1), (0, 2), (0, 4)]


@pytest.mark.parametrize("base", ["", "file://"])
def test_a_local_path_that_is_no_file_is_not_waited_for(tmp_path, base):
    os.mkfifo(tmp_path / "pipe")
    os.symlink("pipe", tmp_path / "link")
    for uri in (f"{base}{tmp_path}/pipe", f"{base}{tmp_path}/link", f"{base}{tmp_path}"):
        for read in (
            lambda uri=uri: files.read_bytes(uri, {}, 1000),
            lambda uri=uri: files.read_bytes(uri, {}),
            lambda uri=uri: list(files.read_chunks(uri, {})),
        ):
            with (
                within(10),
                pytest.raises(RowError, match="is a folder, a pipe, a device or a") as caught,
            ):
                read()
            assert caught.value.error_class == "read_failed"
            assert str(caught.value).startswith(uri)


def test_what_the_kernel_shows_as_files_is_refused_unread(tmp_path, monkeypatch):
    os.symlink("/proc/kmsg", tmp_path / "link")
    monkeypatch.setattr("builtins.open", lambda *_, **__: pytest.fail("it was opened"))
    monkeypatch.setattr("io.open", lambda *_, **__: pytest.fail("it was opened"))
    for path in ("/proc/kmsg", "/proc/self/mem", "/sys/kernel/mm", "/dev/zero", tmp_path / "link"):
        with pytest.raises(RowError, match="a kernel file; give a regular file") as caught:
            files.read_bytes(str(path), {}, 1000)
        assert caught.value.error_class == "read_failed"
    for path in ("/dev/zero", tmp_path / "link"):
        with pytest.raises(ManifestError, match="is a pipe or a device, not a file"):
            open_manifest(str(path), {})


def test_a_file_of_the_kernel_is_known_by_its_folder_and_by_its_device(tmp_path, monkeypatch):
    """``/sys`` contains other devices, and ``/proc`` may be mounted elsewhere as well."""
    (tmp_path / "x").touch()
    assert not local.is_special(str(tmp_path / "x"))
    monkeypatch.setattr(local, "KERNEL", ("/proc", str(tmp_path)))
    assert local.is_special(str(tmp_path / "x"))
    real, moved = os.path.realpath, ("/proc/self/status", str(tmp_path / "x"))
    monkeypatch.setattr(
        os.path, "realpath", lambda path, **how: "/other" if path in moved else real(path, **how)
    )
    assert not local.is_special(str(tmp_path / "x"))
    assert local.is_special("/proc/self/status")


def test_a_local_file_is_replaced_whole_and_leaves_nothing_behind(tmp_path, monkeypatch):
    target = tmp_path / "image.png"
    files.write_bytes(str(target), b"old", {})

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RowError, match="No space left") as caught:
        files.write_bytes(str(target), b"new", {})
    assert caught.value.error_class == "write_failed"
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["image.png"]
    assert stat.S_IMODE(target.stat().st_mode) & 0o400


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("/data/x.png", True),
        ("file:///data/x.png", True),
        ("S3://bucket/x", False),
        ("http://169.254.169.254/latest/meta-data", False),
        ("simplecache::file:///etc/passwd", False),
        ("zip://x::s3://bucket/a.zip", False),
    ],
)
def test_schemes_that_are_not_allowed_are_refused(uri, allowed):
    if allowed:
        uris.check_scheme(uri, frozenset({"file"}))
        return
    chained = "::" in uri
    message = "are not supported; unpack" if chained else "not allowed here; allowed: file. Add"
    with pytest.raises(RowError, match=message) as caught:
        uris.check_scheme(uri, frozenset({"file"}))
    assert caught.value.error_class == "scheme_not_allowed"
    assert ("--allow-schemes" in str(caught.value)) != chained  # the option would not help


def test_credentials_leave_a_uri_that_is_shown():
    shown = uris.redact("https://user:secret@host/a.png?X-Amz-Signature=secret#secret")
    assert shown == "https://host/a.png"
    assert uris.redact("s3://key:secret@bucket/a b.png") == "s3://bucket/a b.png"
    assert uris.redact("/local/what?.png") == "/local/what?.png"
    assert uris.redact("s3://b/in/a#b?c.png") == "s3://b/in/a#b?c.png"
    assert uris.redact("https://[x/y.png") == "https://[x/y.png"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://user:SEC/RET@host/a.png", "https://host/a.png"),
        ("https://me@mail:SEC/R@E/T@host:80/a.png?Sig=SECRET", "https://host:80/a.png"),
        ("s3://key:SEC/RET@bucket/a.png", "s3://bucket/a.png"),
        *[
            (uri, uri)
            for uri in (
                "https://host:8080/@user/a.png", "https://[::1]:80/a@b.png", "s3://bucket/a:b@c.png",
                "https://host/x:y/@z.png", "s3://arn:aws:s3:us-west-2:1:accesspoint/x/a@b.png",
            )
        ],
    ],
)  # fmt: skip
def test_a_password_with_a_slash_is_not_taken_for_a_path(uri, shown):
    assert uris.redact(uri) == shown


def test_what_a_library_says_of_an_address_with_a_password_is_not_repeated(monkeypatch):
    def refused(*_, **__):
        raise ConnectionError("Max retries exceeded with url: /repos/org/repo:SECRET/git")

    monkeypatch.setattr("requests.sessions.Session.request", refused)  # of fsspec's github
    with pytest.raises(RowError, match=r"^github://x/y: cannot be read: ConnectionError$"):
        files.read_bytes("github://org:repo:SECRET@x/y", {})


def test_relative_uris_are_relative_to_the_manifest():
    assert uris.resolve("a/b.png", "s3://bucket/m") == "s3://bucket/m/a/b.png"
    assert uris.resolve("../c/./d.png", "s3://bucket/m/") == "s3://bucket/c/d.png"
    assert uris.resolve("/abs.png", "/m") == "/abs.png"
    assert uris.resolve("s3://other/b.png", "/m") == "s3://other/b.png"
    assert uris.resolve("S3://Other/b.png", "/m") == "s3://Other/b.png"
