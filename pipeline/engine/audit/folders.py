"""The part of an audit that lists an output's folders: which files belong there?"""

from collections.abc import Iterator

from pipeline.data.output import clearing, lease, packing, records, resume
from pipeline.data.storage import files, local, uris
from pipeline.engine.audit.verdict import Verdict
from pipeline.engine.checking import RESULTS
from pipeline.engine.prepare import PLAN

OWN_NAMES = frozenset(
    {*RESULTS, PLAN, resume.JOURNAL, records.JOB, records.SUMMARY, records.REPORT, lease.LEASE}
)
"""Names of files and folders that jobs and ``jobs.report`` put into an output."""


def check_top(output: str, manifest: str, options: files.StorageOptions, verdict: Verdict) -> None:
    """Add a fault for each file or folder of the output that is not part of one.

    Args:
        output: URI of the output.
        manifest: URI of the manifest, which a job of two folders makes in the output.
        options: storage options, by scheme.
        verdict: takes the faults.

    Raises:
        RowError: the output cannot be listed.
    """
    shards = {
        form
        for form in packing.FORMATS
        if packing.own_index(output, form, options) or packing.is_empty(output, form, options)
    }
    known = {*OWN_NAMES, *shards}
    folder, _, name = manifest.rpartition("/")
    if folder == output:
        known.add(name)
    for name in files.names_in(output, options):
        if name == clearing.MARK:
            verdict.add(
                "unfinished_overwrite", f"{name}: run the job again, which deletes the rest"
            )
        elif name not in known and not local.is_leftover(name):
            verdict.add("foreign_file", name)


def check_records_folder(
    output: str, committed: list[str], options: files.StorageOptions, verdict: Verdict
) -> None:
    """Add a fault for each file in the records' folder that is not one of the committed ones.

    Raises:
        RowError: the folder cannot be listed.
    """
    known = {file.rpartition("/")[2] for file in committed}
    for name in _names_below(output, records.RECORDS, options):
        last = name.rpartition("/")[2]
        if last in known or local.is_leftover(last):
            continue
        ours = last.endswith(".parquet") and not last.startswith(".")
        verdict.add("half_written" if ours else "foreign_file", name)


def check_images_folder(
    output: str, named: set[int], options: files.StorageOptions, verdict: Verdict
) -> None:
    """Add a fault for each file in the images' folder that no record names.

    Args:
        output: URI of the output.
        named: hashes of the file names of the ok records.
        options: storage options, by scheme.
        verdict: takes the faults.

    Raises:
        RowError: the folder cannot be listed.
    """
    for name in _names_below(output, records.IMAGES, options):
        *folders, last = name.split("/")
        metadata = last == "metadata.parquet" and len(folders) <= 2  # images/[SPLIT/]
        if hash(name) not in named and not metadata and not local.is_leftover(last):
            verdict.add("foreign_file", name)


def _names_below(output: str, folder: str, options: files.StorageOptions) -> Iterator[str]:
    """Yield every file below a folder of the output, hidden ones too, relative to the output."""
    for name in files.sizes(uris.join(output, folder), options):
        yield uris.join(folder, name)
