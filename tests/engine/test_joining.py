"""A cluster that was joined: its nodes have another environment than the driver."""

import socket
import time

import pytest

from pipeline.data.storage import files
from pipeline.engine.runtime import cluster, nodes
from pipeline.settings import SettingError
from tests.conftest import free_port

pytestmark = pytest.mark.usefixtures("local_ray")


def test_credentials_that_only_the_driver_has_end_a_job_before_it_starts(s3, monkeypatch):
    options, bucket = s3
    plan = f"s3://{bucket}/out/__plan__"
    files.write_bytes(f"{plan}/part-00000.parquet", b"rows", options)
    nodes.check_sight(plan, options)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    of_the_shell = {"s3": {"endpoint_url": options["s3"]["endpoint_url"]}}
    assert files.list_files(plan, of_the_shell)
    with pytest.raises(SettingError, match=f"a node of the cluster cannot read {plan} .*Cred") as e:
        nodes.check_sight(plan, of_the_shell)
    assert "give them a role" in str(e.value)
    assert "\n" not in str(e.value)
    with pytest.raises(SettingError, match="it is not there"):
        nodes.check_sight(f"s3://{bucket}/nothing", options)


def test_an_address_where_nobody_listens_is_refused_at_once(monkeypatch):
    started = time.monotonic()
    for address in (f"127.0.0.1:{free_port()}", f"ray://127.0.0.1:{free_port()}"):
        with pytest.raises(OSError, match="refused"):
            cluster._knock(address)
    with socket.create_server(("127.0.0.1", 0)) as server:
        cluster._knock(f"127.0.0.1:{server.getsockname()[1]}")
    for word in ("auto", "local", "nonsense"):
        cluster._knock(word)
    assert time.monotonic() - started < 5
