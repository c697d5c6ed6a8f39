"""A model of a job: how many pictures a second it makes on so many devices and cores.

Each part of a job works at a rate of its own, and the slowest decides. ``jobs.bench.job`` compares
the model with real jobs whose devices are simulated.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """What a row of the manifest takes, besides its optimisation.

    Attributes:
        nodes: CPU seconds of tasks, actors and Ray, which any node may spend.
        driver: CPU seconds of the driver, which runs on one core.
        bytes: that are read from storage and written to it.
        requests: to storage.
    """

    nodes: float
    driver: float
    bytes: float
    requests: float


@dataclass(frozen=True)
class Machines:
    """What a job runs on.

    Attributes:
        actors: style actors.
        device_seconds: of an actor's device for a picture.
        cores: of all nodes.
        bandwidth: bytes a second between all nodes and storage.
        requests: that storage answers in a second.
        one_machine: whether the driver's core is one of ``cores``.
    """

    actors: int
    device_seconds: float
    cores: float
    bandwidth: float = float("inf")
    requests: float = float("inf")
    one_machine: bool = False


def rates(row: Row, machines: Machines) -> dict[str, float]:
    """Return how many pictures a second each part of a job could make, if the others were free."""
    shared = row.nodes + (row.driver if machines.one_machine else 0.0)
    return {
        "devices": machines.actors / machines.device_seconds,
        "cores": machines.cores / shared,
        "driver": 1 / row.driver,
        "network": machines.bandwidth / row.bytes,
        "requests": machines.requests / row.requests,
    }


def slowest(row: Row, machines: Machines) -> tuple[str, float]:
    """Return the part that decides, and a job's pictures a second."""
    found = rates(row, machines)
    part = min(found, key=lambda name: found[name])
    return part, found[part]


def dollars_per_million(rate: float, gpus: int, price: float) -> float:
    """Return what the GPUs cost for a million pictures.

    Args:
        rate: pictures a second.
        gpus: that are paid for.
        price: dollars of a GPU hour.
    """
    return 1e6 / rate / 3600 * gpus * price
