"""What an audit finds.

A fault has one of these names:

==========================  ======================================================================
``missing_record``          a row of the manifest has no record
``duplicate_record``        a pair has more than one record
``unknown_record``          the manifest has no such pair (any more)
``changed_row``             the image was made from other URIs, weights of styles, label, split or
                            overrides than the manifest's row now has
``unknown_status``          a record's status is neither ok nor error
``foreign_path``            a record names an image as no job does; it may lead out of the output
``unreadable_records``      a file of records is not a Parquet file of this program
``half_written``            a file of records was never committed
``missing_image``           an ok record's image does not exist
``wrong_bytes``             the image has another length or digest than recorded
``unreadable_image``        the image is as recorded, but cannot be decoded
``wrong_size``              the image has another width or height than recorded
``shared_image``            the records of two pairs name one image
``unreadable_index``        an index.json of shards cannot be read, or this program did not write it
``unfinished_shards``       a job was killed while it made shards, or is making them now
``stale_shards``            the shards were made from other ok records than there are now; a job
                            updates those of its own --format only
``missing_shard``           a shard that the index names does not exist
``wrong_shard``             a shard has another length or digest than the index says
``unfinished_overwrite``    a job with --overwrite was killed while it deleted, or is deleting now
``foreign_file``            a file is not part of an output
``checkpoint_without_record``, ``record_without_checkpoint``, ``unreadable_checkpoint``
                            Ray Data's checkpoint disagrees with the records, or cannot be read
``read_failed``             the storage refused or failed, so this much is not known
==========================  ======================================================================
"""

from collections import Counter
from dataclasses import dataclass, field

EXAMPLES = 5
"""Cases of each fault, and failed pairs, that are named. The others are only counted."""

LONGEST_EXAMPLE = 300
"""Characters of an example that are kept."""


@dataclass
class Verdict:
    """What an audit found.

    Attributes:
        pairs: pairs of the job.
        manifest_rows: rows of the manifest; more than ``pairs`` if the job has a limit.
        ok: pairs with an ok record.
        errors: pairs with an error record.
        images: images that were checked.
        image_bytes: their size in bytes.
        faults: number of faults by name.
        examples: descriptions of the first faults by name.
        failed: pair id and error message of the first pairs that failed.
        at_work: which job held the output's lease during the audit; None if none did. If one did,
            nothing here is final.
    """

    pairs: int
    manifest_rows: int
    ok: int = 0
    errors: int = 0
    images: int = 0
    image_bytes: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    failed: list[tuple[str, str]] = field(default_factory=list)
    at_work: str | None = None

    def add(self, fault: str, what: str) -> None:
        """Count a fault and keep its description if it is one of the first."""
        self.faults[fault] += 1
        named = self.examples.setdefault(fault, [])
        if len(named) < EXAMPLES:
            named.append(what[:LONGEST_EXAMPLE])

    def add_error(self, pair_id: str, message: str) -> None:
        """Count an error record and keep it if it is one of the first."""
        self.errors += 1
        if len(self.failed) < EXAMPLES:
            self.failed.append((pair_id, message))
