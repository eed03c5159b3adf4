"""What each failure costs: a tiny training is disturbed in many ways and compared with an undisturbed one.

    python -m bench.survive                         # all, some 20 minutes on two cores
    python -m bench.survive node driver             # some of them
    python -m bench.survive --folder /tmp/s worker  # keep the trainings, and use the undisturbed one again

Nodes are Rays of 1 CPU on this machine, each with a folder and a loopback address of its own. Printed for each failure:
the seconds from it to the end of the first step after it, the optimiser steps that were trained again, whether curve
and weights are those of the undisturbed training, and whether DVC's outs are.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.disturbed import Project, compare_curves, compare_outs, copy_of, prepare
from bench.fragile import Nodes, check_server, family, fill, running_server, small_disk
from pipeline.runs.checksums import verify_checksums
from tests.nodes import temporary_folder
from tests.running import kill_tree
from tests.servers import free_port

KILLED_AT = 33  # three steps after a checkpoint, within the third epoch


class Cost(NamedTuple):
    """Of a failure: what was done, and what the seconds were."""

    done: str
    seconds: str
    project: Project


@contextmanager
def clustered(prepared: Path, folder: Path, *, nodes: int, **options: object) -> Iterator[tuple[Project, Nodes]]:
    """A project on a cluster of its own."""
    with ExitStack() as stack:
        cluster = Nodes(folder.with_name(f"{folder.name}-nodes"), stack)
        for _ in range(nodes - 1):
            cluster.add()
        variables = {"RAY_ADDRESS": cluster.address, "GLOO_SOCKET_IFNAME": "lo"}
        yield copy_of(prepared, folder, variables=variables, **options), cluster


def undisturbed(prepared: Path, folder: Path) -> Project:
    """Two workers on this machine, to the end."""
    if (folder / "reports/train.json").exists():
        return Project(folder)
    shutil.rmtree(folder, ignore_errors=True)
    project = copy_of(prepared, folder, rest=0.0)
    with project.training() as training:
        project.ends_well(training)
    return project


def node(prepared: Path, folder: Path) -> Cost:
    """A node goes, and another is there."""
    with clustered(prepared, folder, nodes=3) as (project, nodes), project.training() as training:
        project.wait_for_step(KILLED_AT, training)
        since = time.time()
        kill_tree(nodes.of_a_worker(project))
        project.ends_well(training)
    return Cost("kill -9 of a node; a spare one is there", one(project, since), project)


def node_back(prepared: Path, folder: Path) -> Cost:
    """A node goes, and comes back while training continues without it."""
    with (
        clustered(prepared, folder, nodes=2, rest=1.5, runtime={"workers": [1, 2], "start_timeout_s": 20}) as (
            project,
            nodes,
        ),
        project.training() as training,
    ):
        project.wait_for_step(8, training)
        since = time.time()
        kill_tree(nodes.of_a_worker(project))
        project.wait(lambda: bool(project.newcomers(since)), training)
        nodes.add()
        back = time.time()
        project.ends_well(training)
    if len(project.newcomers(back)) != 2:
        raise RuntimeError(f"{len(project.newcomers(back))} workers trained after the node had come back, not 2")
    seconds = f"{one(project, since)} with one worker; {one(project, back)} from its return to two again"
    return Cost("kill -9 of a node, `workers: [1, 2]`; later a node comes back", seconds, project)


def node_hangs(prepared: Path, folder: Path) -> Cost:
    """A node answers nothing, and is not dead."""
    with (
        clustered(prepared, folder, nodes=3, runtime={"hang_timeout_s": 15}) as (project, nodes),
        project.training() as training,
    ):
        project.wait_for_step(KILLED_AT, training)
        since = time.time()
        for pid in family(nodes.of_a_worker(project)):
            os.kill(pid, signal.SIGSTOP)
        project.ends_well(training)
    return Cost("SIGSTOP of a node, `hang_timeout_s: 15`; a spare one is there", one(project, since), project)


def disk(prepared: Path, folder: Path) -> Cost:
    """The storage fills up at a checkpoint, then room is made."""
    with (
        small_disk(folder.with_name(f"{folder.name}-small")) as storage,
        (project := copy_of(prepared, folder, runtime={"storage": str(storage)})).training() as training,
    ):
        project.wait_for_step(22, training)
        since = time.time()
        fill(storage / "filler")
        project.wait(lambda: "no checkpoint at step" in project.log.read_text(), training)
        for checkpoint in project.checkpoints():
            verify_checksums(checkpoint)
        (storage / "filler").unlink()
        project.ends_well(training)
        shutil.copytree(project.run.parent, folder / "runs", dirs_exist_ok=True)
    if project.newcomers(since):
        raise RuntimeError("workers were started again")
    return Cost(
        "the storage, a real small disk, is full at a checkpoint; then room is made",
        "it does not stop",
        Project(folder),
    )


def driver(prepared: Path, folder: Path) -> Cost:
    """The machine of the command goes down."""
    project = copy_of(prepared, folder)
    since = kill_driver(project)
    with project.training() as training:
        project.ends_well(training)
    return Cost("kill -9 of the command and all workers; the same command again", one(project, since), project)


def kill_driver(project: Project) -> float:
    """Train up to the failure; its time."""
    with project.training() as training:
        project.wait_for_step(KILLED_AT, training)
        since = time.time()
        kill_tree(training)
    refuse_outs(project)
    return since


def refuse_outs(project: Project) -> None:
    """A training that has not ended has no outs."""
    if (project.folder / "models/model.pt").exists() or (project.folder / "reports/train.json").exists():
        raise RuntimeError("a training that has not ended has left outs")


def sigterm(prepared: Path, folder: Path) -> Cost:
    """The machine of the command is going to go down."""
    project = copy_of(prepared, folder)
    with project.training() as training:
        project.wait_for_step(KILLED_AT, training)
        since = time.time()
        training.send_signal(signal.SIGTERM)
        training.wait(timeout=60)
    ended = time.time() - since
    refuse_outs(project)
    with project.training() as training:
        project.ends_well(training)
    seconds = f"{ended:.0f} to its end; {one(project, since)}"
    return Cost("SIGTERM to the command; the same command again", seconds, project)


def damaged(prepared: Path, folder: Path) -> Cost:
    """The newest checkpoint is not whole."""
    project = copy_of(prepared, folder)
    since = kill_driver(project)
    state = project.checkpoints()[-1] / "state.pt"
    os.truncate(state, state.stat().st_size // 2)
    with project.training() as training:
        project.ends_well(training)
    return Cost("as above, and the newest checkpoint is cut in half", one(project, since), project)


def worker(prepared: Path, folder: Path) -> Cost:
    """A process goes."""
    project = copy_of(prepared, folder)
    with project.training() as training:
        project.wait_for_step(KILLED_AT, training)
        since = time.time()
        os.kill(max(project.stamps()), signal.SIGKILL)
        project.ends_well(training)
    return Cost("kill -9 of a worker", one(project, since), project)


def mlflow(prepared: Path, folder: Path) -> Cost:
    """MLflow's server goes, and comes back."""
    home, port = folder.with_name(f"{folder.name}-server"), free_port()
    home.mkdir()
    project = copy_of(prepared, folder, rest=1.0, variables={"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"})
    with ExitStack() as stack:
        server = stack.enter_context(running_server(home, port))
        training = stack.enter_context(project.training())
        project.wait_for_step(15, training)
        since = time.time()
        kill_tree(server)
        project.wait_for_step(27, training)
        stack.enter_context(running_server(home, port))
        away = time.time() - since
        project.ends_well(training)
    if project.newcomers(since):
        raise RuntimeError("workers were started again")
    check_server(home / "mlflow.db")
    return Cost(f"kill -9 of MLflow's server, which comes back after {away:.0f} s", "it does not stop", project)


def one(project: Project, since: float) -> str:
    """Seconds until it went on."""
    return f"{project.seconds_until_it_went_on(since):.0f}"


SCENARIOS: dict[str, Callable[[Path, Path], Cost]] = {
    "node": node,
    "node-back": node_back,
    "node-hangs": node_hangs,
    "disk": disk,
    "driver": driver,
    "sigterm": sigterm,
    "damaged": damaged,
    "worker": worker,
    "mlflow": mlflow,
}


def main() -> None:
    """Disturb, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=", ".join(SCENARIOS))
    parser.add_argument("--folder", type=Path, help="of the trainings; by default one that goes with the command")
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))  # ends what was started, by its with blocks
    with tempfile.TemporaryDirectory() as own, temporary_folder() as short:
        os.environ["RAY_TMPDIR"] = short  # the path of a socket has at most 107 bytes
        folder = options.folder or Path(own)
        disturb(folder.resolve(), options.scenarios or list(SCENARIOS))


def disturb(folder: Path, names: list[str]) -> None:
    """Print a row for each of these failures as it is known."""
    if not (folder / "prepared").exists():
        prepare(folder / "prepared")
    reference = undisturbed(folder / "prepared", folder / "undisturbed")
    print("| failure | what was done | seconds until it went on | steps trained again | curve and weights | outs |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in names:
        for old in folder.glob(f"{name}*"):
            if old.name in (name, f"{name}-nodes", f"{name}-small", f"{name}-server"):
                shutil.rmtree(old)
        try:
            cost = SCENARIOS[name](folder / "prepared", folder / name)
        except PermissionError as error:
            print(f"| {name} | not run: {error} | | | | |", flush=True)
            continue
        same = f"{compare_curves(cost.project, reference)} | {compare_outs(cost.project, reference)}"
        again = cost.project.steps_trained_again()
        print(f"| {name} | {cost.done} | {cost.seconds} | {again} | {same} |", flush=True)


if __name__ == "__main__":
    main()
