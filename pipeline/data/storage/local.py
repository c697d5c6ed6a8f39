"""Files on a local disk: atomic writes, leftovers of killed writers, special files."""

import contextlib
import functools
import os
import stat
import uuid
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipeline.data.errors import RowError
from pipeline.data.storage.failures import reason
from pipeline.data.storage.uris import absolute, redact, scheme_of

LEFTOVER = ".writing"
"""Suffix of a local file that is being written; a killed process leaves such a file behind."""

KERNEL = ("/proc", "/sys")
"""Folders of kernel files, which look regular: a read of ``/proc/kmsg`` waits for a message."""


def write_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it to disk, and rename it to ``path``.

    Raises:
        OSError: nothing was changed, and no temporary file is left.
    """
    Written(str(path), data).finish()


class Written:
    """A file that was written under a temporary name. The disk has begun to take it.

    Args:
        path: where it will be.
        data: its content.

    Raises:
        OSError: it cannot be written, and no temporary file is left.
    """

    def __init__(self, path: str, data: bytes) -> None:
        self.path, folder = path, os.path.dirname(path)
        # Image loaders and this package's listings skip names with a leading dot.
        self.temporary = os.path.join(folder, f".{uuid.uuid4().hex}{LEFTOVER}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            self.file = os.open(self.temporary, flags, 0o666)
        except FileNotFoundError:
            os.makedirs(folder, exist_ok=True)
            self.file = os.open(self.temporary, flags, 0o666)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self.file, left) :]
            with contextlib.suppress(AttributeError, OSError):  # Linux then begins, without a wait
                os.posix_fadvise(self.file, 0, 0, os.POSIX_FADV_DONTNEED)
        except BaseException:
            self.discard()
            raise

    def finish(self) -> None:
        """Wait until the disk has the file, and give it its name.

        Raises:
            OSError: nothing was changed, and no temporary file is left.
        """
        try:
            os.fsync(self.file)
            os.replace(self.temporary, self.path)
        except BaseException:
            self.discard()
            raise
        os.close(self.file)

    def discard(self) -> None:
        """Delete the temporary file."""
        os.close(self.file)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.temporary)


def read_file(path: str, most: int) -> bytes:
    """Return a file's content, or its first ``most`` bytes.

    Raises:
        OSError: the file cannot be read.
    """
    parts: list[bytes] = []
    with open(path, "rb", buffering=0) as file:
        whole = os.fstat(file.fileno()).st_size + 1  # a byte more shows the end
        while most and (part := file.read(min(most, whole))):
            parts.append(part)
            most -= len(part)
    return b"".join(parts)


def create_file(path: Path, data: bytes) -> bool:
    """Write a file that must not exist yet; return False if it exists already.

    Raises:
        OSError: the file or its folder cannot be written; also if the folder is a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def is_special(path: str) -> bool:
    """Return whether a path is a folder, a pipe, a device or a kernel file, without opening it.

    Raises:
        OSError: the path does not exist.
    """
    found = os.stat(path)
    inside = os.path.realpath(path).startswith(tuple(f"{place}/" for place in KERNEL))
    return not stat.S_ISREG(found.st_mode) or inside or found.st_dev in _devices(KERNEL)


@functools.cache
def _devices(places: tuple[str, ...]) -> frozenset[int]:
    return frozenset(os.stat(place).st_dev for place in places if os.path.ismount(place))


def refuse_special(uri: str, fs: Any, path: str) -> None:
    """Refuse local paths that may block for ever when opened, such as a pipe without a writer.

    Args:
        uri: the file for the message.
        fs: its fsspec file system; on other file systems nothing is refused.
        path: the file in ``fs``.

    Raises:
        RowError: ``read_failed``.
    """
    if isinstance(fs, LocalFileSystem) and is_special(path):
        raise RowError(
            "read_failed",
            f"{redact(uri)}: is a folder, a pipe, a device or a kernel file; give a regular file",
        )


def is_file(uri: str) -> bool:
    """Return whether ``uri`` is local, exists and is no folder."""
    path = absolute(uri)
    return scheme_of(uri) == "file" and os.path.exists(path) and not os.path.isdir(path)


def is_leftover(name: str) -> bool:
    """Return whether a file name is that of an incomplete file, left by a killed writer."""
    last = name.rpartition("/")[2]
    return last.startswith(".") and last.endswith(LEFTOVER)


def delete_leftovers(uri: str, *, below: bool = True) -> list[str]:
    """Delete incomplete files in a local directory; on other storages there are none.

    Args:
        uri: the directory.
        below: also delete those in its subdirectories.

    Returns:
        The files that cannot be deleted, each with the reason. They do no harm: nothing reads them.
    """
    if scheme_of(uri) != "file":
        return []
    folder, kept = Path(absolute(uri)), []
    for path in folder.rglob(f".*{LEFTOVER}") if below else folder.glob(f".*{LEFTOVER}"):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            kept.append(f"{path} ({reason(error)})")
    return kept


def delete_empty_folders(uri: str) -> None:
    """Delete a local folder and those below it, as far as they are empty.

    On other storages there are no empty folders, and nothing is done.
    """
    if scheme_of(uri) == "file":
        for folder, _, _ in os.walk(absolute(uri), topdown=False):
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(folder)
