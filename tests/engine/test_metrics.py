"""Metrics: as a Prometheus would scrape them, and as the dashboard asks for them."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray
import torch

from pipeline.engine.job import run_job
from pipeline.engine.metrics import METRICS, gpu_percent
from pipeline.settings import JobSettings
from tests.conftest import image_bytes, write_parquet

ROOT = Path(__file__).parent.parent.parent
ENDINGS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
EXPORTED = {
    f"ray_{name}{ending}" for name, found in METRICS.items() for ending in ENDINGS[found.kind]
}


def test_the_dashboard_asks_only_for_what_is_exported():
    panels = json.loads((ROOT / "deploy/grafana.json").read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    assert all("ray_style_" in query for query in asked)
    assert {name for query in asked for name in re.findall(r"ray_\w+", query)} <= EXPORTED


def test_the_dashboards_panels_have_a_place_a_unit_and_the_chosen_prometheus():
    board = json.loads((ROOT / "deploy/grafana.json").read_text())
    (variable,) = board["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    places = set()
    for panel in board["panels"]:
        assert panel["datasource"] == {"type": "prometheus", "uid": f"${{{variable['name']}}}"}
        assert panel["fieldConfig"]["defaults"]["unit"] in {"short", "percentunit", "bytes", "s"}
        grid = panel["gridPos"]
        columns = range(grid["x"], grid["x"] + grid["w"])
        cells = {(x, y) for x in columns for y in range(grid["y"], grid["y"] + grid["h"])}
        assert columns.stop <= 24
        assert not cells & places, "panels overlap"
        places |= cells
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_documentation_names_every_metric():
    named = set(re.findall(r"`(style_\w+)`", (ROOT / "docs/metrics.md").read_text()))
    assert named == set(METRICS)


def test_utilization_is_a_share_or_unknown():
    assert gpu_percent(torch.device("cpu")) is None
    found = gpu_percent(torch.device("cuda"))
    assert found is None or 0 <= found <= 100
    if not torch.cuda.is_available():
        assert found is None


@pytest.fixture
def endpoint(forking):
    with forking():
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
            _system_config={"metrics_report_interval_ms": 500},
        )  # fmt: skip
    (node,) = ray.nodes()
    yield f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    ray.shutdown()


def scrape(endpoint) -> dict[str, float]:
    """Sums over Ray's workers, with the tags that are ours; histograms by their counts."""
    sums: dict[str, float] = {}
    driver = ray.get_runtime_context().get_worker_id()  # counts what other tests did in it
    with urllib.request.urlopen(endpoint, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    for line in lines:
        if match := re.match(r"ray_(style_\w+)\{(.*)\} (\S+)$", line):
            name, tags, value = match.groups()
            if driver in tags:
                continue
            own = re.findall(r'(?:error_class|stage)="(\w+)"', tags)
            key = " ".join([name, *own])
            sums[key] = sums.get(key, 0) + float(value)
    return sums


def test_a_run_is_seen_by_prometheus(endpoint, tmp_path, quick):
    for name in ("a", "b", "s"):
        (tmp_path / f"{name}.png").write_bytes(image_bytes(ord(name), 64, 64))
    rows = [{"content_uri": f"{c}.png", "style_uri": "s.png"} for c in ("a", "b", "missing")]
    manifest = write_parquet(tmp_path / "m.parquet", rows)
    run_job(quick, JobSettings(manifest=manifest, output=str(tmp_path / "out"), actors=1))
    expected = {
        "style_pairs_done_total": 2,
        "style_pairs_failed_total not_found": 1,
        "style_pairs_optimized_total": 2,
        "style_evaluations_total": 2 * 8,
        "style_cache_hits_total": 1,
        "style_cache_misses_total": 1,
        "style_loss_count": 2,
        "style_stage_seconds_count load": 2,
        "style_stage_seconds_count optimize": 2,
        "style_stage_seconds_count store": 2,
    }
    for _ in range(20):
        seen = scrape(endpoint)
        found = {name: seen.get(name) for name in expected}
        if found == expected:
            break
        time.sleep(0.5)
    assert found == expected
    assert seen["style_slots"] >= 1
