"""The undocumented parts of Ray that are used, in one place so that each release can be checked.

``missing`` names what an installed Ray no longer has. The parts are imported only when used.
"""

import contextlib
import importlib
import json
import os
import site
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.data.checkpoint import CheckpointConfig
from ray.job_config import JobConfig

from pipeline.data.output.records import PENDING

TESTED = ">=2.60,<2.61"
"""Releases of Ray that this program is tested with; pyproject.toml says the same."""

CONSTANTS = "ray._private.ray_constants"
STATUS, UTILS = "ray.autoscaler.v2.sdk", "ray.autoscaler.v2.utils"
STORE = "ray.experimental.internal_kv"
WORKER = "ray._private.worker"
TOKENS = "ray._private.authentication.authentication_token_generator"
CORE = "ray._raylet"
CHECKPOINTS = "ray.data.checkpoint.checkpoint_writer"

NAMES: tuple[tuple[str, str], ...] = (
    (CONSTANTS, "DEBUG_AUTOSCALING_STATUS"),
    (CONSTANTS, "ENABLE_RAY_CLUSTERS_ENV_VAR"),
    (STATUS, "get_cluster_status"),
    (UTILS, "is_autoscaler_v2"),
    (STORE, "_internal_kv_get"),
    (WORKER, "listen_error_messages"),
    (TOKENS, "generate_new_authentication_token"),
    (CORE, "AuthenticationTokenLoader"),
    (CORE, "Config"),
    ("ray.job_config", "JobConfig._serialize"),
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


@contextlib.contextmanager
def deaf() -> Iterator[None]:
    """Keep a driver that connects in the block from printing what Ray tells drivers.

    When a raylet is killed, that is a page of its log.
    """
    worker = importlib.import_module(WORKER)
    listen = _get(WORKER, "listen_error_messages")
    worker.listen_error_messages = lambda *_: None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        worker.listen_error_messages = listen  # type: ignore[attr-defined]


def files_in(folder: str) -> dict[str, Any]:
    """Return arguments of ``ray.init`` that have Ray keep all its files in ``folder``.

    They name a folder below it, because Ray lets everybody enter the one that it is given.
    """
    return {"_temp_dir": os.path.join(folder, "ray")}


IDLE_WORKERS, LEAST_IDLE_WORKERS = "RAY_num_workers_soft_limit", 16
"""The variable of how many idle workers Ray keeps, and the least that a job of ours can use."""


@contextlib.contextmanager
def kept_workers(cpus: int) -> Iterator[None]:
    """Have a Ray that is started in the block keep workers that wait for the next block.

    By default Ray keeps one for each CPU and ends the others after a second. But several tasks of
    ours share a CPU. So on few CPUs a job would start workers again and again, each of which takes
    two or three seconds of CPU to load Ray Data. What the user has set holds.
    """
    given = IDLE_WORKERS in os.environ
    os.environ.setdefault(IDLE_WORKERS, str(max(2 * cpus, LEAST_IDLE_WORKERS)))
    try:
        yield
    finally:
        if not given:
            del os.environ[IDLE_WORKERS]


AUTH_MODE, AUTH_TOKEN, AUTH_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def use_own_token(folder: str) -> dict[str, str | None] | None:
    """Have the Ray that this process is about to start ask for a token that lies in ``folder``.

    Ray itself would write one to ``~/.ray/auth_token``, and every later ``ray start`` would then
    ask for it.

    Returns:
        What ``restore_token`` takes. None, and nothing is changed, if RAY_AUTH_MODE says that no
        token is wanted.
    """
    if os.environ.get(AUTH_MODE, "token").lower() != "token":
        return None
    path = os.path.join(folder, "auth_token")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(_get(TOKENS, "generate_new_authentication_token")())
    before = {name: os.environ.get(name) for name in (AUTH_MODE, AUTH_TOKEN, AUTH_PATH)}
    _set_tokens({AUTH_MODE: "token", AUTH_TOKEN: None, AUTH_PATH: path})
    return before


def restore_token(before: dict[str, str | None] | None) -> None:
    """Undo ``use_own_token``, once its Ray has ended."""
    if before is not None:
        _set_tokens(before)


def _set_tokens(variables: dict[str, str | None]) -> None:
    """Set or delete environment variables, and have Ray's core read them again."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _get(CORE, "Config").initialize("")
    _get(CORE, "AuthenticationTokenLoader").instance().reset_cache()


class OwnModules(JobConfig):
    """A job whose workers import this program's own modules, and none from the current folder.

    Ray would put the driver's current folder first, where a ``pipeline`` or ``jobs`` of the user's
    may lie. What a submitted job says of itself, such as its working_dir, stays.
    """

    def _serialize(self) -> str:
        # Where a job was submitted with a working_dir, Ray's nodes unpack the program there.
        submitted: bool = self._runtime_env_has_working_dir()  # type: ignore[no-untyped-call]
        self._py_driver_sys_path = [] if submitted else own_path()
        serialized: str = super()._serialize()
        return serialized


def own_path() -> list[str]:
    """Return the folder of this program, unless each Python of this environment has it."""
    root = str(Path(__file__).resolve().parents[3])
    known = [*site.getsitepackages(), site.getusersitepackages(), *sysconfig.get_paths().values()]
    return [] if root in map(os.path.realpath, known) else [root]


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
