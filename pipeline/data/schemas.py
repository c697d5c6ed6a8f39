"""Columns of the manifest, of the plan and of the records."""

import pyarrow as pa

from pipeline.settings import ROW_OVERRIDES

OWN_COLUMNS = (
    "content_uri",
    "style_uri",
    "style_blend",
    "pair_id",
    "output_name",
    "label",
    "split",
    *ROW_OVERRIDES,
)
"""Manifest columns that a job reads; all others are copied into the records."""

PLAN_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("manifest_row", pa.int64()),
        ("content_uri", pa.string()),
        ("style_uri", pa.list_(pa.string())),
        ("style_blend", pa.list_(pa.float64())),
        ("file_stem", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("overrides", pa.string()),
        ("fault_class", pa.string()),
        ("fault_message", pa.string()),
    ]
)
"""Columns of the plan: the manifest, checked and rewritten."""

SCHEMA_VERSION = 2
"""Version of the record columns and of ``job.json`` that this program writes.

Version 1 has neither a ``schema_version`` column nor a ``schema_version`` key.
"""

OLD_NAMES = {"steps": "iterations"}
"""Record columns that had another name in version 1: new name to old name."""

RECORD_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("manifest_row", pa.int64()),
        ("status", pa.string()),  # ok | error
        ("error_class", pa.string()),
        ("error_message", pa.string()),
        ("warnings", pa.list_(pa.string())),  # of pictures that are damaged, and were read
        ("file_name", pa.string()),  # relative to the output, images/...
        ("content_uri", pa.string()),
        ("style_uri", pa.list_(pa.string())),
        ("style_blend", pa.list_(pa.float64())),
        ("label", pa.string()),
        ("split", pa.string()),
        ("width", pa.int32()),  # px
        ("height", pa.int32()),  # px
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("total_loss", pa.float64()),
        ("content_loss", pa.float64()),
        ("style_loss", pa.float64()),
        ("tv_loss", pa.float64()),
        ("layer_losses", pa.map_(pa.string(), pa.float64())),  # final, unweighted
        ("content_image_losses", pa.map_(pa.string(), pa.float64())),  # E_l of the content image
        ("alpha", pa.float64()),  # weight of L_content
        ("layer_weights", pa.map_(pa.string(), pa.float64())),  # w_l
        ("loss_history", pa.list_(pa.float32())),  # total loss after each evaluation
        ("steps", pa.int32()),  # accepted moves of the optimiser
        ("evaluations", pa.int32()),  # of loss and gradient
        ("stop_reason", pa.string()),
        ("load_seconds", pa.float64()),
        ("optimize_seconds", pa.float64()),  # the batch's time, divided by its pairs
        ("store_seconds", pa.float64()),
        ("batch_size", pa.int32()),
        ("settings", pa.string()),  # JSON: all settings that change pixels
        ("weights", pa.string()),
        ("weights_digest", pa.string()),
        ("versions", pa.string()),  # JSON
        ("device", pa.string()),
        ("node", pa.string()),  # Ray's id of the machine that ran the optimiser
        ("finished_at", pa.timestamp("ms", tz="UTC")),
        ("schema_version", pa.int32()),  # SCHEMA_VERSION
    ]
)
"""Columns of the records: one row for each pair, whatever became of it."""
