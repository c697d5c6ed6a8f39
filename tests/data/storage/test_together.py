"""Files that are written together: none has its name before the disk has it."""

import os

import pytest

from pipeline.data.errors import RowError
from pipeline.data.storage import files, local, together
from pipeline.data.storage.together import Together


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture
def flushed(monkeypatch):
    """The inodes that the disk has."""
    found, fsync, replace = [], os.fsync, os.replace

    def noting(file):
        fsync(file)
        found.append(os.fstat(file).st_ino)

    def checking(temporary, path):
        assert os.stat(temporary).st_ino in found, "it gets its name too early"
        replace(temporary, path)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(os, "replace", checking)
    return found


def test_files_get_their_names_once_the_disk_has_them(tmp_path, flushed):
    with Together({}) as writing:
        for n in range(4):
            writing.write(f"{tmp_path}/{n}.jpg", bytes([n]) * 1000)
        assert not flushed
        assert all(map(local.is_leftover, names(tmp_path)))
        assert writing.finish() == {}
    assert names(tmp_path) == [f"{n}.jpg" for n in range(4)]
    assert [(tmp_path / f"{n}.jpg").read_bytes() for n in range(4)] == [
        bytes([n]) * 1000 for n in range(4)
    ]


@pytest.mark.parametrize("limit", ["MOST_OPEN", "MOST_BYTES"])
def test_only_so_many_are_open_at_once(tmp_path, flushed, monkeypatch, limit):
    monkeypatch.setattr(together, limit, {"MOST_OPEN": 3, "MOST_BYTES": 30}[limit])
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    with Together({}) as writing:
        for n in range(8):
            writing.write(f"{tmp_path}/{n}.jpg", b"0123456789")
        assert len(flushed) == 6
        assert writing.finish() == {}
    assert len(flushed) == len(names(tmp_path)) == 8
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_the_disk_refuses_is_told_of_and_leaves_nothing_behind(tmp_path, monkeypatch):
    fsync = os.fsync

    def full(file):
        if os.fstat(file).st_size == 2:
            raise OSError(28, "No space left on device")
        fsync(file)

    monkeypatch.setattr(os, "fsync", full)
    with Together({}) as writing:
        for n in range(1, 4):
            writing.write(f"{tmp_path}/{n}.jpg", b"x" * n)
        (uri,) = writing.finish()
    assert uri == f"{tmp_path}/2.jpg"
    assert writing.failed[uri].error_class == "write_failed"
    assert "No space left" in str(writing.failed[uri])
    assert names(tmp_path) == ["1.jpg", "3.jpg"]


def test_without_an_end_nothing_is_left(tmp_path):
    (tmp_path / "file").touch()

    def write():
        with Together({}) as writing:
            writing.write(f"{tmp_path}/a.jpg", b"x")
            with pytest.raises(RowError, match=r"file/b.jpg: cannot be written"):
                writing.write(f"{tmp_path}/file/b.jpg", b"x")
            assert len(names(tmp_path)) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert names(tmp_path) == ["file"]


def test_an_object_store_has_an_object_at_once(tmp_path):
    with Together({}) as writing:
        writing.write("memory://together/a.jpg", b"x")
        assert files.read_bytes("memory://together/a.jpg", {}) == b"x"
        assert writing.finish() == {}
