"""The manifest's rows as an audit expects to find them among the records."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.ids import hash_ids
from pipeline.data.manifest import manifest as manifests
from pipeline.data.manifest import row_keys
from pipeline.settings import StyleSettings


@dataclass(frozen=True)
class Expected:
    """The manifest's rows as numbers: 18 bytes each, so that millions fit in the driver.

    Attributes:
        ids: (N,) hashes of the pair ids, sorted. The other arrays are in the same order.
        row_keys: (N,) hashes of what each image is made from.
        recorded: (N,) whether a record was found.
        checkpointed: (N,) whether the checkpoint has the pair.
    """

    ids: npt.NDArray[np.int64]
    row_keys: npt.NDArray[np.int64]
    recorded: npt.NDArray[np.bool_]
    checkpointed: npt.NDArray[np.bool_]

    @classmethod
    def of_rows(
        cls, chunks: Iterable[list[dict[str, Any]]], style: StyleSettings, base: str, shown: str
    ) -> "Expected":
        """Return the manifest's rows, none of which has been found yet.

        Args:
            chunks: rows of the plan.
            style: settings of the job.
            base: directory to which the manifest's relative URIs are relative.
            shown: the manifest's URI without credentials.

        Raises:
            ManifestError: it cannot be read, has no rows, or two rows have one pair_id.
        """
        ids: list[npt.NDArray[np.int64]] = []
        keys: list[npt.NDArray[np.int64]] = []
        for chunk in chunks:
            ids.append(hash_ids(row["pair_id"] for row in chunk))
            found = [row_keys.key_of_plan(row, style, base) for row in chunk]
            keys.append(np.array(found, np.int64))
        if not ids:
            raise manifests.ManifestError(f"manifest {shown}: it has no rows")
        every = np.concatenate(ids)
        order = np.argsort(every)
        every = every[order]
        if (every[1:] == every[:-1]).any():
            raise manifests.ManifestError(f"manifest {shown}: two rows have the same pair_id")
        not_found = np.zeros(len(every), np.bool_)
        return cls(every, np.concatenate(keys)[order], not_found, not_found.copy())

    def find(self, pair_id: str) -> int | None:
        """Return the index of a pair in the arrays; None if the manifest does not have it."""
        key = hash(pair_id)
        place = int(np.searchsorted(self.ids, key))
        return place if place < len(self.ids) and self.ids[place] == key else None
