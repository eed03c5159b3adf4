"""Laws of a training whose nodes go: announced or not, it goes on elsewhere or with fewer, on the same curve."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import ray
import ray.cloudpickle
import ray.train
import yaml

from bench.fragile import Nodes
from pipeline.fit import fit
from tests.nodes import RAY
from tests.running import kill_tree
from tests.training import Trained, train, train_in_process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
# 24 images in batches of 2 are 12 steps an epoch; mild steps, because others raise a rounding (docs/design.md).
SECTIONS: dict[str, dict[str, Any]] = {
    "train": {"batch_size": 2, "epochs": 4, "evaluate_every": 4},
    "optim": {"lr": 0.01, "momentum": 0.0},
}
STEPS_OF_EPOCH = 12
PATIENCE_S = 150


@pytest.fixture
def nodes(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """A cluster that begins with its head alone, and a project that trains longer than others."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the nodes find no tests
    params = yaml.safe_load(Path("params.yaml").read_text())
    for section, values in SECTIONS.items():
        params[section] |= values
    Path("params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.5")
    # Sooner than each minute: whether there are nodes for more workers.
    monkeypatch.setattr(
        ray.train, "ScalingConfig", partial(ray.train.ScalingConfig, elastic_resize_monitor_interval_s=5)
    )
    with ExitStack() as stack:
        cluster = Nodes(tmp_path / "nodes", stack)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster


class Stamped:
    """`fit` that writes down <step> <workers> <its node> at every step, and rests after it.

    Args:
        rests: seconds, by the number of workers.
    """

    def __init__(self, folder: Path, rests: dict[int, float]) -> None:
        self.folder, self.rests = folder, rests
        folder.mkdir()

    def __call__(self, config: dict[str, Any]) -> None:
        from pipeline.cluster import worker as worker_room
        from retinanet.training.progress import StepLog

        check, workers = StepLog.check_recent_losses, ray.train.get_context().get_world_size()
        node = ray.get_runtime_context().get_node_id()

        def stamp(log: StepLog) -> None:
            check(log)
            with (self.folder / f"{os.getpid()}").open("a") as file:
                file.write(f"{log.state.schedule.last_epoch} {workers} {node}\n")
            time.sleep(self.rests[workers])

        often = patch.object(worker_room, "STEPS_BETWEEN_CHECKS", 5)
        with patch.object(StepLog, "check_recent_losses", stamp), often:
            fit(config)

    def stamps(self) -> list[list[tuple[int, int, str]]]:
        """Of each worker that has done a step."""
        lines = [[line.split() for line in path.read_text().splitlines()] for path in self.folder.iterdir()]
        return [[(int(step), int(workers), node) for step, workers, node in each] for each in lines if each]

    def wait_for(self, what: Callable[[list[list[tuple[int, int, str]]]], bool]) -> None:
        """Until the stamps say so."""
        deadline = time.monotonic() + PATIENCE_S
        while not what(self.stamps()):
            assert time.monotonic() < deadline, self.stamps()
            time.sleep(0.1)


def assert_same_curve(disturbed: Trained, storage: Path) -> None:
    """Up to rounding."""
    expected = train_in_process(storage).history
    losses = [loss for row in expected for loss in row["step_losses"]]
    assert len(losses) == STEPS_OF_EPOCH * SECTIONS["train"]["epochs"]
    assert disturbed.step_losses == pytest.approx(losses, rel=1e-4)
    assert disturbed.history[-1]["AP"] == pytest.approx(expected[-1]["AP"], abs=1e-3)


def train_while(script: Callable[[], None], **options: Any) -> Trained:
    """A training, and what is done to its nodes meanwhile in a thread."""
    failed: list[BaseException] = []

    def act() -> None:
        try:
            script()
        except BaseException as error:  # noqa: BLE001  # it is raised below
            failed.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    trained = train(Path("runs").resolve(), **options)
    thread.join()
    if failed:
        raise failed[0]
    return trained


def announce_end(address: str, node: str, *, seconds: int) -> None:
    """What a cloud's notice becomes: Ray drains the node."""
    command = [str(RAY), "drain-node", f"--address={address}", f"--node-id={node}"]
    command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
    command += [f"--deadline-remaining-seconds={seconds}"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def test_node_whose_end_is_announced_costs_a_checkpoint_and_the_training_goes_on_elsewhere(
    nodes: Nodes, project: Path
) -> None:
    workers = Stamped(project / "stamps", {2: 0.4})
    nodes.add()
    going: list[str] = []

    def script() -> None:
        workers.wait_for(lambda stamps: len(stamps) == 2 and all(each[-1][0] >= 2 for each in stamps))
        going.extend(node["NodeID"] for node in ray.nodes() if node["NodeManagerAddress"] == "127.0.0.2")
        nodes.add()  # where it can go on
        announce_end(nodes.address, going[0], seconds=8)

    trained = train_while(script, workers=2, train_function=workers)
    first, second = ([each for each in workers.stamps() if (each[0][0] == 1) is old] for old in (True, False))
    assert (len(first), len(second)) == (2, 2)
    assert going[0] in {each[0][2] for each in first}
    assert going[0] not in {each[0][2] for each in second}
    # Both paused for a checkpoint at a look, not at the end of an epoch, and went on from it or a later one.
    (paused,) = (event["step"] for event in trained.events if event["kind"] == "report" and event["is_partial"])
    assert paused % 5 == 0 and paused % STEPS_OF_EPOCH > 0
    ((epoch, step),) = trained.resumed_at
    assert epoch * STEPS_OF_EPOCH + step >= paused
    assert_same_curve(trained, project / "undisturbed")


def test_elastic_training_goes_on_with_one_worker_and_takes_up_a_new_node(nodes: Nodes, project: Path) -> None:
    workers = Stamped(project / "stamps", {1: 2.0, 2: 0.3})
    nodes.add()

    def script() -> None:
        workers.wait_for(lambda stamps: len(stamps) == 2 and all(each[-1][0] >= 4 for each in stamps))
        kill_tree(nodes.nodes[1])
        workers.wait_for(lambda stamps: any(each[0][1] == 1 for each in stamps))
        nodes.add()

    options = {"workers": [1, 2], "checkpoint_every": 3, "start_timeout_s": 15}
    trained = train_while(script, train_function=workers, **options)
    # First both, then one, then both again.
    legs = sorted((each[0][0], each[0][1]) for each in workers.stamps())
    assert [count for _, count in legs] == [2, 2, 1, 2, 2]
    assert [epoch * STEPS_OF_EPOCH + step + 1 for epoch, step in trained.resumed_at] == [legs[2][0], legs[3][0]]
    assert_same_curve(trained, project / "undisturbed")
