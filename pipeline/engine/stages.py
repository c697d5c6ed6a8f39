"""The two CPU stages around the actors: ``load`` fetches and decodes, ``store`` encodes and writes.

Blocks travel as Arrow tables. Images between the stages are raw pixels in binary columns, since
their shapes differ from row to row.
"""

import datetime
import functools
import hashlib
import json
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.data.errors import RowError
from pipeline.data.images import codec, sizing
from pipeline.data.images.sizing import Pixels
from pipeline.data.manifest import columns
from pipeline.data.output import lease, records
from pipeline.data.schemas import PLAN_SCHEMA, RECORD_SCHEMA, SCHEMA_VERSION
from pipeline.data.storage import failures, files, uris
from pipeline.engine import metrics
from pipeline.engine.board import Board
from pipeline.settings import StyleSettings, replace

STYLE_BYTES = 2**26
"""Most bytes of style pixels that a load process keeps for the rows to come."""

IMAGE = pa.struct([("pixels", pa.large_binary()), ("height", pa.int32()), ("width", pa.int32())])

LOADED = [
    ("__content_image", IMAGE),
    ("__style_images", pa.list_(IMAGE)),
    ("__style_keys", pa.list_(pa.string())),  # a digest of each style's pixels
    ("warnings", pa.list_(pa.string())),
    ("load_seconds", pa.float64()),
]

FOUND = (
    "total_loss",
    "content_loss",
    "style_loss",
    "tv_loss",
    "layer_losses",
    "content_image_losses",
    "alpha",
    "layer_weights",
    "loss_history",
    "steps",
    "evaluations",
    "stop_reason",
    "optimize_seconds",
    "batch_size",
    "device",
    "node",
)
"""Columns of a record that the style actor fills."""

STYLIZED = [
    ("__stylized_image", IMAGE),
    ("warnings", pa.list_(pa.string())),
    ("load_seconds", pa.float64()),
    *(RECORD_SCHEMA.field(name) for name in FOUND),
]


@dataclass(frozen=True)
class Context:
    """What every stage must know. Small: it travels with each task."""

    style: StyleSettings
    output: str
    storage_options: files.StorageOptions
    max_pixels: int
    max_bytes: int
    file_format: str
    quality: int
    embed_metadata: bool
    extra: pa.Schema
    weights_name: str
    weights_digest: str
    versions: str
    fence: Callable[[], None] = lease.unfenced
    """To be called before each write. Raises if the output is another run's by now."""
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Tells this run from others that Ray's processes serve."""

    def schema(self, *more: Any) -> pa.Schema:
        """The plan's columns, the manifest's unknown ones as the plan has them, and ``more``."""
        return pa.schema([*PLAN_SCHEMA, *columns.as_numbers(self.extra), *more])


def pack(pixels: Pixels) -> dict[str, Any]:
    """(H, W, 3) pixels as a value of an ``IMAGE`` column."""
    return {"pixels": pixels.tobytes(), "height": pixels.shape[0], "width": pixels.shape[1]}


def unpack(value: dict[str, Any]) -> Pixels:
    """The (H, W, 3) pixels of a value of an ``IMAGE`` column, read-only."""
    shape = (value["height"], value["width"], 3)
    return np.frombuffer(value["pixels"], dtype=np.uint8).reshape(shape)


def row_settings(row: dict[str, Any], style: StyleSettings) -> StyleSettings:
    """The job's settings with the row's overrides."""
    return _overridden(style, row["overrides"])


@functools.lru_cache(256)
def _overridden(style: StyleSettings, overrides: str) -> StyleSettings:
    return replace(style, **json.loads(overrides))


def guarded(row: dict[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row with what ``work`` found, or with its fault; rows that have one pass untouched."""
    if row["fault_class"] is not None:
        return row
    try:
        return {**row, **work()}
    except RowError as error:
        return _with_fault(row, error)
    except Exception as error:  # a promise: no row ends the job
        return {**row, "fault_class": "unexpected", "fault_message": failures.reason(error)}


def _with_fault(row: dict[str, Any], fault: RowError) -> dict[str, Any]:
    return {**row, "fault_class": fault.error_class, "fault_message": str(fault)}


def load(table: pa.Table, context: Context, board: Board) -> pa.Table:
    """Plan rows -> plan rows with decoded, resized images, or with a fault."""
    work = functools.partial(load_images, context=context)
    rows = _done(table.to_pylist(), "loading", work, board)
    return pa.Table.from_pylist(rows, schema=context.schema(*LOADED))


def _done(
    rows: list[dict[str, Any]],
    stage: str,
    work: Callable[[dict[str, Any]], dict[str, Any]],
    board: Board,
) -> list[dict[str, Any]]:
    """``guarded`` for every row of a block, in the same order.

    A decoder or an encoder may crash, or ask for all of the memory: the board knows what is under
    way, and a row that ends process after process gets a fault.
    """
    sound = {row["pair_id"]: row for row in rows if row["fault_class"] is None}

    def give_up(pair_id: str, fault: RowError) -> dict[str, Any]:
        return _with_fault(sound[pair_id], fault)

    tasks = {
        pair_id: functools.partial(guarded, row, functools.partial(work, row))
        for pair_id, row in sound.items()
    }
    done = board.in_turn(stage, tasks, give_up)
    return [done.get(row["pair_id"], row) for row in rows]


def load_images(row: dict[str, Any], context: Context) -> dict[str, Any]:
    """The ``LOADED`` columns of a plan row.

    Raises:
        RowError: an image cannot be read, or the result could not be written.
    """
    started = time.perf_counter()
    settings = row_settings(row, context.style)
    uri = row["content_uri"]
    content, notes = _read_image(uri, settings.image_size, settings.image_edge, context)
    codec.check_format(content.shape[1], content.shape[0], context.file_format)
    styles = [
        _read_style(uri, settings.image_size * settings.style_scale, settings.image_edge, context)
        for uri in row["style_uri"]
    ]
    found = [("content", uri, notes)]
    found += [("style", uri, style[2]) for uri, style in zip(row["style_uri"], styles, strict=True)]
    warnings = [_warning(*picture) for picture in found if picture[2]]
    return {
        "__content_image": pack(content),
        "__style_images": [pack(pixels) for pixels, *_ in styles],
        "__style_keys": [key for _, key, _ in styles],
        "warnings": warnings or None,
        "load_seconds": time.perf_counter() - started,
    }


def _warning(what: str, uri: str, notes: list[str]) -> str:
    return f"{what} {uris.redact(uri)}: was read, but {'; '.join(notes)}"


def _read_image(uri: str, size: float, edge: str, context: Context) -> tuple[Pixels, list[str]]:
    """Pixels, and what is wrong with the file."""
    notes: list[str] = []
    name = uris.redact(uri)
    data = files.read_bytes(uri, context.storage_options, context.max_bytes)
    image = codec.decode(data, name, context.max_pixels, notes=notes)
    try:
        fitted = sizing.fit_size(image.width, image.height, size, edge, context.max_pixels)
    except RowError as error:
        raise RowError(error.error_class, f"{name}: {error}") from error
    return sizing.resize(image, fitted), list(dict.fromkeys(notes))


_Style = tuple[Pixels, str, list[str]]
_Memo = OrderedDict[tuple[object, ...], _Style]

_style_memo: _Memo = OrderedDict()


def _read_style(uri: str, size: float, edge: str, context: Context) -> _Style:
    """Pixels, their digest, and what is wrong with the file.

    Rows of one style come together: a process keeps the last few. It may serve another run
    later, and the file be replaced by then.
    """
    version = files.version(uri, context.storage_options)
    memo = (context.run, uri, version, size, edge, context.max_pixels, context.max_bytes)
    if memo in _style_memo:
        _style_memo.move_to_end(memo)
        return _style_memo[memo]
    pixels, notes = _read_image(uri, size, edge, context)
    digest = hashlib.sha256(pixels.tobytes() + str(pixels.shape).encode()).hexdigest()
    _style_memo[memo] = pixels, digest, notes
    while sum(kept.nbytes for kept, *_ in _style_memo.values()) > STYLE_BYTES:
        _style_memo.popitem(last=False)
    return pixels, digest, notes


def store(table: pa.Table, context: Context, board: Board) -> pa.Table:
    """Stylised rows -> records; images are written first, so an ok record has its image."""
    work = functools.partial(_store_row, context=context)
    stored = _done(table.to_pylist(), "storing", work, board)
    rows = [_record(row, context) for row in stored]
    for row in rows:
        metrics.stored(row)
    failed = sum(row["status"] == "error" for row in rows)
    board.add(len(rows) - failed, failed, [row["pair_id"] for row in rows])
    context.fence()  # what is returned is written next
    numbers = pa.schema([*RECORD_SCHEMA, *columns.as_numbers(context.extra)])
    kinds = pa.schema([*RECORD_SCHEMA, *context.extra])
    return pa.Table.from_pylist(rows, schema=numbers).cast(kinds)


def _store_row(row: dict[str, Any], context: Context) -> dict[str, Any]:
    started = time.perf_counter()
    pixels = unpack(row["__stylized_image"])
    origin = _origin(row, context) if context.embed_metadata else None
    data = codec.encode(pixels, context.file_format, context.quality, origin)
    file_name = f"{records.IMAGES}/{row['file_stem']}.{context.file_format}"
    context.fence()
    files.write_bytes(uris.join(context.output, file_name), data, context.storage_options)
    return {
        "file_name": file_name,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "bytes": len(data),
        "sha256": codec.sha256(data),
        "store_seconds": time.perf_counter() - started,
    }


def _origin(row: dict[str, Any], context: Context) -> dict[str, Any]:
    """How an image was made, for those who have nothing but the image. No time: a row done again
    gives the same bytes."""
    version = json.loads(context.versions)["neural-style-pipeline"]
    told = (
        "alpha",
        "total_loss",
        "content_loss",
        "style_loss",
        "tv_loss",
        "evaluations",
        "stop_reason",
    )
    return {
        "software": f"neural-style-pipeline {version}",
        "pair_id": row["pair_id"],
        **_sources(row),
        "style_blend": row["style_blend"],
        **{name: row[name] for name in told},
        "layer_weights": dict(row["layer_weights"]),
        "weights": context.weights_name,
        "weights_digest": context.weights_digest,
        "settings": _shown(row_settings(row, context.style)),
    }


def _sources(row: dict[str, Any]) -> dict[str, Any]:
    uri, styles = row["content_uri"], row["style_uri"] or []
    return {
        "content_uri": uris.redact(uri) if uri else uri,
        "style_uri": [uris.redact(style) if style else style for style in styles],
    }


def _shown(settings: StyleSettings) -> dict[str, Any]:
    return vars(settings) | {"weights": uris.redact(settings.weights)}


def _record(row: dict[str, Any], context: Context) -> dict[str, Any]:
    ok = row["fault_class"] is None
    try:
        settings = row_settings(row, context.style)
    except ValueError:  # the override that is the row's fault
        settings = context.style
    names = (*RECORD_SCHEMA.names, *context.extra.names)
    return {name: row.get(name) for name in names} | {
        "status": "ok" if ok else "error",
        "error_class": row["fault_class"],
        "error_message": row["fault_message"],
        **_sources(row),
        "settings": json.dumps(_shown(settings)),
        "weights": context.weights_name,
        "weights_digest": context.weights_digest,
        "versions": context.versions,
        "schema_version": SCHEMA_VERSION,
        "finished_at": datetime.datetime.now(datetime.timezone.utc),
    }
