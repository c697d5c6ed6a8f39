"""Writes that happen only if an object is absent, or unchanged since it was last seen."""

from pathlib import Path

from pipeline.data.storage import files
from pipeline.data.storage.failures import read_error, write_error
from pipeline.data.storage.filesystems import StorageOptions, filesystem
from pipeline.data.storage.local import create_file
from pipeline.data.storage.uris import absolute, scheme_of

CHANGED = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409", "NoSuchKey", "404")
"""S3 error codes for an object that does not meet a write's condition."""

UNKNOWN = ("NotImplemented", "501", "InvalidArgument", "InvalidRequest")
"""S3 error codes of servers that do not support conditional writes."""


def create_bytes(uri: str, data: bytes, options: StorageOptions) -> bool:
    """Write an object that must not exist yet; return False if it exists already.

    If several processes try at once, exactly one succeeds on local storage and on S3 (by a
    conditional PUT). Other file systems guarantee less. Some S3-compatible servers ignore the
    condition and overwrite the object. A caller that must be sure checks that the object is absent
    first, and calls this twice: the second call must return False.

    Raises:
        RowError: ``write_failed`` or ``access_denied``.
    """
    try:
        if scheme_of(uri) == "file":
            return create_file(Path(absolute(uri)), data)
        fs, path = filesystem(uri, options)
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if _s3_code(error) in CHANGED:
                return False
            if _s3_code(error) not in UNKNOWN:
                raise
            fs.pipe_file(path, data)
    except Exception as error:
        raise write_error(uri, error) from error
    return True


def tag_of(uri: str, options: StorageOptions) -> str | None:
    """Return the tag that identifies an object's present content, for ``replace_bytes``.

    It is the ETag on S3. It is None if the object does not exist, and on all other storages, which
    cannot replace by tag.

    Raises:
        RowError: ``access_denied`` or ``read_failed``.
    """
    if scheme_of(uri) not in ("s3", "s3a"):
        return None
    try:
        fs, path = filesystem(uri, options)
        tag: str | None = fs.info(path).get("ETag")
    except FileNotFoundError:
        return None
    except Exception as error:
        raise read_error(uri, error) from error
    return tag


def replace_bytes(uri: str, data: bytes, tag: str | None, options: StorageOptions) -> bool:
    """Write an object if it still has ``tag``; return whether it was written.

    False does not prove that somebody else changed the object: if the answer to a successful write
    is lost, its retry finds the object changed by this very write. The caller must read the object
    to know.

    Args:
        uri: the object.
        data: its new content.
        tag: a result of ``tag_of``; None to write unconditionally.
        options: fsspec options by scheme.

    Raises:
        RowError: ``write_failed`` or ``access_denied``.
    """
    if tag is not None:
        try:
            fs, path = filesystem(uri, options)
            fs.pipe_file(path, data, IfMatch=tag)
            return True
        except Exception as error:
            if _s3_code(error) in CHANGED:
                return False
            if _s3_code(error) not in UNKNOWN:
                raise write_error(uri, error) from error
    files.write_bytes(uri, data, options)
    return True


def _s3_code(error: Exception) -> str:
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
