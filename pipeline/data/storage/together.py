"""Write objects one after another, and wait once for all of them to be safe.

To wait for each file by itself takes about twice the time, and twice the CPU time.
"""

from types import TracebackType

from pipeline.data.errors import RowError
from pipeline.data.storage import files, local
from pipeline.data.storage.failures import write_error
from pipeline.data.storage.uris import absolute, scheme_of

MOST_OPEN = 128
"""Files that are on their way to the disk at once: a process may often open no more than 1024."""

MOST_BYTES = 2**26
"""Bytes that are on their way to the disk at once."""


class Together:
    """Objects that are written together. Local files get their names in ``finish``.

    An object store has an object as soon as it is written. Leave the ``with`` block without
    ``finish``, and the files that have no names yet are gone.

    Args:
        options: fsspec options by scheme.
    """

    def __init__(self, options: files.StorageOptions) -> None:
        self.options = options
        self.open: dict[str, local.Written] = {}  # by URI
        self.bytes = 0
        self.failed: dict[str, RowError] = {}

    def __enter__(self) -> "Together":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for written in self.open.values():
            written.discard()
        self.open.clear()

    def write(self, uri: str, data: bytes) -> None:
        """Write an object as ``files.write_bytes`` does, but perhaps not to its end.

        Raises:
            RowError: ``write_failed`` or ``access_denied``.
        """
        if scheme_of(uri) != "file":
            files.write_bytes(uri, data, self.options)
            return
        try:
            self.open[uri] = local.Written(absolute(uri), data)
        except Exception as error:
            raise write_error(uri, error) from error
        self.bytes += len(data)
        if len(self.open) >= MOST_OPEN or self.bytes >= MOST_BYTES:
            self._wait()

    def finish(self) -> dict[str, RowError]:
        """Return when all objects are safe, with those that are not after all, by URI."""
        self._wait()
        return self.failed

    def _wait(self) -> None:
        while self.open:
            uri, written = self.open.popitem()
            try:
                written.finish()
            except Exception as error:
                self.failed[uri] = write_error(uri, error)
        self.bytes = 0
