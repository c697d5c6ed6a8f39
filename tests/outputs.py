"""What a job's output must hold, whatever happened on the way."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
from PIL import ExifTags, Image

from pipeline.data.images import codec
from pipeline.data.output import records
from pipeline.data.schemas import RECORD_SCHEMA
from pipeline.data.storage import files, uris
from pipeline.engine.checking import check, check_output
from pipeline.engine.stages import blocks, storing
from pipeline.settings import JobSettings


def put_job_file(style, manifest, output):
    """The ``job.json`` that a job with these settings would write, in an output that is empty."""
    checked = check(style, JobSettings(manifest=str(manifest), output=str(output)))
    records.write_json(uris.join(str(output), records.JOB), check_output(checked), {})


def records_of(output, options=None) -> dict:
    """The records by pair_id; each pair has one."""
    found = list(records.iterate(output, options or {}, RECORD_SCHEMA.names))
    assert len({row["pair_id"] for row in found}) == len(found), "a pair was recorded twice"
    return {row["pair_id"]: row for row in found}


def record_of(row, context) -> dict:
    """The record that the store stage makes of a row; of one without a fault, but for its image."""
    fault = row.get("fault_class")
    schema = context.schema(*blocks.STYLIZED)
    table = pa.Table.from_pylist([{**row, "fault_class": fault or "process_died"}], schema=schema)
    board = SimpleNamespace(add=lambda *_: None, in_turn=lambda *_, **__: {})
    (record,) = storing.store(table, context, board).to_pylist()
    return record if fault else record | {"status": "ok", "error_class": None}


def check_images(output, found, options=None):
    """Every ok record's image is there as it says, and there are no others."""
    stored = files.list_files(uris.join(output, "images"), options or {}, ".png")
    ok = [row for row in found.values() if row["status"] == "ok"]
    assert len(stored) == len(ok)
    for row in ok:
        data = files.read_bytes(uris.join(output, row["file_name"]), options or {})
        assert codec.sha256(data) == row["sha256"]
        assert len(data) == row["bytes"]
        assert Image.open(io.BytesIO(data)).size == (row["width"], row["height"])


def origin_of(path: Path) -> dict:
    """How a picture says that it was made; empty if it does not."""
    with Image.open(path) as image:
        text = image.info.get("Description") or image.getexif().get(ExifTags.Base.ImageDescription)
    return json.loads(text) if text else {}
