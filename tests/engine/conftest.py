"""What the tests of several stages share."""

import pyarrow as pa
import pytest

from pipeline.engine.stages.context import Context


@pytest.fixture
def context(quick, tmp_path):
    """What the stages know of a job whose output is ``tmp_path``."""
    return Context(
        style=quick, output=str(tmp_path), storage_options={}, max_pixels=10**6, max_bytes=10**6,
        file_format="png", quality=90, embed_metadata=False, extra=pa.schema([]), weights_name="w",
        weights_digest="d", versions={},
    )  # fmt: skip
