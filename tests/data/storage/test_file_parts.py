"""Pictures inside tables and tars: their URIs, their bytes, and how little is read for them."""

import io
import os
import re
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.data.errors import RowError
from pipeline.data.storage import file_parts, files, filesystems, parquet_images, uris
from pipeline.data.storage.file_parts import parquet_part, tar_part
from pipeline.redaction import redact
from tests.conftest import within
from tests.web_server import Handler, serving

NAMES = st.text(min_size=1).filter(lambda name: "\0" not in name)


def struct(data=None, path=None):
    return {"bytes": data, "path": path}


def write(path, values, kind=None, **options):
    table = pa.table({"image": pa.array(values, kind), "label": pa.array(range(len(values)))})
    pq.write_table(table, path, **options)
    return str(path)


def images(path, column="image", options=None):
    """The URIs of all pictures of a table, in order."""
    with parquet_images.opened(path, options or {}) as file:
        return [
            uri
            for group in range(file.num_row_groups)
            for uri in file_parts.place_uris(
                parquet_images.places(file, column, group), path, column, group
            )
        ]


def tarred(path, members, form=tarfile.PAX_FORMAT, mode="w"):
    with tarfile.open(path, mode, format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


@given(NAMES, st.integers(0, 999), st.integers(0, 99))
@example("X-AMZ-SIGNATURE", 0, 0)
def test_a_part_is_what_its_uri_says_wherever_it_lies(name, one, two):
    for base in ("/data", "s3://bucket/a", "https://host/a"):
        full = uris.resolve(parquet_part("b c#.parquet", name, one, two), base)
        assert file_parts.parse(full) == (f"{base}/b c#.parquet", name, one, two, None, None, 0, 0)
        listed = uris.resolve(parquet_part("b.parquet", name, one, two, 3), base)
        assert file_parts.parse(listed)[4] == 3
        full = uris.resolve(tar_part("x.tar", name, one, two), base)
        assert file_parts.parse(full)[5:] == (name, one, two)
        uris.check_scheme(full, frozenset({"file", "s3", "https"}))
        assert redact(redact(full)) == redact(full)


@pytest.mark.parametrize(
    "uri",
    [
        *("a#1.png", "a.tar#member=x", "a#image=b&group=x&row=1"),
        *("a.tar#member=x&offset=0&size=1.png", "a#image=a b&group=0&row=0"),
    ],
)
def test_other_uris_with_a_hash_are_files(uri, tmp_path):
    assert file_parts.parse(uri) is None
    (tmp_path / uri).write_bytes(b"whole")
    assert files.read_bytes(str(tmp_path / uri), {}) == b"whole"


def test_a_web_address_keeps_its_part_and_loses_its_signature():
    part = "#member=a/b.png&offset=512&size=9"
    assert redact(f"https://u:p@h/x.tar?X-Amz-Signature=1{part}") == f"https://h/x.tar{part}"
    assert redact("https://h/x.tar#other") == "https://h/x.tar"


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([b"a", b"bb", b"ccc"], id="binary"),
        pytest.param([struct(b"a", "x.png"), struct(b"bb"), struct(b"ccc", "")], id="struct"),
    ],
)
def test_each_row_has_its_bytes(values, tmp_path):
    path = write(tmp_path / "x.parquet", values, row_group_size=2)
    found = images(path)
    assert found[2] == f"{path}#image=image&group=1&row=0"
    assert [files.read_bytes(uri, {}) for uri in found] == [b"a", b"bb", b"ccc"]
    assert files.version(found[0], {}) == files.version(path, {})


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.list_(pa.binary())])
def test_lists_and_types_of_bytes(kind, tmp_path):
    is_list = pa.types.is_list(kind)
    values = [[b"a", b"b"], [], None, [b"c", None]] if is_list else [b"a", b"b", None]
    found = images(write(tmp_path / "x.parquet", values, kind))
    if not is_list:
        assert [uri.rpartition("#")[2] for uri in found] == [
            f"image=image&group=0&row={row}" for row in range(3)
        ]
        return
    assert found[1:3] == [[], None]
    assert [files.read_bytes(uri, {}) for uri in found[0]] == [b"a", b"b"]
    with pytest.raises(RowError, match="the picture is null"):
        files.read_bytes(found[3][1], {})


def test_a_list_of_structs(tmp_path):
    values = [[struct(b"a", "a.png"), struct(b"b")], None, []]
    found = images(write(tmp_path / "x.parquet", values))
    assert found[1:] == [None, []]
    assert [files.read_bytes(uri, {}) for uri in found[0]] == [b"a", b"b"]


def test_rows_with_paths_only_are_files_and_mixed_ones_are_read_from_there(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(b"A")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    named = [struct(None, "p/a.png"), struct(), None, struct(None, "s3://b/c.png")]
    found = images(write(tmp_path / "x.parquet", named, kind))
    assert found == [str(tmp_path / "p/a.png"), None, None, "s3://b/c.png"]
    named += [struct(b"D"), struct(None, "https://h/x.png"), struct(None, "x.parquet#image=i")]
    mixed = images(write(tmp_path / "y.parquet", named, kind))
    assert files.read_bytes(mixed[0], {}) == b"A"
    assert files.read_bytes(mixed[4], {}) == b"D"
    for place, error_class in ((1, "bad_row"), (2, "bad_row"), (5, "scheme_not_allowed")):
        with pytest.raises(RowError) as caught:
            files.read_bytes(mixed[place], {})
        assert caught.value.error_class == error_class
        assert f"row {place}" in str(caught.value)
    with pytest.raises(RowError, match="does not exist"):
        files.read_bytes(mixed[6], {})
    lists = pa.list_(kind)
    found = images(write(tmp_path / "z.parquet", [[struct(None, "p/a.png"), None], None], lists))
    assert found == [[str(tmp_path / "p/a.png"), None], None]


class Counted(io.FileIO):
    """A file that counts the bytes read from it."""

    total = 0

    def read(self, size=-1):
        data = super().read(size)
        Counted.total += len(data)
        return data

    def readinto(self, buffer):
        count = super().readinto(buffer)
        Counted.total += count
        return count


@pytest.fixture
def counted(monkeypatch):
    """Files that count what is read, once they are opened by fsspec."""
    Counted.total = 0
    fs, _ = filesystems.filesystem("/x", {})
    monkeypatch.setattr(type(fs), "open", lambda self, path, *_, **__: Counted(path))
    return Counted


def test_listing_a_table_reads_no_pictures_and_a_row_group_is_read_once(tmp_path, counted):
    values = [struct(bytes([row]) * 10**5, f"{row}.png") for row in range(40)]
    path = write(tmp_path / "x.parquet", values, row_group_size=20, compression="none")
    found = images(path)
    assert counted.total < 10**5
    counted.total = 0
    for row, uri in enumerate(found):
        assert files.read_bytes(uri, {}) == bytes([row]) * 10**5
    assert counted.total < 1.5 * 40 * 10**5


def test_bounds_of_a_picture_and_of_its_row_group(tmp_path, monkeypatch):
    path = write(tmp_path / "x.parquet", [b"a" * 2000, b"b"])
    large, small = images(path)
    with pytest.raises(RowError, match="2000 bytes, more than max_bytes = 1999"):
        files.read_bytes(large, {}, 1999)
    monkeypatch.setattr(parquet_images, "KEPT", 0)
    monkeypatch.setattr(parquet_images, "MOST_GROUP", 100)
    assert files.read_bytes(small, {}, 1999) == b"b"  # the last group is kept
    other = images(write(tmp_path / "y.parquet", [b"a" * 2000]))
    with pytest.raises(RowError, match="at most 100 are read; write the file again") as caught:
        files.read_bytes(other[0], {})
    assert caught.value.error_class == "file_too_large"


def test_a_replaced_table_is_read_again_or_refused(tmp_path):
    path = write(tmp_path / "x.parquet", [b"a", b"b"])
    first, second = images(path)
    assert files.read_bytes(second, {}) == b"b"
    write(tmp_path / "x.parquet", [b"other"])
    assert files.read_bytes(first, {}) == b"other"
    with pytest.raises(RowError, match="was replaced since the manifest was made"):
        files.read_bytes(second, {})
    pq.write_table(pa.table({"image": ["text"]}), path)
    with pytest.raises(RowError, match="has no pictures in column 'image'"):
        files.read_bytes(first, {})
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(RowError, match="cannot be read"):
        files.read_bytes(first, {})
    with pytest.raises(RowError, match="cannot be read"):
        images(path)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_of_a_tar_are_read_by_their_offsets(form, tmp_path):
    long = "d" * 90 + "/" + ("x" * 90 if form == tarfile.USTAR_FORMAT else "ü" * 120) + ".png"
    members = [("./a.png", b"A" * 700), (long, b"B"), ("empty", b""), ("b&c#=%.png", b"C" * 512)]
    path = tarred(tmp_path / "x.tar", members, form)
    found = list(file_parts.members_of_tar(path, {}))
    assert [member.name for member in found] == [name for name, _ in members]
    for member, (_, data) in zip(found, members, strict=True):
        uri = tar_part(path, *member)
        assert file_parts.parse(uri)[5:] == member
        assert files.read_bytes(uri, {}, 700) == data
    with pytest.raises(RowError, match="700 bytes, more than max_bytes = 699"):
        files.read_bytes(tar_part(path, *found[0]), {}, 699)


def test_links_and_folders_in_a_tar_are_passed_over_and_odd_names_are_kept(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("other")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("caf\udce9.png")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"E"))
    (member,) = file_parts.members_of_tar(str(tmp_path / "x.tar"), {})
    uri = tar_part(str(tmp_path / "x.tar"), *member)
    assert "caf%E9.png" in uri
    assert file_parts.parse(uri).member == member.name
    assert files.read_bytes(uri, {}) == b"E"


def test_the_data_in_a_tar_is_not_read_to_list_it(tmp_path, counted):
    path = tarred(tmp_path / "x.tar", [(f"{n}.png", bytes(10**6)) for n in range(20)])
    assert len(list(file_parts.members_of_tar(path, {}))) == 20
    assert counted.total < 10**5


@pytest.mark.parametrize("left", [100, 600, 1000, 2100, 2560, 3072])
def test_a_tar_that_is_cut_off_gives_one_clear_error(left, tmp_path):
    path = tmp_path / "x.tar"
    whole = tarred(path, [("a", b"A" * 600), ("b", b"B" * 600)])
    cut = path.read_bytes()[:left]
    members = list(file_parts.members_of_tar(whole, {}))
    path.write_bytes(cut)
    with pytest.raises(RowError, match=r"x\.tar: is cut off") as caught:
        list(file_parts.members_of_tar(whole, {}))
    assert caught.value.error_class == "read_failed"
    if left < 2560:
        with pytest.raises(RowError, match="the tar is cut off: it holds"):
            files.read_bytes(tar_part(whole, *members[1]), {})


def test_what_is_no_tar_or_damaged_or_compressed(tmp_path):
    path = tmp_path / "x.tar"
    for data, message in (
        (b"", "is cut off or no tar"),
        (b"no tar at all" * 100, "is cut off or no tar"),
    ):
        path.write_bytes(data)
        with pytest.raises(RowError, match=message):
            list(file_parts.members_of_tar(str(path), {}))
    tarred(path, [("a", b"A" * 600), ("b", b"B" * 600)])
    spoiled = bytearray(path.read_bytes())
    spoiled[1536:1600] = b"\xff" * 64
    path.write_bytes(spoiled)
    with pytest.raises(RowError, match="is damaged at byte 1536"):
        list(file_parts.members_of_tar(str(path), {}))
    for mode, name in (("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")):
        tarred(path, [("a", b"A")], mode=mode)
        with pytest.raises(RowError, match=rf"is compressed \({name}\).*unpack it"):
            list(file_parts.members_of_tar(str(path), {}))
    with pytest.raises(RowError, match="does not exist"):
        list(file_parts.members_of_tar(str(tmp_path / "none.tar"), {}))


def test_a_pipe_in_place_of_a_table_or_a_tar_is_not_waited_for(tmp_path):
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    for read in (
        lambda: files.read_bytes(parquet_part(path, "image", 0, 0), {}),
        lambda: files.read_bytes(tar_part(path, "a.png", 0, 9), {}),
        lambda: list(file_parts.members_of_tar(path, {})),
    ):
        with within(10), pytest.raises(RowError, match="is a folder, a pipe, a device or a"):
            read()


def test_parts_on_s3(s3, tmp_path):
    options, bucket = s3
    path = write(tmp_path / "x.parquet", [struct(b"a"), struct(b"b")])
    files.write_bytes(f"s3://{bucket}/x.parquet", Path(path).read_bytes(), options)
    tar = tarred(tmp_path / "x.tar", [("a.png", b"A" * 600), ("b.png", b"B")])
    files.write_bytes(f"s3://{bucket}/x.tar", Path(tar).read_bytes(), options)
    found = images(f"s3://{bucket}/x.parquet", options=options)
    assert [files.read_bytes(uri, options) for uri in found] == [b"a", b"b"]
    members = list(file_parts.members_of_tar(f"s3://{bucket}/x.tar", options))
    found = [tar_part(f"s3://{bucket}/x.tar", *member) for member in members]
    assert [files.read_bytes(uri, options, 600) for uri in found] == [b"A" * 600, b"B"]


class Ranges(Handler):
    """Serves ``server.data``, in ranges if ``server.ranges``."""

    def do_GET(self):
        data, asked = self.server.data, re.match(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        status = 200
        if asked and self.server.ranges:
            start, end = int(asked[1]), int(asked[2]) + 1
            status, data = (206, data[start:end]) if start < len(data) else (416, b"")
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(self.server.data)}")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes" if self.server.ranges else "none")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def test_parts_at_a_web_address(tmp_path):
    with serving(Ranges) as server:
        address = f"{server.url}/x"
        path = tarred(tmp_path / "x.tar", [("a.png", b"A" * 600), ("b.png", b"B" * 700)])
        server.data, server.ranges = Path(path).read_bytes(), True
        members = list(file_parts.members_of_tar(f"{address}.tar", {}))
        assert [member.name for member in members] == ["a.png", "b.png"]
        part = tar_part(f"{address}.tar?sig=1&sv=2", *members[1])
        assert files.read_bytes(part, {}, 700) == b"B" * 700
        assert files.version(part, {}) is None
        for left, held in ((2000, 0), (2248, 200)):
            server.data = Path(path).read_bytes()[:left]
            with pytest.raises(RowError, match=rf"cut off: it holds {held} of the member's 700"):
                files.read_bytes(part, {})
        server.ranges = False
        with pytest.raises(RowError, match="the server sends whole files only") as caught:
            files.read_bytes(part, {})
        assert "sig" not in str(caught.value)
        server.data, server.ranges = Path(write(tmp_path / "x.parquet", [b"a"])).read_bytes(), True
        (uri,) = images(f"{address}.parquet")
        assert files.read_bytes(uri, {}) == b"a"
