"""The nodes of a joined cluster: whether they can read the plan and hold a style actor."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from pipeline.data.storage import failures, files, uris
from pipeline.data.words import counted
from pipeline.engine.resources import Resources
from pipeline.engine.runtime import private_ray
from pipeline.settings import JobSettings, SettingError

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds without a fitting node, and without one on its way, until a job that waits gives up."""

SAY_EVERY = 30.0
"""Seconds between two lines that say what is waited for."""


def node_resources() -> list[dict[str, float]]:
    """Return what each living node offers in all, used or not."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def check_cpu_actors(
    job: JobSettings, resources: Resources, nodes: Sequence[Mapping[str, float]]
) -> None:
    """On a joined cluster: see that actors on CPUs were meant, and that it has CPUs for them.

    An actor's share of the CPUs that are up may be as small as nothing: any number would start
    there, and the autoscaler not be asked. A whole CPU each would be no remedy: they would take the
    head's CPUs as well, and Ray Data, which needs two, would wait for ever.

    Raises:
        SettingError: they are more than the CPUs that are up, and what each reserves is not given.
    """
    if resources.gpus_per_actor or job.cpus_per_actor is not None:
        return
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    if resources.actors > cpus:
        raise SettingError(
            f"cpus_per_actor: the cluster has {cpus:g} CPUs now and no GPU, so what each of "
            f"{resources.actors} actors is to reserve on nodes to come cannot be chosen; give "
            "--gpus-per-actor 1 to have them on GPUs, else --cpus-per-actor (and leave two CPUs "
            "free), or fewer --actors"
        )
    if job.actors and job.gpus_per_actor is None:
        logger.info(
            "note: the cluster has no GPU now, so the actors use its CPUs; give --gpus-per-actor 1 "
            "to have them wait for GPUs",
        )


def check_sight(plan: str, options: files.StorageOptions) -> None:
    """See from one of the cluster's nodes that the plan, which this process wrote, can be read.

    Raises:
        SettingError: it cannot. Ray Data would only miss a file.
    """
    fault: str = ray.get(ray.remote(_fault_of).options(num_cpus=0).remote(plan, options))
    if fault:
        raise SettingError(
            f"storage: a node of the cluster cannot read {uris.redact(plan)} ({fault}), this "
            "process can: credentials and endpoints of its environment do not reach the nodes; "
            "give them a role, or the same environment, or --config with storage_options"
        )


def _fault_of(folder: str, options: files.StorageOptions) -> str:
    """Why a folder's files cannot be read here; nothing if they can."""
    try:
        found = files.list_files(folder, options)
        if found:
            next(files.read_chunks(found[0], options))
    except Exception as error:
        return failures.reason_at(folder, error)
    return "" if found else "it is not there"


def wait_for_room(resources: Resources) -> None:
    """Return once there is a node for a style actor. A task with its demand wakes the autoscaler.

    Says on standard error what is waited for.

    Raises:
        SettingError: no node fits, and for PATIENCE seconds none was on its way either.
    """
    need = {"GPU": resources.gpus_per_actor, "CPU": resources.cpus_per_actor}
    if _offer(need, node_resources()):
        return  # if all of it is in use, Ray Data waits for it as well
    shown = " and ".join(f"{count:g} {name}" for name, count in need.items() if count) or "0 CPU"
    probe = ray.remote(_nothing).options(num_gpus=need["GPU"], num_cpus=need["CPU"]).remote()
    since = time.monotonic()
    said = since - SAY_EVERY + min(SAY_EVERY, 5.0)  # places that are free are found within seconds
    try:
        while not ray.wait([probe], timeout=1)[0]:
            now = time.monotonic()
            nodes = node_resources()
            fits = _offer(need, nodes)
            starting, failed = private_ray.autoscaler()
            if fits or starting or failed:
                since = now
            elif now - since > PATIENCE:
                setting = "gpus_per_actor" if need["GPU"] else "cpus_per_actor"
                raise SettingError(
                    f"{setting}: an actor asks for {shown}, but the cluster's "
                    f"{counted(len(nodes), 'node')} do not offer that and no autoscaler is "
                    "starting one that does; ask for less, or add such a node type to the cluster"
                )
            if now - said >= SAY_EVERY:
                said = now
                have = "those that offer it are in use" if fits else "no node offers it yet"
                coming = f", {counted(starting, 'node')} on the way" if starting else ""
                trouble = f", the last launch failed: {failed}" if failed else ""
                logger.info(
                    f"waiting for a place for a style actor ({shown}): "
                    f"{counted(len(nodes), 'node')}, {have}{coming}{trouble}",
                )
    except BaseException:  # not after it was found: Ray aborts where a task that ends is cancelled
        ray.cancel(probe)
        raise


def _offer(need: dict[str, float], nodes: list[dict[str, float]]) -> bool:
    """Whether one of the nodes is large enough, used or not."""
    return any(all(node.get(name, 0) >= need[name] for name in need) for node in nodes)


def _nothing() -> None:
    return None
