"""The store stage: encode and write each result, then return its record."""

import datetime
import functools
import json
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from pipeline.data.images import codec
from pipeline.data.manifest import columns
from pipeline.data.output import fences, records
from pipeline.data.schemas import RECORD_SCHEMA, SCHEMA_VERSION
from pipeline.data.storage import uris
from pipeline.data.storage.together import Together
from pipeline.engine import metrics
from pipeline.engine.board import Board
from pipeline.engine.stages import blocks
from pipeline.engine.stages.context import PACKAGE, Context, pair_settings
from pipeline.engine.stages.guarding import with_fault, work_on_pairs
from pipeline.settings import StyleSettings

UNREAD = ("warnings", "layer_losses", "content_image_losses", "loss_history")
"""Columns of a record that pass this stage without being taken apart, as the manifest's own do."""

MADE = (
    "status",
    "error_class",
    "error_message",
    "file_name",
    "content_uri",
    "style_uri",
    "width",
    "height",
    "bytes",
    "sha256",
    "store_seconds",
    "settings",
    "weights",
    "weights_digest",
    "versions",
    "finished_at",
    "schema_version",
)
"""Columns of a record that this stage fills. All others are the plan's and the style actor's."""


def store(table: pa.Table, context: Context, board: Board) -> pa.Table:
    """Turn stylised rows into records. Images are written first, so an ok record has its image.

    Args:
        table: rows with the ``STYLIZED`` columns.
        context: what the job's stages know.
        board: learns which pairs are under way here, and how many are done.

    Raises:
        RuntimeError: pair after pair ended its processes and none succeeded.
        LostError: another job has taken the output over.
    """
    fence = fences.lasting(context.fence)
    stylized = blocks.rows_of(table, without=[*UNREAD, *context.extra.names])
    with Together(context.storage_options) as files:
        work = functools.partial(_write_image, context=context, fence=fence, files=files)

        def settle() -> None:
            fence()
            files.finish()

        stored = work_on_pairs(stylized, "storing", work, board, settle)
    done = [
        _checked(row, after, files, context) for row, after in zip(stylized, stored, strict=True)
    ]
    rows = [row | _described(row, context) for row in done]
    for row in rows:
        metrics.stored(row)
    failed = sum(row["status"] == "error" for row in rows)
    board.add(len(rows) - failed, failed, [row["pair_id"] for row in rows])
    context.fence()  # Ray Data writes the returned records next
    numbers = pa.schema([*RECORD_SCHEMA, *columns.as_numbers(context.extra)])
    kinds = pa.schema([*RECORD_SCHEMA, *context.extra])
    return blocks.with_columns(table, rows, MADE, numbers).cast(kinds)


def _write_image(
    row: dict[str, Any], context: Context, fence: Callable[[], None], files: Together
) -> dict[str, Any]:
    """Encode and write a pair's result, and return the columns that describe the file."""
    started = time.perf_counter()
    pixels = blocks.pixels_of(row["__stylized_image"])
    origin = _origin(row, context) if context.embed_metadata else None
    data = codec.encode(pixels, context.file_format, context.quality, origin)
    file_name = f"{records.IMAGES}/{row['file_stem']}.{context.file_format}"
    fence()
    files.write(uris.join(context.output, file_name), data)
    return {
        "file_name": file_name,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "bytes": len(data),
        "sha256": codec.sha256(data),
        "store_seconds": time.perf_counter() - started,
    }


def _checked(
    row: dict[str, Any], stored: dict[str, Any], files: Together, context: Context
) -> dict[str, Any]:
    """Return a row as it was stored, or with the fault that its file showed at the end."""
    file_name = stored.get("file_name")
    fault = files.failed.get(uris.join(context.output, file_name)) if file_name else None
    return with_fault(row, fault) if fault else stored


def _origin(row: dict[str, Any], context: Context) -> dict[str, Any]:
    """Return how an image was made, for those who have only the image.

    It names no time: a pair that is done again gives the same bytes.
    """
    losses_and_end = (
        "alpha",
        "total_loss",
        "content_loss",
        "style_loss",
        "tv_loss",
        "evaluations",
        "stop_reason",
    )
    return {
        "software": f"{PACKAGE} {context.versions[PACKAGE]}",
        "pair_id": row["pair_id"],
        **_redacted_sources(row),
        "style_blend": row["style_blend"],
        **{name: row[name] for name in losses_and_end},
        "layer_weights": dict(row["layer_weights"] or ()),
        "weights": context.weights_name,
        "weights_digest": context.weights_digest,
        "settings": _redacted_settings(pair_settings(row, context.style)),
    }


def _redacted_sources(row: dict[str, Any]) -> dict[str, Any]:
    uri, styles = row["content_uri"], row["style_uri"] or []
    return {
        "content_uri": uris.redact(uri) if uri else uri,
        "style_uri": [uris.redact(style) if style else style for style in styles],
    }


def _redacted_settings(settings: StyleSettings) -> dict[str, Any]:
    return vars(settings) | {"weights": uris.redact(settings.weights)}


def _described(row: dict[str, Any], context: Context) -> dict[str, Any]:
    """Return what a record says of a row's outcome, its job and where its images came from."""
    try:
        settings = pair_settings(row, context.style)
    except ValueError:  # the override is what is wrong with the pair
        settings = context.style
    return {
        "status": "ok" if row["fault_class"] is None else "error",
        "error_class": row["fault_class"],
        "error_message": row["fault_message"],
        **_redacted_sources(row),
        "settings": _settings_text(settings),
        "weights": context.weights_name,
        "weights_digest": context.weights_digest,
        "versions": json.dumps(context.versions),
        "schema_version": SCHEMA_VERSION,
        "finished_at": datetime.datetime.now(datetime.timezone.utc),
    }


@functools.lru_cache(256)
def _settings_text(settings: StyleSettings) -> str:
    return json.dumps(_redacted_settings(settings))
