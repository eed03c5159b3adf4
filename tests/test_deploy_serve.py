"""Laws of deploy/rayservice.yaml: what KubeRay and Ray Serve would refuse, or not find, is found here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from pipeline.serve.settings import Settings
from tests.test_deploy import pods, read_yaml

ROOT = Path(__file__).resolve().parents[1]

# Ray Serve sets up its own pydantic models with what pydantic has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def service() -> dict[str, Any]:
    spec: dict[str, Any] = read_yaml("deploy/rayservice.yaml")["spec"]
    return spec


def application() -> dict[str, Any]:
    (only,) = yaml.safe_load(service()["serveConfigV2"])["applications"]
    found: dict[str, Any] = only
    return found


def test_the_cluster_has_the_fields_of_kuberay() -> None:
    """As those of a RayJob, but for what a pod of a job needs and one of a service does not."""
    schema = json.loads((ROOT / "tests/data/rayjob.schema.json").read_text())
    cluster = schema["properties"]["spec"]["properties"]["rayClusterSpec"]
    jsonschema.validate(service()["rayClusterConfig"], cluster | {"definitions": schema["definitions"]})
    assert set(service()) == {"serveConfigV2", "rayClusterConfig"}


def test_ray_serve_accepts_the_application_and_finds_it() -> None:
    from ray import serve
    from ray.serve.schema import ServeDeploySchema

    from pipeline.serve.application import DEPLOYMENT, NAME, build

    config = ServeDeploySchema.model_validate(yaml.safe_load(service()["serveConfigV2"]))
    (accepted,) = config.applications
    module, _, name = str(accepted.import_path).partition(":")
    assert (module, name, accepted.name) == (build.__module__, build.__name__, NAME)
    assert Settings(**accepted.args).model.startswith("s3://")
    assert isinstance(build(accepted.args), serve.Application)
    assert [each.name for each in accepted.deployments] == [DEPLOYMENT]


def test_the_cluster_holds_the_replicas() -> None:
    config = service()["rayClusterConfig"]
    (group,) = config["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    (deployment,) = application()["deployments"]
    needed = deployment["ray_actor_options"]
    assert int(limits["cpu"]) >= needed["num_cpus"] and int(limits["nvidia.com/gpu"]) >= needed["num_gpus"]
    assert group["minReplicas"] >= deployment["num_replicas"]
    assert config["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_versions_image_and_doors_are_those_of_the_job() -> None:
    config = service()["rayClusterConfig"]
    assert config["rayVersion"] == ray.__version__
    head, (group,) = config["headGroupSpec"], config["workerGroupSpecs"]
    containers = [*head["template"]["spec"]["containers"], *group["template"]["spec"]["containers"]]
    theirs = {container["image"] for pod in pods().values() for container in pod["containers"]}
    assert {container["image"] for container in containers} == theirs
    assert (head["serviceType"], head["enableIngress"]) == ("ClusterIP", False)
    assert config["authOptions"]["mode"] == "token"
    secrets = [each for container in containers for each in container["env"] if "valueFrom" in each]
    assert {each["name"] for each in secrets} == {name for name in names(containers) if is_secret(name)}


def names(containers: list[dict[str, Any]]) -> set[str]:
    return {each["name"] for container in containers for each in container["env"]}


def is_secret(name: str) -> bool:
    return any(word in name for word in ("TOKEN", "PASSWORD", "KEY"))
