"""Laws of deploy/: what a cluster would refuse, or not find, is found here. docs/cluster.md says what was not run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli

from pipeline.params.runtime import load_runtime

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "deploy/experiment.sh"
# Where others say which variables they read.
READERS = (
    ("botocore", "credentials.py"),
    ("botocore", "configprovider.py"),
    ("dvc", "env.py"),
    ("mlflow", "environment_variables.py"),
    ("ray", "_common/usage/usage_constants.py"),
    ("ray", "_private/authentication/authentication_token_setup.py"),
)


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def ray_job() -> dict[str, Any]:
    spec: dict[str, Any] = read_yaml("deploy/rayjob.yaml")["spec"]
    return spec


def pods() -> dict[str, dict[str, Any]]:
    """The pod of the head and of each group, by name."""
    cluster = ray_job()["rayClusterSpec"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {name: group["template"]["spec"] for name, group in {"head": cluster["headGroupSpec"], **groups}.items()}


def instructions() -> list[tuple[str, str]]:
    """(word, rest) of every instruction of the Dockerfile."""
    lines = [line for line in (ROOT / "deploy/Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = (line.partition(" ") for line in joined.splitlines() if line.strip())
    return [(word, rest.strip()) for word, _, rest in pairs]


def code_blocks(name: str) -> list[str]:
    """The lines of the code blocks of a document, continued lines joined."""
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / name).read_text(), flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def variables_set() -> set[str]:
    """By the manifests, the job's file and the image."""
    containers = [container for pod in pods().values() for container in pod["containers"]]
    in_pods = {variable["name"] for container in containers for variable in container["env"]}
    options = " ".join(read_yaml("deploy/ray-cluster.yaml")["docker"]["run_options"])
    in_image = " ".join(rest for word, rest in instructions() if word == "ENV")
    in_job = set(read_yaml("deploy/job.yaml")["env_vars"])
    return in_pods | in_job | set(re.findall(r"-e (\w+)=", options)) | set(re.findall(r"(\w+)=", in_image))


# ---- what the others check ----


def test_the_ray_job_has_the_fields_of_kuberay() -> None:
    schema = json.loads((ROOT / "tests/data/rayjob.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(read_yaml("deploy/rayjob.yaml"), schema)


def test_ray_up_accepts_its_file_and_installs_nothing_of_its_own() -> None:
    prepared = prepare_config(read_yaml("deploy/ray-cluster.yaml"))
    validate_config(prepared)
    assert not prepared["setup_commands"] and not prepared["head_setup_commands"]


@pytest.mark.parametrize(
    "name", ["docs/cluster.md", "deploy/ray-cluster.yaml", "deploy/experiment.sh", "deploy/job.yaml"]
)
def test_ray_knows_every_command_that_is_written_here(name: str) -> None:
    commands = [line.removeprefix("ray ") for line in command_lines(name) if line.startswith("ray ")]
    assert commands
    for command in commands:
        parse_command(cli, [word for word in shlex.split(command, comments=True) if not word.startswith("[")])


def command_lines(name: str) -> list[str]:
    """Lines that may be commands: of a document its code, of ray up's file its commands, of others the comments."""
    if name.endswith(".md"):
        return code_blocks(name)
    content = yaml.safe_load((ROOT / name).read_text()) if name == "deploy/ray-cluster.yaml" else {}
    started: list[str] = content.get("head_start_ray_commands", []) + content.get("worker_start_ray_commands", [])
    comments = "\n".join(re.findall(r"^#[# ]*(.*)", (ROOT / name).read_text(), flags=re.MULTILINE))
    return started + comments.replace("\\\n", " ").splitlines()


def parse_command(command: click.Command, words: list[str]) -> None:
    """Fail for a subcommand or an option that there is not; nothing is run."""
    while isinstance(command, click.Group):
        assert words[0] in command.commands, f"ray has no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))


# ---- what must fit together ----


def test_the_image_names_its_versions_and_does_not_end_as_root() -> None:
    (base,) = [rest for word, rest in instructions() if word == "FROM"]
    assert re.fullmatch(r"python:\d+\.\d+[\w.-]*", base)
    assert [rest for word, rest in instructions() if word == "USER"][-1] == "1000:1000"
    stores = next(rest for word, rest in instructions() if word == "ARG").partition("=")[2]
    assert all("==" in package for package in stores.strip('"').split())


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    copied = [source for word, rest in instructions() if word == "COPY" for source in rest.split()[:-1]]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied and all((ROOT / source).is_file() for source in copied)
    assert set(copied) == kept


def test_the_manifests_run_what_the_image_holds() -> None:
    targets = [rest.split() for word, rest in instructions() if word == "COPY"]
    held = {f"{target}{Path(source).name}" for *sources, target in targets for source in sources}
    assert ray_job()["entrypoint"].split()[1] in held
    images = {container["image"] for pod in pods().values() for container in pod["containers"]}
    assert images == {read_yaml("deploy/ray-cluster.yaml")["docker"]["image"]}
    assert not any(image.endswith(":latest") or ":" not in image for image in images)


def test_the_ray_of_the_manifest_is_the_installed_one() -> None:
    assert ray_job()["rayClusterSpec"]["rayVersion"] == ray.__version__


def test_both_clusters_hold_the_workers_of_their_place() -> None:
    runtime = load_runtime(ROOT / "conf/cluster.yaml")
    least = runtime.workers if isinstance(runtime.workers, int) else min(runtime.workers)
    (group,) = ray_job()["rayClusterSpec"]["workerGroupSpecs"]
    limits = pods()["gpu"]["containers"][0]["resources"]["limits"]
    node = read_yaml("deploy/ray-cluster.yaml")["available_node_types"]["gpu"]
    for nodes, cpus, gpus in (
        (group["minReplicas"], int(limits["cpu"]), int(limits["nvidia.com/gpu"])),
        (node["min_workers"], node["resources"]["CPU"], node["resources"]["GPU"]),
    ):
        per_node = min(cpus // runtime.cpus_per_worker, gpus // runtime.gpus_per_worker)
        assert nodes * per_node >= least


def test_no_worker_takes_the_head() -> None:
    assert ray_job()["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    up = read_yaml("deploy/ray-cluster.yaml")
    head = up["available_node_types"][up["head_node_type"]]
    assert head["resources"]["CPU"] == 0 and "InstanceMarketOptions" not in head["node_config"]


def test_the_dashboard_is_not_reachable_from_outside() -> None:
    head = ray_job()["rayClusterSpec"]["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP" and not head["enableIngress"]
    assert ray_job()["rayClusterSpec"]["authOptions"]["mode"] == "token"
    start = read_yaml("deploy/ray-cluster.yaml")["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in start


def test_every_variable_that_is_set_is_one_that_somebody_reads() -> None:
    ours = "".join(path.read_text() for path in sorted((ROOT / "pipeline").rglob("*.py")))
    theirs = "".join((package_folder(package) / file).read_text() for package, file in READERS)
    script = "".join(line for line in SCRIPT.read_text().splitlines(keepends=True) if not line.startswith("#"))
    unread = [
        name
        for name in sorted(variables_set())
        if f'"{name}"' not in ours
        and not re.search(rf"\b{name}\b", theirs)
        and not re.search(rf"\${{?{name}\b", script)
    ]
    assert not unread


def package_folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def test_secrets_are_references() -> None:
    secret = re.compile("TOKEN|PASSWORD|KEY")
    variables = [variable for pod in pods().values() for c in pod["containers"] for variable in c["env"]]
    named = [variable for variable in variables if secret.search(variable["name"])]
    assert named and all(set(variable) == {"name", "valueFrom"} for variable in named)


def test_the_files_and_modules_that_commands_name_are_there() -> None:
    text = "\n".join([*code_blocks("docs/cluster.md"), SCRIPT.read_text(), json.dumps(ray_job())])
    files = set(re.findall(r"(?:deploy|conf|docs|presets)/[\w/.-]+\.\w+", text))
    modules = set(re.findall(r"python -m (pipeline\.\w+)", text))
    assert {"conf/cluster.yaml", "deploy/rayjob.yaml", "deploy/ray-cluster.yaml"} <= files
    assert not [name for name in files if not (ROOT / name).is_file()]
    assert not [name for name in modules if find_spec(name) is None]


# ---- the job ----


def run_script(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script as a job runs it."""
    environment = variables_of_a_job(folder, **variables)
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, check=False
    )


def variables_of_a_job(folder: Path, **variables: str) -> dict[str, str]:
    """These variables, and none of this machine's."""
    who = {f"GIT_{role}_{key}": "a@b" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "HOME": str(folder), "TMPDIR": str(folder), "DVC_NO_ANALYTICS": "1"}
    return {**own, **who, **variables}


@pytest.mark.parametrize(
    ("variables", "named"),
    [({}, "REPOSITORY"), ({"REPOSITORY": "/nowhere"}, "MLFLOW_TRACKING_URI")],
    ids=["repository", "tracker"],
)
def test_the_job_says_what_it_misses_before_it_clones(tmp_path: Path, variables: dict[str, str], named: str) -> None:
    done = run_script(tmp_path, **variables)
    assert done.returncode == 1
    assert done.stderr.startswith(f"experiment: {named} is not set")
    assert not list(tmp_path.iterdir())


class Team:
    """A repository of git and DVC that a team shares, made on a machine that has the raw data."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.url = folder, folder / "home", folder / "team.git"
        self.home.mkdir()
        self.variables = {"REPOSITORY": str(self.url), "MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
        stages = {
            "prepare": {"cmd": "cp raw.txt prepared.txt", "deps": ["raw.txt"], "outs": ["prepared.txt"]},
            "train": {
                "cmd": "cat prepared.txt params.yaml > model.txt",
                "deps": ["prepared.txt"],
                "params": ["gamma"],
                "outs": ["model.txt"],
            },
        }
        (self.home / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        (self.home / "params.yaml").write_text("gamma: 1\n")
        (self.home / "raw.txt").write_text("raw\n")
        self.git("init", "--quiet", "--initial-branch=main")
        (self.home / ".gitignore").write_text("/raw.txt\n")
        self.dvc("init", "--quiet")

    def git(self, *arguments: str, folder: Path | None = None) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", *who, *arguments]
        done = subprocess.run(command, cwd=folder or self.home, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def dvc(self, *arguments: str, folder: Path | None = None) -> None:
        command = [sys.executable, "-m", "dvc", *arguments]
        environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
        subprocess.run(command, cwd=folder or self.home, capture_output=True, check=True, env=environment)

    def share(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "begin")
        self.git("clone", "--quiet", "--bare", str(self.home), str(self.url))

    def results(self, branch: str) -> Path:
        """A clone of a branch of results with its files."""
        clone = self.folder / f"clone-{branch}"
        self.git("clone", "--quiet", "--branch", branch, str(self.url), str(clone), folder=self.folder)
        self.dvc("pull", folder=clone)
        return clone


@pytest.mark.slow
def test_the_job_needs_a_place_for_the_model(tmp_path: Path) -> None:
    team = Team(tmp_path)
    team.share()
    done = run_script(tmp_path, **team.variables)
    assert done.returncode == 1 and "no default DVC remote" in done.stderr


@pytest.mark.slow
def test_the_job_hands_back_model_and_lock_and_needs_no_raw_data(tmp_path: Path) -> None:
    team = Team(tmp_path)
    team.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    team.dvc("repro", "prepare")
    team.dvc("push")
    team.share()

    done = run_script(tmp_path, RESULTS="plain", **team.variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (team.results("plain") / "model.txt").read_text() == "raw\ngamma: 1\n"

    done = run_script(tmp_path, "-S", "gamma=2", RESULTS="varied", **team.variables)
    assert done.returncode == 0, done.stdout + done.stderr
    varied = team.results("varied")
    assert (varied / "model.txt").read_text() == "raw\ngamma: 2\n"
    assert (varied / "params.yaml").read_text() == "gamma: 2\n"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("tmp.")]
