"""The Ray that a job runs on: join it, or start one and end it again."""

import atexit
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray

from pipeline.data.storage import failures
from pipeline.engine.resources import RAY_DATA_CPUS
from pipeline.engine.runtime import private_ray, pulse, watcher
from pipeline.engine.runtime.stderr import captured_stderr
from pipeline.redaction import redact

logger = logging.getLogger(__name__)

KNOCK_TIMEOUT = 10.0
"""Seconds in which a cluster must take a connection."""


class ClusterError(RuntimeError):
    """Ray cannot be reached or started. The message says where and what to do."""


@dataclass
class _Own:
    """What ``start_ray`` has begun and ``stop_ray`` is to end."""

    folder: str | None = None
    keep: bool = False
    tokens: dict[str, str | None] | None = None  # ``private_ray.restore_token`` takes it
    level: int | None = None  # of Ray's logger before
    stop_pulse: Callable[[], None] = field(default=lambda: None)


_own = _Own()


def check_ray() -> None:
    """See that the installed Ray has what is used of it beyond its documented interface.

    Raises:
        ClusterError: something is gone, or means something else.
    """
    gone = private_ray.missing()
    if gone:
        raise ClusterError(
            f"Ray {ray.__version__} has no {gone[0]} as this program uses it; it is tested with "
            f"other releases: pip install 'ray[data,default]{private_ray.TESTED}'"
        )


def start_ray(verbose: bool) -> bool:
    """Join the cluster of RAY_ADDRESS (``ray job submit`` sets it), else start Ray here.

    Returns whether Ray was started or joined here, which ``stop_ray`` ends. A Ray started here is
    this user's alone: its files lie in a folder that nobody else may enter, with a token that it
    asks for, and it binds to loopback if ``jobs`` was imported before ``ray``, which only then
    reads what says so. It writes nothing in the user's home. Workers import this program from
    where this process has it, not from the current folder. SIGTERM (``ray job stop``) becomes a
    KeyboardInterrupt.

    Raises:
        ClusterError: the cluster cannot be reached, or Ray did not start here; or ``check_ray``.
    """
    check_ray()
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    level = logging.INFO if verbose else logging.ERROR
    address = os.environ.get("RAY_ADDRESS")
    cpus = max(RAY_DATA_CPUS, os.cpu_count() or 1)
    here: dict[str, Any] = {
        "address": "local",
        "num_cpus": cpus,
        "include_dashboard": False,
    }
    words: list[str] = []
    folder = None
    _own.level = logging.getLogger("ray").level
    try:
        if address:
            _knock(address)
        else:
            folder = private_ray.make_folder()
            watcher.remember(ray=folder)
            here |= private_ray.files_in(folder)
            _own.tokens = private_ray.use_own_token(folder)
        with contextlib.ExitStack() as stack:
            stack.enter_context(private_ray.kept_workers(cpus))
            if not verbose:  # what Ray and its core write is not for those who run jobs
                stack.enter_context(private_ray.deaf())
                os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
                words = stack.enter_context(captured_stderr())
            arguments = {} if address else here
            if not (address or "").startswith("ray://"):  # that server may not have our class
                arguments["job_config"] = private_ray.OwnModules()
            ray.init(log_to_driver=verbose, logging_level=level, **arguments)
    except SystemExit as error:  # how ray.init takes SIGTERM
        _delete(folder)
        raise KeyboardInterrupt from error
    except Exception as error:  # of many kinds: a slow start ends in a bare Exception
        _delete(folder)
        raise _not_there(address, error, words) from error
    except BaseException:  # Ctrl-C
        _delete(folder)
        raise
    stop_by_signals()  # ray.init has set its own
    _own.folder, _own.keep = folder, verbose
    with contextlib.suppress(Exception):  # a driver from outside the cluster knows neither
        gcs = None if folder else ray.get_runtime_context().gcs_address
        processes = pulse.of_folder(folder) if folder else pulse.of_cluster()
        _own.stop_pulse = pulse.watch(processes, gcs)
    atexit.register(stop_ray)  # goes before Ray's own, which the pulse would take for a death
    return True


def stop_ray() -> None:
    """Leave the Ray that ``start_ray`` has joined, or end the one that it started.

    With that one go its files, unless it was verbose: then a line says where Ray's logs are.
    """
    atexit.unregister(stop_ray)
    folder, keep = _own.folder, _own.keep
    _own.stop_pulse()
    ray.shutdown()
    _own.folder, _own.stop_pulse = None, _nothing
    if folder and keep:
        logger.info(f"Ray's logs are kept in {folder}")
    _delete(folder, keep)


def _delete(folder: str | None, keep: bool = False) -> None:
    """Delete what is left of a Ray that has ended.

    Its processes, its token's place in the environment, its logger's level, and its files unless
    ``keep``.
    """
    if _own.level is not None:
        logging.getLogger("ray").setLevel(_own.level)
    _own.level = None
    private_ray.restore_token(_own.tokens)
    _own.tokens = None
    if folder:
        watcher.clear(folder, keep)
        watcher.forget("ray")


def stop_by_signals() -> None:
    """Have SIGTERM (``ray job stop``) and SIGHUP (a closed terminal) act as Ctrl-C.

    So nothing of the plan stays behind.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # not where nohup has it ignored
        signal.signal(signal.SIGHUP, signal.default_int_handler)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """``stop_by_signals`` while the block runs; then what they did before holds again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    stop_by_signals()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:  # else it is no handler of Python's
                    signal.signal(number, handler)


def _knock(address: str) -> None:
    """See that somebody listens at host:port: Ray itself would try for ten minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():  # else it is a word of Ray's, or nonsense, which Ray refuses
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_TIMEOUT).close()


def _not_there(address: str | None, error: Exception, words: list[str]) -> ClusterError:
    address = redact(address) if address else None
    if address and any("AuthToken" in line for line in words):
        return ClusterError(
            f"Ray at {address} asks for a token, and got none or another one; set "
            "RAY_AUTH_MODE=token and see that ~/.ray/auth_token is the cluster's; see "
            "docs/clusters.md"
        )
    if address:
        return ClusterError(
            f"Ray at {address} cannot be reached ({failures.reason(error)}); RAY_ADDRESS is for "
            "ray job submit and for drivers on the cluster, unset it to run here"
        )
    return ClusterError(
        f"Ray did not start on this machine ({failures.reason(error)}); if it is busy with other "
        "work, run the same command again when it is not; --verbose shows Ray's log"
    )


def _nothing() -> None:
    return None
