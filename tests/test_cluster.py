"""cluster.yaml passes Ray's own schema check, and a misspelt key does not."""

import copy
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parent.parent / "cluster.yaml"


@pytest.fixture
def config():
    return yaml.safe_load(FILE.read_text())


def test_rays_schema_accepts_it(config):
    validate_config(prepare_config(copy.deepcopy(config)))


def test_rays_schema_would_refuse_a_misspelt_key(config):
    config["idle_timeout_minuets"] = config.pop("idle_timeout_minutes")
    with pytest.raises(Exception, match="idle_timeout_minuets"):
        validate_config(prepare_config(config))


def test_head_without_gpu_and_gpu_workers_from_none_on_spot(config):
    types = config["available_node_types"]
    head, gpu = types[config["head_node_type"]], types["gpu"]
    assert "GPU" not in head["resources"]
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, config["max_workers"])
    assert gpu["resources"]["GPU"] == 1
    assert gpu["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


def test_s3_is_reached_by_instance_profile_not_by_keys(config):
    for node_type in config["available_node_types"].values():
        assert "IamInstanceProfile" in node_type["node_config"]
    assert "AWS_SECRET" not in FILE.read_text().upper()
