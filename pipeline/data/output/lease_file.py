"""The file of a lease: its content, and whose it is.

It is JSON: a random name for the job (``run``), host, PID, what identifies the process, and the
number of renewals.
"""

import json
from typing import Any

from pipeline.data.errors import RowError
from pipeline.data.storage import files
from pipeline.data.words import printable


def read(uri: str, options: files.StorageOptions) -> dict[str, Any] | None:
    """Return the content of the lease, {} if no job wrote it, or None if it is gone.

    Raises:
        RowError: ``access_denied`` or ``read_failed``: it is not known who holds the lease.
    """
    try:
        found = json.loads(files.read_bytes(uri, options))
    except RowError as error:
        if error.error_class == "not_found":
            return None
        raise
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def to_bytes(lease: dict[str, Any]) -> bytes:
    """Return the file of a lease."""
    return json.dumps(lease).encode()


def is_run(found: dict[str, Any] | None, run: str) -> bool:
    """Return whether a lease is that of the job called ``run``."""
    return found is not None and found.get("run") == run


def is_lost(found: dict[str, Any] | None, run: str) -> bool:
    """Return whether a lease is gone or another job's.

    Content that no job wrote counts as nobody's: some storages show half-written files.
    """
    return found is None or (found != {} and not is_run(found, run))


def who(found: dict[str, Any]) -> str:
    """Return which process wrote a lease, in words."""
    return printable(f"process {found.get('pid')} on {found.get('host')}")
