"""cluster.yaml against Ray's schema, Ray's AWS bootstrap and an EC2 endpoint on loopback."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
import yaml
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.aws.utils import client_cache, resource_cache
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parent.parent
FILE = ROOT / "cluster.yaml"
REGION = "us-west-2"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "ec2.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}


@pytest.fixture
def config():
    return yaml.safe_load(FILE.read_text())


def documented_policies():
    """docs/clusters.md's IAM policies: of the buckets (both roles), and of the head."""
    blocks = re.findall(r"```json\n(.*?)```", (ROOT / "docs/clusters.md").read_text(), re.DOTALL)
    return [json.loads(block) for block in blocks]


def create_profiles(iam) -> None:
    """The roles and instance profiles that docs/clusters.md tells to make."""
    buckets, head = documented_policies()
    for name, policies in {
        "neural-style-head": [buckets, head],
        "neural-style-worker": [buckets],
    }.items():
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST))
        for number, policy in enumerate(policies):
            iam.put_role_policy(
                RoleName=name, PolicyName=str(number), PolicyDocument=json.dumps(policy)
            )
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)


def enter(home: Path, environment) -> None:
    """A home directory where Ray may leave its key pair, and credentials of nobody."""
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0123456789abcdef")
    environment["HOME"] = str(home)
    environment |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    before = dict(os.environ)
    path = tmp_path_factory.mktemp("home")
    enter(path, os.environ)
    yield path
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def aws(home):
    """AWS in this process, with the two profiles in it."""
    with mock_aws():
        create_profiles(boto3.client("iam", REGION))
        resource_cache.cache_clear()  # Ray keeps clients, which would belong to an earlier mock
        client_cache.cache_clear()
        yield boto3.client("ec2", REGION)
    resource_cache.cache_clear()
    client_cache.cache_clear()


@pytest.fixture(scope="module")
def bootstrapped(aws):
    """cluster.yaml as `ray up` hands it to the head: with everything found or made."""
    return _bootstrap_config(yaml.safe_load(FILE.read_text()), no_config_cache=True)


def test_rays_schema_accepts_it(config):
    validate_config(prepare_config(copy.deepcopy(config)))


def test_rays_schema_would_refuse_a_misspelt_key(config):
    config["idle_timeout_minuets"] = config.pop("idle_timeout_minutes")
    with pytest.raises(Exception, match="idle_timeout_minuets"):
        validate_config(prepare_config(config))


def test_head_without_gpu_and_gpu_workers_from_none_on_spot(config):
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert "GPU" not in head["resources"]
    assert "InstanceMarketOptions" not in head["node_config"]
    for gpu in types.values():
        assert (gpu["min_workers"], gpu["max_workers"]) == (0, config["max_workers"])
        assert gpu["resources"]["GPU"] == 1
        assert gpu["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


def test_s3_is_reached_by_instance_profile_not_by_keys(config):
    for node_type in config["available_node_types"].values():
        assert "IamInstanceProfile" in node_type["node_config"]
    assert "AWS_SECRET" not in FILE.read_text().upper()


def test_what_is_mounted_is_there_and_makes_an_installable_package(config):
    folder = "/home/ray/neural-style/"
    mounted = {
        remote.removeprefix(folder): local
        for remote, local in config["file_mounts"].items()
        if remote.startswith(folder)
    }
    assert all(name == local and (ROOT / local).exists() for name, local in mounted.items())
    package = (ROOT / "pyproject.toml").read_text()
    needed = re.findall(r'^(?:readme = |license-files = \[)"([^"]+)"', package, re.MULTILINE)
    found = re.search(r"\[tool.setuptools.packages.find\]\ninclude = (\[.*\])", package)
    needed += [name.rstrip("*") for name in json.loads(found[1])]
    assert set(mounted) == {"pyproject.toml", *needed}


def test_aws_bootstrap_finds_or_makes_what_the_file_leaves_open(bootstrapped, aws, home):
    found = aws.describe_subnets()["Subnets"]
    zones = {subnet["SubnetId"]: subnet["AvailabilityZone"] for subnet in found}
    (group,) = aws.describe_security_groups(
        Filters=[{"Name": "group-name", "Values": ["ray-autoscaler-neural-style"]}]
    )["SecurityGroups"]
    for node_type in bootstrapped["available_node_types"].values():
        node = node_type["node_config"]
        assert [zones[subnet] for subnet in node["SubnetIds"]] == [
            "us-west-2a",
            "us-west-2b",
            "us-west-2c",
        ]
        assert node["SecurityGroupIds"] == [group["GroupId"]]
        assert node["ImageId"].startswith("resolve:ssm:/aws/service/deeplearning/ami/x86_64/")
        assert node["KeyName"] == "ray-autoscaler_us-west-2"
    key = Path(bootstrapped["auth"]["ssh_private_key"])
    assert key.parent == home / ".ssh"
    assert key.stat().st_mode & 0o777 == 0o600
    # From outside, SSH and nothing else: no dashboard, no Ray port.
    from_outside = [rule for rule in group["IpPermissions"] if rule.get("IpRanges")]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in from_outside] == [(22, 22)]


def test_aws_knows_the_instance_types_by_the_resources_we_name(bootstrapped):
    types = bootstrapped["available_node_types"]
    assert types["gpu"]["resources"]["accelerator_type:A10G"] == 1
    assert types["gpu_l4"]["resources"]["accelerator_type:L4"] == 1
    assert bootstrapped["head_node"] == {}, "Ray must not make a profile of its own, with all of S3"


@pytest.mark.parametrize("name", ["gpu", "gpu_l4"])
def test_the_documented_policies_suffice_to_launch_and_end_gpu_workers(bootstrapped, aws, name):
    sts = boto3.client("sts", REGION)
    role = "arn:aws:iam::123456789012:role/neural-style-"
    node = bootstrapped["available_node_types"][name]["node_config"]

    def as_role(of: str) -> AWSNodeProvider:
        keys = sts.assume_role(RoleArn=role + of, RoleSessionName="test")["Credentials"]
        credentials = {
            "aws_access_key_id": keys["AccessKeyId"],
            "aws_secret_access_key": keys["SecretAccessKey"],
            "aws_session_token": keys["SessionToken"],
        }
        provider = {**bootstrapped["provider"], "aws_credentials": credentials}
        return AWSNodeProvider(provider, bootstrapped["cluster_name"])

    head, worker = as_role("head"), as_role("worker")
    tags = {"ray-node-type": "worker", "ray-launch-config": "x", "ray-user-node-type": name}

    @set_initial_no_auth_action_count(0)  # from here on every call needs its permission
    def launch_and_end():
        (made,) = head.create_node(node, tags, 1)
        assert head.non_terminated_nodes(tags) == [made]
        head.set_node_tags(made, {"ray-node-status": "up-to-date"})
        seen = head.cached_nodes[made]
        assert seen.instance_type == node["InstanceType"]
        assert seen.instance_lifecycle == "spot"
        assert seen.iam_instance_profile["Arn"].endswith("instance-profile/neural-style-worker")
        assert tag_of(seen.tags, "ray-cluster-name") == "neural-style"
        with pytest.raises(Exception, match="not authorized to perform: ec2:RunInstances"):
            worker.create_node(node, tags, 1)
        head.terminate_node(made)
        assert head.non_terminated_nodes(tags) == []

    launch_and_end()


REMOTE_SHELL = r"""#!/bin/sh
# Stands in for ssh and rsync: notes what Ray wanted done on the head, answers what it asks.
echo "$(basename "$0") $*" | tr '\n' ' ' >> "$REMOTE_LOG"
echo >> "$REMOTE_LOG"
case "$*" in
  *"command -v docker"*) echo /usr/bin/docker ;;
  *.State.Running*) echo "${RUNNING:-false}" ;;
  *.Config.Env*) echo '["PATH=/usr/bin", "HOME=/home/ray"]' ;;
  *"printenv HOME"*) echo /home/ray ;;
  *"{{.Runtimes}}"*) echo 'map[runc:{runc}]' ;;
  */proc/meminfo*) echo 'MemAvailable: 16000000 kB' ;;
esac
"""


def test_ray_up_launches_the_head_and_sets_it_up_in_order(s3_server, tmp_path):
    """The command line itself, against EC2 and IAM on loopback; only the remote shell is ours."""
    environment = {**os.environ, "AWS_ENDPOINT_URL": s3_server}
    enter(tmp_path, environment)
    log = tmp_path / "remote.log"
    for name in ("ssh", "rsync"):
        (tmp_path / name).write_text(REMOTE_SHELL)
        (tmp_path / name).chmod(0o755)
    environment |= {"PATH": f"{tmp_path}:{environment['PATH']}", "REMOTE_LOG": str(log)}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "TMPDIR": str(tmp_path)}
    access = {"endpoint_url": s3_server, "region_name": REGION}
    access |= {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    create_profiles(boto3.client("iam", **access))

    command = [sys.executable, "-m", "ray.scripts.scripts", "up", str(FILE), "--yes"]
    up = subprocess.run(
        [*command, "--no-config-cache"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert up.returncode == 0, up.stdout + up.stderr
    (reservation,) = boto3.client("ec2", **access).describe_instances()["Reservations"]
    (head,) = reservation["Instances"]
    assert head["InstanceType"] == "m6i.xlarge"
    assert "InstanceLifecycle" not in head, "the head must not be a spot instance"
    assert head["IamInstanceProfile"]["Arn"].endswith("instance-profile/neural-style-head")
    assert tag_of(head["Tags"], "ray-node-type") == "head"
    assert tag_of(head["Tags"], "ray-node-status") == "up-to-date"

    done = log.read_text().splitlines()
    address = f"ubuntu@{head['PublicIpAddress']}"
    assert all(address in line for line in done)
    steps = [
        "rsync .*/.ray/auth_token ",
        "rsync .*pyproject.toml ",
        r"docker pull rayproject/ray:2.60.0-py311\)",
        "docker run ",
        "pip install --quiet /tmp/neural-style",
        "pip install --quiet .*boto3==",
        "ray start --head",
    ]
    found = [next(i for i, line in enumerate(done) if re.search(step, line)) for step in steps]
    assert found == sorted(found)
    run = done[found[3]]
    for option in ("--net=host", "-e RAY_AUTH_MODE=token", "--shm-size=", ".ray/auth_token:"):
        assert option in run
    assert "--gpus" not in run


def tag_of(tags: list[dict], key: str) -> str | None:
    return {tag["Key"]: tag["Value"] for tag in tags}.get(key)
