"""The undocumented parts of Ray that are used, in one place so that each release can be checked.

``missing`` names what an installed Ray no longer has. The parts are imported only when used.
"""

import importlib
import json
import os
import tempfile
from typing import Any

import ray
import ray.data
from ray.data.checkpoint import CheckpointConfig

from pipeline.data.output.records import PENDING

TESTED = ">=2.60,<2.61"
"""Releases of Ray that this program is tested with; pyproject.toml says the same."""

CONSTANTS = "ray._private.ray_constants"
STATUS, UTILS = "ray.autoscaler.v2.sdk", "ray.autoscaler.v2.utils"
STORE = "ray.experimental.internal_kv"
CHECKPOINTS = "ray.data.checkpoint.checkpoint_writer"

NAMES: tuple[tuple[str, str], ...] = (
    (CONSTANTS, "DEBUG_AUTOSCALING_STATUS"),
    (CONSTANTS, "ENABLE_RAY_CLUSTERS_ENV_VAR"),
    (STATUS, "get_cluster_status"),
    (UTILS, "is_autoscaler_v2"),
    (STORE, "_internal_kv_get"),
    (CHECKPOINTS, "PENDING_CHECKPOINT_SUFFIX"),
    ("ray.data.checkpoint", "CheckpointConfig.CHECKPOINT_ACTOR_POOL_MAX_SIZE"),
    ("ray.data", "DataContext.checkpoint_config"),
    ("ray.data.context", "DataContext.use_datasource_v2"),
    ("ray.data.context", "DataContext.execution_no_progress_timeout_s"),
)
"""Modules, and a name that is used from each."""

SETTINGS = (
    "checkpoint_config",
    "enable_progress_bars",
    "execution_no_progress_timeout_s",
    "print_on_execution_start",
    "use_datasource_v2",
)
"""Settings of Ray Data that a job sets and restores, since they hold for the whole process."""

LONGEST_PLACE = 24
"""Most characters of the folder in which ``make_folder`` makes one.

Ray appends 70 to its name, and a socket's name may have 107.
"""

VALUES = {
    f"{CONSTANTS}.ENABLE_RAY_CLUSTERS_ENV_VAR": "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
    f"{CHECKPOINTS}.PENDING_CHECKPOINT_SUFFIX": PENDING.removesuffix(".parquet"),
}
"""Values that some names must have: ``jobs`` sets the variable, ``data`` edits files so named."""


def missing() -> list[str]:
    """Return the names, with their modules, that the installed Ray lacks or uses differently."""
    gone = []
    for module, name in NAMES:
        full = f"{module}.{name}"
        try:
            value = _get(module, name)
        except (ImportError, AttributeError):
            gone.append(full)
        else:
            if VALUES.get(full, value) != value:
                gone.append(full)
    return gone


def _get(module: str, name: str) -> Any:
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def make_folder() -> str:
    """Make a folder for the files of this process's own Ray, which only its user may enter.

    It is made in RAY_TMPDIR if that is set, else in the folder for temporary files if its name is
    short enough for Ray's sockets, else in ``/tmp``.

    Raises:
        OSError: it cannot be made.
    """
    asked = os.environ.get("RAY_TMPDIR")
    place = asked or tempfile.gettempdir()
    if not asked and len(place) > LONGEST_PLACE and os.path.isdir("/tmp"):  # noqa: S108
        place = "/tmp"  # noqa: S108 (what is made there is private)
    return tempfile.mkdtemp(prefix="nst-", dir=place)


def files_in(folder: str) -> dict[str, Any]:
    """Return arguments of ``ray.init`` that have Ray keep all its files in ``folder``.

    They name a folder below it, because Ray lets everybody enter the one that it is given.
    """
    return {"_temp_dir": os.path.join(folder, "ray")}


def checkpoint_config(path: str, filesystem: Any) -> CheckpointConfig:
    """Return the configuration of a checkpoint of pair ids at ``path`` that outlives its job."""
    config = CheckpointConfig(
        id_column="pair_id",
        checkpoint_path=path,
        delete_checkpoint_on_success=False,
        override_filesystem=filesystem,
    )
    config.checkpoint_actor_pool_max_size = 1  # ids are compared faster than images are made
    return config


def set_up(settings: ray.data.DataContext, checkpoint: CheckpointConfig | None) -> None:
    """Have Ray Data use a checkpoint, its older reader, and no timeout."""
    settings.checkpoint_config = checkpoint
    # The newer reader starts 32 processes to look at the ends of the plan's few files.
    settings.use_datasource_v2 = False
    # Spot nodes may be hours away: a job that waits for them does not hang.
    settings.execution_no_progress_timeout_s = -1


def autoscaler() -> tuple[int, str]:
    """Return how many nodes Ray's autoscaler is starting, and why the last launch failed, if so."""
    if _get(UTILS, "is_autoscaler_v2")(fetch_from_server=True):
        status = _get(STATUS, "get_cluster_status")(ray.get_runtime_context().gcs_address)
        failures = [launch.details or "" for launch in status.failed_launches]
        return len(status.pending_launches) + len(status.pending_nodes), "; ".join(failures[-1:])
    text = _get(STORE, "_internal_kv_get")(_get(CONSTANTS, "DEBUG_AUTOSCALING_STATUS"))
    report = (json.loads(text) if text else {}).get("autoscaler_report") or {}
    starting = len(report.get("pending_nodes") or []) + sum(
        (report.get("pending_launches") or {}).values()
    )
    tried = (report.get("node_availability_summary") or {}).get("node_availabilities") or {}
    reasons = [record.get("unavailable_node_information") or {} for record in tried.values()]
    failures = [reason.get("category", "") for reason in reasons if reason]
    return starting, "; ".join(failures[-1:])
