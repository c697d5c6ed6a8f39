"""The errors of a single manifest row, in stable classes that can be counted."""

from typing import Literal

ErrorClass = Literal[
    "bad_row",  # a null URI, an override out of range, a blend that does not fit
    "bad_name",  # a pair_id, output_name, label or split that cannot be part of a path
    "scheme_not_allowed",
    "not_found",
    "access_denied",
    "read_failed",
    "empty_file",
    "not_an_image",
    "truncated_image",
    "image_too_large",
    "image_too_small",
    "file_too_large",
    "non_finite_loss",
    "out_of_memory",
    "process_died",
    "write_failed",
    "unexpected",
]
"""Values of a record's ``error_class``; docs/troubleshooting.md explains each of them."""


class RowError(Exception):
    """An error of one row: it becomes a record with ``status == "error"``, and the job goes on.

    Attributes:
        error_class: the record's ``error_class``; the exception's text is its ``error_message``.
    """

    def __init__(self, error_class: ErrorClass, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class
