"""deploy/: the RayJob against the fields that KubeRay knows and Ray's own reading of them."""

import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler._private.util import validate_config

from tests.options import settings_of

ROOT = Path(__file__).parent.parent

TEXT, NUMBER, YES_NO = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def fields(required: str = "", **known: dict) -> dict:
    """An object of these fields and no others."""
    return {
        "type": "object",
        "properties": known,
        "required": required.split(),
        "additionalProperties": False,
    }


def listed(item: dict) -> dict:
    return {"type": "array", "items": item, "minItems": 1}


def one_of(*values: str) -> dict:
    return {"enum": list(values)}


# The fields that a job may want, not all there are. Pods: Kubernetes 1.37, core/v1.
AMOUNTS = {"type": "object", "additionalProperties": {"pattern": r"^\d+(m|[KMGT]i?)?$"}}
RESOURCES = fields("requests limits", requests=AMOUNTS, limits=AMOUNTS)
POD = fields(
    "spec",
    metadata=fields(labels=TEXTS, annotations=TEXTS),
    spec=fields(
        "containers",
        containers=listed(
            fields(
                "name image resources",
                name=TEXT,
                image=TEXT,
                imagePullPolicy=one_of("Always", "IfNotPresent", "Never"),
                env=listed(fields("name value", name=TEXT, value=TEXT)),
                resources=RESOURCES,
            )
        ),
        serviceAccountName=TEXT,
        restartPolicy=one_of("Always", "OnFailure", "Never"),
        nodeSelector=TEXTS,
        tolerations=listed(
            fields(
                key=TEXT,
                operator=one_of("Exists", "Equal"),
                value=TEXT,
                effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
            )
        ),
    ),
)
# ray.io/v1 of KubeRay 1.7, ray-operator/apis/ray/v1/raycluster_types.go and rayjob_types.go; the
# types of the CRD ray-operator/config/crd/bases/ray.io_rayjobs.yaml are made from these.
RAY_CLUSTER = fields(
    "headGroupSpec",
    rayVersion=TEXT,
    authOptions=fields(mode=one_of("disabled", "token"), secretName=TEXT),
    enableInTreeAutoscaling=YES_NO,
    autoscalerOptions=fields(
        version=one_of("v1", "v2"),
        upscalingMode=one_of("Default", "Aggressive", "Conservative"),
        idleTimeoutSeconds=NUMBER,
        resources=RESOURCES,
    ),
    headGroupSpec=fields("template", rayStartParams=TEXTS, serviceType=TEXT, template=POD),
    workerGroupSpecs=listed(
        fields(
            "groupName minReplicas maxReplicas template",
            groupName=TEXT,
            replicas=NUMBER,
            minReplicas=NUMBER,
            maxReplicas=NUMBER,
            numOfHosts=NUMBER,
            idleTimeoutSeconds=NUMBER,
            priority=NUMBER,
            rayStartParams=TEXTS,
            template=POD,
        )
    ),
)
RAY_JOB = fields(
    "apiVersion kind metadata spec",
    apiVersion=one_of("ray.io/v1"),
    kind=one_of("RayJob"),
    metadata=fields("name", name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS),
    spec=fields(
        "entrypoint rayClusterSpec",
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
        submitterConfig=fields(backoffLimit=NUMBER),
        backoffLimit=NUMBER,
        activeDeadlineSeconds=NUMBER,
        shutdownAfterJobFinishes=YES_NO,
        ttlSecondsAfterFinished=NUMBER,
        suspend=YES_NO,
        rayClusterSpec=RAY_CLUSTER,
    ),
)


@pytest.fixture
def documents():
    return list(yaml.safe_load_all((ROOT / "deploy/rayjob.yaml").read_text()))


@pytest.fixture
def job(documents):
    return documents[1]


def pods(job: dict) -> list[dict]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_kuberay_knows_every_field(job):
    jsonschema.validate(job, RAY_JOB)


class NoAliases(yaml.SafeDumper):
    """Writes what an alias stands for, so that a change stays in its place."""

    def ignore_aliases(self, data):
        return True


def paths(value, path=()):
    """The path of every key in nested dictionaries and lists."""
    if isinstance(value, dict):
        for key in value:
            yield (*path, key)
            yield from paths(value[key], (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from paths(item, (*path, index))


def test_any_misspelt_field_would_be_refused(job):
    validator = jsonschema.Draft7Validator(RAY_JOB)
    free = {"rayStartParams", "requests", "limits"}  # their keys are names of the user's choice
    fixed = [path for path in paths(job) if not free.intersection(path[:-1])]
    assert len(fixed) > 50
    for *parents, key in fixed:
        place = changed = yaml.safe_load(yaml.dump(job, Dumper=NoAliases))
        for parent in parents:
            place = place[parent]
        place[f"{key}x"] = place.pop(key)
        assert not validator.is_valid(changed), f"{key}x in {'.'.join(map(str, parents))}"


def test_rays_autoscaler_reads_gpu_workers_from_none_to_eight(job):
    cluster = {
        "metadata": {"name": "x", "namespace": "default"},
        "spec": job["spec"]["rayClusterSpec"],
    }
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    validate_config(config)
    types = config["available_node_types"]
    head, gpu = types.pop(config["head_node_type"]), types.pop("gpu")
    assert not types
    assert head["resources"]["CPU"] == 2
    assert "GPU" not in head["resources"]
    assert (gpu["min_workers"], gpu["max_workers"], config["max_workers"]) == (0, 8, 8)
    assert gpu["resources"] == {"CPU": 6, "GPU": 1, "memory": 24 * 2**30}
    assert config["idle_timeout_minutes"] == 5


def test_no_pod_is_evicted_for_memory_or_holds_keys(documents, job):
    account = documents[0]
    assert (account["apiVersion"], account["kind"]) == ("v1", "ServiceAccount")
    for pod in pods(job):
        assert pod["serviceAccountName"] == account["metadata"]["name"]
        for container in pod["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert "env" not in container
    assert "nvidia.com/gpu" not in pods(job)[0]["containers"][0]["resources"]["limits"]


def test_the_entry_point_is_a_command_of_ours_that_asks_for_no_more_than_the_pool(job):
    python, flag, module, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert (python, flag, module) == ("python", "-m", "jobs.stylize")
    _, settings = settings_of(arguments)
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert settings.gpus_per_actor == 1
    assert settings.actors == workers["maxReplicas"]


def test_all_files_name_one_version_of_ray(job):
    versions = set(re.findall(r"rayproject/ray:([\d.]+)", (ROOT / "deploy/Dockerfile").read_text()))
    versions |= set(re.findall(r"rayproject/ray:([\d.]+)", (ROOT / "cluster.yaml").read_text()))
    versions.add(job["spec"]["rayClusterSpec"]["rayVersion"])
    (version,) = versions
    wanted = re.search(r'"ray\[.*\]>=([\d.]+),<', (ROOT / "pyproject.toml").read_text())
    assert version.startswith(wanted[1])


def test_the_image_is_built_from_what_the_package_needs():
    copied = re.findall(r"^COPY --chown=\S+ (.*)$", (ROOT / "deploy/Dockerfile").read_text(), re.M)
    sources = [name for line in copied for name in line.split()[:-1]]
    mounted = yaml.safe_load((ROOT / "cluster.yaml").read_text())["file_mounts"].values()
    assert sorted(sources) == sorted(set(mounted) - {"~/.ray/auth_token"})
