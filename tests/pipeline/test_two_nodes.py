"""Laws of a training on two nodes that share no folder: code, prepared files and pictures reach both."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.reports.training_curves import write_history_csv
from pipeline.tracking.store import connect, find_store
from tests.buckets import keys_in, make_bucket, move_to_bucket, variables_of
from tests.nodes import laid_cable, two_nodes
from tests.pipeline.test_train_killed import rows_of_csv
from tests.running import Stage, ends_well
from tests.servers import running_s3
from tests.training import Trained

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # boto3 asks the clock in a way that Python deprecates
]

# What a process finds on each node where nothing of ours is brought: {address: [our package, the folder]}.
LOOK = """
import json, os, sys, time
from importlib.util import find_spec
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

@ray.remote(num_cpus=1)
def look(folder):
    return [find_spec("pipeline") is not None, os.path.exists(os.path.join(folder, "params.yaml"))]

address, folder = sys.argv[1:]
ray.init(address=address, log_to_driver=False, logging_level="ERROR")
while len(ray.nodes()) < 2:  # the far one may still be starting
    time.sleep(0.1)
there = {node["NodeManagerAddress"]: NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in ray.nodes()}
asked = {node: look.options(scheduling_strategy=on).remote(folder) for node, on in there.items()}
print(json.dumps({node: ray.get(answer) for node, answer in asked.items()}))
"""


def look_from(address: str, folder: Path, variables: dict[str, str]) -> dict[str, list[bool]]:
    command = [sys.executable, "-c", LOOK, address, str(folder)]
    own = {key: text for key, text in variables.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd="/", env=own, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    seen: dict[str, list[bool]] = json.loads(done.stdout)
    return seen


def cached(home: Path, kind: str) -> int:
    """Files that a node has fetched."""
    return len([path for path in (home / ".cache/retinanet-pipeline" / kind).glob("*") if path.suffix != ".lock"])


def test_two_nodes_without_a_shared_folder_train_as_one(
    pair: Trained, project: Path, stage_variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with laid_cable() as cable, running_s3(tmp_path, host=cable.near) as store:
        client: Any = make_bucket(store)
        move_to_bucket(project, client, workers=2)
        aws = variables_of(store)
        hidden = [project] if cable.network else []
        with two_nodes(cable, tmp_path / "nodes", variables=aws, hidden=hidden) as (address, near, far):
            variables = stage_variables | aws | {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
            seen = look_from(address, project, variables)
            lines = ends_well(Stage(project, variables))
        assert seen[cable.far] == [False, cable.network is None]
        keys = keys_in(client, "runs/")
    assert lines[-1].startswith("best epoch ")
    assert (cached(near, "inputs"), cached(far, "inputs")) == (2, 2)  # the worker there has fetched train and val
    assert cached(far, "pictures") > 8  # 8 are for validation
    assert len([key for key in keys if key.startswith("runs/inputs/") and key.endswith(".json")]) == 2
    assert [key for key in keys if key.endswith("/detector.pt")]
    assert not list(project.glob("runs/*/checkpoint_*"))
    # As with both workers on one machine and its files in folders.
    on_one_node = tmp_path / "on_one_node"
    (on_one_node / "plots").mkdir(parents=True)
    rows = [{key: value for key, value in row.items() if key != "step_losses"} for row in pair.history]
    write_history_csv(rows, on_one_node / "plots/training.csv")
    assert rows_of_csv(project) == rows_of_csv(on_one_node)
    assert (project / "models/model.pt").exists()
    # The driver's node is sampled by MLflow, the other by its worker, without MLflow.
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(project))
    (run,) = connect(find_store()).search_runs(["1"])
    assert run.data.tags["system.node_0"] == f"{socket.gethostname()} ({cable.far})"
    assert {"system/cpu_utilization_percentage", "system/node_0/cpu_utilization_percentage"} <= set(run.data.metrics)
    assert not [name for name in run.data.metrics if name.startswith("system/node_1")]
