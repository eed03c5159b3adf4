"""Laws of the door to Ray: a request is answered at once, what was not started here goes on, errors are sentences."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.train import ControllerError, ScalingConfig, WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision, create_scaling_policy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from pipeline.cluster import Resources, address_of, start, start_ray
from pipeline.cluster.signals import run_until_stopped
from pipeline.cluster.training import LocalTrainer, ReportForwarder, first_cause
from pipeline.params.runtime import load_runtime

ROOT = Path(__file__).parents[2]

quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")


def resources(workers: int, *, gpus_per_worker: float = 0) -> Resources:
    return Resources(workers, 1, gpus_per_worker, backend="gloo", max_failures=0, start_timeout_s=1)


def as_ray_wraps(error: Exception) -> UserExceptionWithTraceback:
    return UserExceptionWithTraceback(error, f"Traceback (most recent call last):\n{type(error).__name__}: {error}")


# ---- what a training asks for ----------------------------------------------------------------------------------------


def test_nodes_may_come_and_go_only_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load_runtime(ROOT / "conf/local.yaml")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    here = Resources.of(runtime)
    assert (here.workers, here.backend, here.has_nodes) == (runtime.workers, runtime.backend, False)
    assert Resources.of(runtime.model_copy(update={"address": "10.0.0.1:6379"})).has_nodes
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert Resources.of(runtime).has_nodes


@pytest.mark.parametrize(("joined_after_s", "waited_s"), [(0, 0), (3, 3), (999, 60)])
def test_nodes_that_still_join_are_waited_for(
    joined_after_s: int, waited_s: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For start_timeout_s at most; then check_resources says what is missing."""
    seconds = [0.0]
    monkeypatch.setattr(start.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(start.time, "sleep", lambda duration: seconds.append(seconds.pop() + duration))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0 if seconds[0] >= joined_after_s else 1.0})
    start.wait_for_nodes(replace(resources(2), start_timeout_s=60))
    assert seconds == [waited_s]
    assert capsys.readouterr().out.count("waiting up to 60 s for nodes to join the cluster") == (waited_s > 0)


def test_ray_of_our_own_asks_no_autoscaler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The actor for that takes 3.5 s to be there. A range of workers keeps Ray's own policy."""
    given = []
    monkeypatch.setattr(
        DataParallelTrainer, "_initialize_and_run_controller", lambda self, **arguments: given.append(arguments)
    )
    for workers in (3, (1, 3)):
        scaling = ScalingConfig(num_workers=workers)
        trainer = LocalTrainer(print, scaling_config=scaling)
        trainer._initialize_and_run_controller(scaling_policy=create_scaling_policy(scaling), other=1)
    fixed, ranged = given
    assert fixed["other"] == 1
    policy = fixed["scaling_policy"]
    policy.after_controller_start(None)
    assert policy.make_decision_for_non_running_worker_group().num_workers == 3
    assert policy.make_decision_for_running_worker_group(None, None) == NoopDecision()
    assert policy._coordinator_client is None
    assert isinstance(ranged["scaling_policy"], ElasticScalingPolicy)


# ---- a stop ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("bad key"), TimeoutError("of the work itself")])
def test_work_that_nobody_stops_gives_its_result_or_its_error(error: Exception) -> None:
    def fail() -> None:
        raise error

    never = threading.Event()
    assert run_until_stopped(lambda: 3, never, lambda: pytest.fail("stopped")) == 3
    with pytest.raises(type(error), match=str(error)):
        run_until_stopped(fail, never, lambda: pytest.fail("stopped"))


def test_work_is_asked_to_stop_once_and_waited_for() -> None:
    asked, stops, over = threading.Event(), [], threading.Event()
    asked.set()

    def stop() -> None:
        stops.append(1)
        threading.Timer(0.5, over.set).start()

    assert run_until_stopped(lambda: over.wait(timeout=10), asked, stop)
    assert stops == [1]


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_mistake_of_the_user_comes_out_as_its_sentence() -> None:
    error = WorkerGroupError("rank 0 ...", {0: as_ray_wraps(ValueError("a.png cannot be read"))})
    assert first_cause(error) == "a.png cannot be read"
    assert first_cause(ControllerError(ValueError("a.png cannot be read"))) == "a.png cannot be read"


def test_mistake_counts_and_not_what_it_did_to_the_other_workers() -> None:
    failures = {0: as_ray_wraps(RuntimeError("connection closed by peer")), 1: as_ray_wraps(ValueError("bad key"))}
    assert first_cause(WorkerGroupError("...", failures)) == "bad key"


def test_error_of_our_own_keeps_its_account() -> None:
    error = WorkerGroupError("Traceback: KeyError: 'x'", {0: as_ray_wraps(KeyError("x"))})
    assert "Traceback: KeyError: 'x'" in first_cause(error)


@pytest.mark.parametrize("complaint", [ValueError("bad key"), FloatingPointError("loss is nan at step 3")])
def test_complaint_that_comes_again_ends_the_training(complaint: Exception) -> None:
    forward = ReportForwarder(events=None)
    forward.after_exception(None, {0: as_ray_wraps(complaint)})
    forward.after_exception(None, {0: as_ray_wraps(ValueError("another"))})
    with pytest.raises(type(complaint), match=str(complaint)):
        forward.after_exception(None, {1: as_ray_wraps(complaint)})


@pytest.mark.parametrize("passing", [RuntimeError("gloo: timed out"), OSError("no route"), MemoryError()])
def test_error_that_may_pass_is_left_to_ray(passing: Exception) -> None:
    forward = ReportForwarder(events=None)
    for _ in range(3):
        forward.after_exception(None, {0: as_ray_wraps(passing)})


def test_ray_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: object) -> None:
        raise ConnectionError("Could not connect to head:1\nand much more")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(RuntimeError) as caught, start_ray("head:1", resources(1)):
        pytest.fail("it was let in")
    assert str(caught.value) == "no Ray at 'head:1' (RAY_ADDRESS, or address in conf/): Could not connect to head:1"


# ---- small things ----------------------------------------------------------------------------------------------------


def test_environment_says_where_ray_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert address_of("local") == "local"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert address_of("local") == "head:6379"


# ---- Ray itself ------------------------------------------------------------------------------------------------------


@quiet
@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_cluster_that_was_there_before_is_left_running() -> None:
    for _ in range(2):
        with start_ray("local", resources(4)):
            assert ray.cluster_resources()["CPU"] == 4
        assert not ray.is_initialized()


@quiet
@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (resources(5), "5 workers with 1 CPU each need 5, but the cluster has 4; lower workers in conf/ or add nodes"),
        (
            resources(1, gpus_per_worker=8),
            "1 workers with 8 GPU each need 8, but the cluster has 0; lower workers in conf/",
        ),
    ],
)
def test_request_that_ray_would_wait_for_without_end_is_refused_at_once(asked: Resources, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence), start_ray("local", asked):
        pytest.fail("it was let in")
    assert not ray.is_initialized()


@quiet
@pytest.mark.slow
def test_machine_with_fewer_cores_than_workers_still_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # a socket's path has at most 107 bytes
    workers = (os.cpu_count() or 1) + 1
    with start_ray("local", resources(workers)):
        assert ray.cluster_resources()["CPU"] == workers
    assert ray.is_initialized() is False
