"""The load stage: fetch, decode and resize the images of a pair."""

import functools
import hashlib
import time
from collections import OrderedDict
from typing import Any

import pyarrow as pa

from pipeline.data.errors import RowError
from pipeline.data.images import codec, sizing
from pipeline.data.images.sizing import Pixels
from pipeline.data.storage import files, uris
from pipeline.engine.board import Board
from pipeline.engine.stages import blocks
from pipeline.engine.stages.context import Context, pair_settings
from pipeline.engine.stages.guarding import FAULT, work_on_pairs

STYLE_BYTES = 2**26
"""Most bytes of style pixels that a load process keeps for later pairs."""

Versions = dict[str, str | None]
"""What ``files.version`` returned for URIs. On an object store each answer costs a request."""


def load(table: pa.Table, context: Context, board: Board) -> pa.Table:
    """Add to rows of the plan their decoded, resized images, or a fault.

    Args:
        table: rows of the plan.
        context: what the job's stages know.
        board: learns which pairs are under way here.

    Raises:
        RuntimeError: pair after pair ended its processes and none succeeded.
    """
    versions: Versions = {}
    work = functools.partial(load_images, context=context, versions=versions)
    planned = blocks.rows_of(table, without=context.extra.names)
    rows = work_on_pairs(planned, "loading", work, board)
    found = [*FAULT, *(name for name, _ in blocks.LOADED)]
    return blocks.with_columns(table, rows, found, context.schema(*blocks.LOADED))


def load_images(
    row: dict[str, Any], context: Context, versions: Versions | None = None
) -> dict[str, Any]:
    """Return the ``LOADED`` columns of a row of the plan.

    Args:
        row: a row of the plan.
        context: what the job's stages know.
        versions: what the storage has said of style images in this block, which is added to.

    Raises:
        RowError: an image cannot be read, or the result could not be written.
    """
    started = time.perf_counter()
    settings = pair_settings(row, context.style)
    uri = row["content_uri"]
    content, notes = _read_image(uri, settings.image_size, settings.image_edge, context)
    codec.check_format(content.shape[1], content.shape[0], context.file_format)
    size = settings.image_size * settings.style_scale
    styles = [
        _read_style(uri, size, settings.image_edge, context, versions) for uri in row["style_uri"]
    ]
    found = [("content", uri, notes)]
    found += [("style", uri, style[2]) for uri, style in zip(row["style_uri"], styles, strict=True)]
    warnings = [_warning(*image) for image in found if image[2]]
    return {
        "__content_image": blocks.image_value(content),
        "__style_images": [image for image, *_ in styles],
        "__style_keys": [key for _, key, _ in styles],
        "warnings": warnings or None,
        "load_seconds": time.perf_counter() - started,
    }


def _warning(role: str, uri: str, notes: list[str]) -> str:
    return f"{role} {uris.redact(uri)}: was read, but {'; '.join(notes)}"


def _read_image(uri: str, size: float, edge: str, context: Context) -> tuple[Pixels, list[str]]:
    """Return the pixels of an image, and notes about what is wrong with its file."""
    notes: list[str] = []
    name = uris.redact(uri)
    data = files.read_bytes(uri, context.storage_options, context.max_bytes)

    def fit(width: int, height: int) -> tuple[int, int]:
        try:
            return sizing.fit_size(width, height, size, edge, context.max_pixels)
        except RowError as error:
            raise RowError(error.error_class, f"{name}: {error}") from error

    image = codec.decode(data, name, context.max_pixels, notes=notes, fit=fit)
    pixels = sizing.resize(image, fit(*sizing.whole_size(image)))
    return pixels, list(dict.fromkeys(notes))


_Style = tuple[dict[str, Any], str, list[str]]
_Memo = OrderedDict[tuple[object, ...], _Style]

_style_memo: _Memo = OrderedDict()


def _read_style(
    uri: str, size: float, edge: str, context: Context, versions: Versions | None = None
) -> _Style:
    """Return a style image as ``blocks.image_value`` does, its digest, and notes about its file.

    Pairs of one style follow each other, so a process keeps the last few style images. It may
    serve another job later, when the file may have been replaced.
    """
    versions = {} if versions is None else versions
    if uri not in versions:
        versions[uri] = files.version(uri, context.storage_options)
    memo = (context.job_id, uri, versions[uri], size, edge, context.max_pixels, context.max_bytes)
    if memo in _style_memo:
        _style_memo.move_to_end(memo)
        return _style_memo[memo]
    pixels, notes = _read_image(uri, size, edge, context)
    digest = hashlib.sha256(pixels.tobytes() + str(pixels.shape).encode()).hexdigest()
    style = blocks.image_value(pixels), digest, notes
    _style_memo[memo] = style
    while sum(image["pixels"].nbytes for image, *_ in _style_memo.values()) > STYLE_BYTES:
        _style_memo.popitem(last=False)
    return style
