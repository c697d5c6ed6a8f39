"""Errors of storage libraries, put into words that are free of credentials."""

from pipeline.data.errors import RowError
from pipeline.data.storage import web
from pipeline.data.storage.uris import redact, scheme_of
from pipeline.redaction import redact_text


def reason(error: BaseException) -> str:
    """Return an error's type and first line, at most 200 characters, with addresses redacted."""
    lines = str(error).strip().splitlines()
    text = redact_text(lines[0][:2000])[:200] if lines else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def reason_at(uri: str, error: BaseException) -> str:
    """Return ``reason``, but only the error's type if ``uri`` holds a credential.

    Libraries repeat pieces of a URI that cannot be recognised as part of a password.
    """
    safe = redact(uri) == uri or isinstance(error, ImportError)
    return reason(error) if safe else type(error).__name__


def read_error(uri: str, error: Exception) -> RowError:
    """Return the ``RowError`` of a failed read or listing.

    Its class is ``not_found``, ``access_denied`` or ``read_failed``, and for a refused redirect
    ``scheme_not_allowed``.
    """
    if scheme_of(uri) in web.SCHEMES:
        error_class, text = web.explain(error)
        return RowError(error_class, f"{redact(uri)}: {text}")
    if isinstance(error, FileNotFoundError):
        return RowError("not_found", f"{redact(uri)}: does not exist")
    if isinstance(error, PermissionError):
        return _denied(uri, error)
    if isinstance(error, ImportError):
        return RowError("read_failed", f"{redact(uri)}: {redact_text(str(error))}")
    return RowError("read_failed", f"{redact(uri)}: cannot be read: {reason_at(uri, error)}")


def write_error(uri: str, error: Exception) -> RowError:
    """Return the ``RowError`` of a failed write: ``access_denied`` or ``write_failed``."""
    if isinstance(error, PermissionError):
        return _denied(uri, error)
    return RowError("write_failed", f"{redact(uri)}: cannot be written: {reason_at(uri, error)}")


def delete_error(uri: str, error: Exception) -> RowError:
    """Return the ``RowError`` of a failed deletion: ``access_denied`` or ``write_failed``."""
    if isinstance(error, PermissionError):
        return _denied(uri, error)
    return RowError("write_failed", f"{redact(uri)}: cannot be deleted: {reason_at(uri, error)}")


def _denied(uri: str, error: Exception) -> RowError:
    return RowError("access_denied", f"{redact(uri)}: access denied: {reason_at(uri, error)}")
