"""What several test modules share: narrow networks, pictures and pairs of them, servers, a Ray."""

import jobs  # noqa: F401, I001  (sets what must be set before torch is loaded)
import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import safetensors.torch
import torch
from PIL import Image
from ray.cluster_utils import Cluster

from jobs._cli import show_what_is_logged
from pipeline.data.storage import filesystems
from pipeline.engine.runtime import private_ray
from pipeline.settings import StyleSettings
from pipeline.style.network.rescaling import random_weights
from tests.forking import ROOT, forked_workers

# Ray settles once in a process whether it asks for tokens; tests start Rays of both kinds.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = (
    "0"  # as where a job starts Ray; else each has an actor more
)

# The same examples each time: what passes here passes in continuous integration.
hypothesis.settings.register_profile("same", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("same")

show_what_is_logged()  # as each command does, so that tests see what users see

LONG = ("tests/engine/", "tests/test_commands.py", "tests/test_examples.py", "tests/jobs/")
"""Tests that come first, so that no process is left with one of them when the others are done."""

NARROW = (4, 6, 8, 8, 8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def picture(seed: int, height: int, width: int) -> torch.Tensor:
    """(3, height, width) in [0, 1]: a few soft waves of colour."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [
        np.sin(2 * np.pi * (rng.uniform(1, 6) * x + rng.uniform(1, 6) * y + rng.uniform()))
        for _ in range(6)
    ]
    mixing = rng.uniform(-1, 1, (3, 6))
    values = 0.5 + 0.12 * np.einsum("cw,whx->chx", mixing, np.stack(waves))
    return torch.from_numpy(values.clip(0, 1)).float()


def image_bytes(seed: int, height: int, width: int, file_format: str = "PNG", **options) -> bytes:
    values = (picture(seed, height, width).permute(1, 2, 0).numpy() * 255).round().astype("uint8")
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def narrow_state():
    """Weights of VGG-19's form with a few filters a layer."""
    return random_weights(7, NARROW)


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory, narrow_state) -> Path:
    path = tmp_path_factory.mktemp("weights") / "narrow.safetensors"
    safetensors.torch.save_file(narrow_state, path)
    return path


@pytest.fixture
def quick(weights_file) -> StyleSettings:
    """Settings that take a fraction of a second."""
    return StyleSettings(weights=str(weights_file), image_size=64, iterations=8, scales=1)


@pytest.fixture
def small_scales(monkeypatch) -> None:
    """Coarse scales of 64 px, so that small pictures have some."""
    monkeypatch.setattr("pipeline.style.method.targets.COARSEST", 64)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def s3_server():
    """A real S3 endpoint on loopback, in a process of its own; ends with the session."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": "50"},  # on a page of a listing
    )
    try:

        def answers() -> bool:
            assert server.poll() is None, "moto's server ended at once"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True
            return False

        wait_until(answers, 60)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def s3(s3_server):
    """Storage options for the endpoint, and a fresh bucket in it: (options, bucket)."""
    options = {"s3": {"endpoint_url": s3_server, "key": "test", "secret": "test"}}
    fs, _ = filesystems.filesystem("s3://x", options)
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    fs.mkdir(bucket)
    return options, bucket


@pytest.fixture(scope="session")
def forking(tmp_path_factory):
    """A context: the workers of a Ray that is started in it fork."""
    with forked_workers(tmp_path_factory.mktemp("workers")) as python:

        @contextlib.contextmanager
        def starting():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "executable", python)
                yield

        starting.folder = str(Path(python).parent)
        yield starting


@pytest.fixture
def forked_commands(forking, monkeypatch):
    """The workers of the Rays that a test's commands start fork."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((forking.folder, str(ROOT))))


@pytest.fixture(scope="session")
def ray_address(forking):
    """A Ray of two CPUs for all modules: what Ray Data starts for a first job serves them all."""
    head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 10**9}
    head |= {"include_log_monitor": False}
    with forking(), private_ray.kept_workers(2), pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPORTER_UPDATE_INTERVAL_MS", "60000")  # nobody reads these figures
        cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def local_ray(ray_address):
    """A driver that one module after the other has, so that Ray Data's processes serve them all."""
    if not ray.is_initialized():
        ray.init(address=ray_address, log_to_driver=False)


@pytest.fixture(scope="module", autouse=True)
def _no_driver_of_others(request):
    """End the driver of ``local_ray`` before a module that does not ask for it."""
    module = request.node
    if not any(
        "local_ray" in item.fixturenames
        for item in request.session.items
        if item.getparent(pytest.Module) is module
    ):
        ray.shutdown()


@contextlib.contextmanager
def within(seconds):
    """Fail if the block takes longer, even if it waits for a file or runs in circles."""

    def late(*_):
        pytest.fail(f"it takes longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.2)


def write_parquet(path, rows) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def equal_pairs(folder, count) -> list[dict]:
    """Rows of a manifest: so many pairs of two images of 64 px, which are written to ``folder``."""
    for seed, name in enumerate(("c.png", "s.png")):
        (folder / name).write_bytes(image_bytes(seed, 64, 64))
    row = {"content_uri": "c.png", "style_uri": "s.png"}
    return [{"pair_id": f"p{index:02d}", **row} for index in range(count)]
