"""Laws of starting Ray: a second chance on a busy machine, CPUs as a container has them, workers' output on request."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from pipeline.cluster import Resources, start_ray, worker_environment
from pipeline.cluster.processors import count_cpus, quotas
from pipeline.params.runtime import load_runtime
from pipeline.train.run import import_ahead

ROOT = Path(__file__).parents[2]
TIMED_OUT = "The current node timed out during startup. This could happen because\nand more"


def resources(workers: int = 1, **more: Any) -> Resources:
    return Resources(workers, 1, 0, backend="gloo", max_failures=0, start_timeout_s=1, **more)


class Starts:
    """Stands for ray.init: fails as the errors say, one after the other, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.options: list[dict[str, Any]] = []
        self.dashboard_url: str | None = None

    def __call__(self, **options: Any) -> Starts:
        self.options.append(options)
        if self.errors:
            raise self.errors.pop(0)
        return self


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    begun = Starts()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", begun)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8})
    return begun


def test_ray_of_this_machine_that_times_out_is_started_once_more(starts: Starts) -> None:
    starts.errors = [Exception(TIMED_OUT)]
    with start_ray("local", resources()):
        assert len(starts.options) == 2


def test_second_time_out_is_a_sentence_without_addresses(starts: Starts) -> None:
    starts.errors = [Exception(TIMED_OUT), Exception(TIMED_OUT)]
    with pytest.raises(RuntimeError) as caught, start_ray("local", resources()):
        pytest.fail("it was let in")
    told = str(caught.value)
    assert told.startswith("Ray does not start on this machine (The current node timed out during startup.")
    assert told.endswith("ray/session_latest/logs") and "address" not in told and "\n" not in told
    assert len(starts.options) == 2


@pytest.mark.parametrize(
    ("address", "error"),
    [("local", OSError("validate_socket_filename failed")), ("head:1", ConnectionError("timed out"))],
)
def test_failure_that_would_come_again_is_not_tried_again(address: str, error: Exception, starts: Starts) -> None:
    starts.errors = [error]
    with pytest.raises(RuntimeError), start_ray(address, resources()):
        pytest.fail("it was let in")
    assert len(starts.options) == 1


# ---- the dashboard ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "wanted", "there", "shown"),
    [
        ("local", True, "127.0.0.1:8265", "http://127.0.0.1:8265"),
        ("local", False, "127.0.0.1:8265", ""),  # a sweep's own, for its cleaner
        ("local", False, None, ""),
        ("10.0.0.1:6379", False, "10.0.0.1:8265", "http://10.0.0.1:8265"),
        ("10.0.0.1:6379", True, "https://ray.example.org", "https://ray.example.org"),
        ("10.0.0.1:6379", True, None, ""),  # started with --include-dashboard=false
    ],
)
def test_dashboard_is_shown_where_it_was_asked_for_or_is_a_clusters(
    address: str, wanted: bool, there: str | None, shown: str, starts: Starts, capsys: pytest.CaptureFixture[str]
) -> None:
    starts.dashboard_url = there
    with start_ray(address, resources(dashboard=wanted)) as url:
        assert url == shown
    assert capsys.readouterr().out == (f"Ray's dashboard: {shown}\n" if shown else "")


@pytest.mark.parametrize(("wanted", "swept"), [(True, False), (False, True), (False, False)])
def test_local_dashboard_listens_on_the_loopback_alone(wanted: bool, swept: bool, starts: Starts) -> None:
    with start_ray("local", resources(dashboard=wanted), dashboard=swept):
        assert starts.options[-1]["include_dashboard"] == (wanted or swept)
        assert starts.options[-1]["dashboard_host"] == "127.0.0.1"


def test_missing_package_of_the_dashboard_is_a_sentence(starts: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray.dashboard.optional_deps", raising=False)
    monkeypatch.delattr("ray.dashboard.optional_deps", raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp_cors", None)  # its import fails
    wanted = resources(dashboard=True)
    with pytest.raises(ValueError, match="dashboard is true in conf/, but") as caught, start_ray("local", wanted):
        pytest.fail("it was let in")
    assert "aiohttp_cors" in str(caught.value) and f'install "ray[default]=={ray.__version__}"' in str(caught.value)
    assert starts.options == []
    with start_ray("local", resources()):
        pass


# ---- CPUs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "own", "limits"),
    [
        ({}, "", []),
        ({"cpu.max": "max 100000\n"}, "", []),
        ({"cpu.max": "200000 100000\n"}, "", [2.0]),
        ({"a/b/cpu.max": "150000 100000\n", "a/cpu.max": "50000 100000\n", "cpu.max": "max 100000"}, "a/b", [1.5, 0.5]),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "", [2.5]),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "", []),
    ],
)
def test_quotas_of_both_versions_of_cgroups_are_read(
    files: dict[str, str], own: str, limits: list[float], tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(quotas(tmp_path, own)) == limits


def test_ray_gets_the_cpus_of_the_container_and_not_of_the_machine(
    starts: Starts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.setattr("pipeline.cluster.processors.CGROUPS", tmp_path)
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    with start_ray("local", resources()):
        assert starts.options[-1]["num_cpus"] == count_cpus() == 2
    with start_ray("local", resources(3)):
        assert starts.options[-1]["num_cpus"] == 3  # fewer CPUs than workers: slower, but it trains
    (tmp_path / "cpu.max").write_text("10000 100000\n")
    assert count_cpus() == 1


# ---- what workers get and say ----------------------------------------------------------------------------------------


def test_only_workers_without_a_gpu_keep_the_memory_that_they_were_given() -> None:
    kept = {name for name in worker_environment(1) if name.startswith("MALLOC_")}
    assert kept == {"MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"}
    assert set(worker_environment(1)) - set(worker_environment(1, 0.5)) == kept


def test_workers_of_one_machine_share_its_cores_in_every_library() -> None:
    threads = {name: value for name, value in worker_environment(3).items() if name.endswith("_NUM_THREADS")}
    assert threads == {"OMP_NUM_THREADS": "3", "RAYON_NUM_THREADS": "3"}  # torch's, and hotcoco's


def test_import_that_fails_ahead_is_left_to_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ImportError("a broken installation")

    monkeypatch.setattr("pipeline.train.run.import_mlflow", fail)
    import_ahead()


def test_output_of_workers_is_shown_on_request_only(starts: Starts) -> None:
    runtime = load_runtime(ROOT / "conf/local.yaml")
    for verbose, level in ((False, "ERROR"), (True, "INFO")):
        with start_ray("local", Resources.of(runtime.model_copy(update={"verbose": verbose}))):
            options = starts.options[-1]
            assert (options["log_to_driver"], options["logging_level"]) == (verbose, level)


def say(config: dict[str, Any]) -> None:
    """Runs in a worker."""
    print("said by a worker", flush=True)


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("verbose", [True, False])
def test_print_of_a_worker_is_seen_once_where_verbose(
    verbose: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from pipeline.cluster.training import run_trainer

    asked = Resources(1, 1, 0, backend="gloo", max_failures=0, start_timeout_s=60, verbose=verbose)
    with start_ray("local", asked):
        run_trainer(say, {}, resources=asked, name="d1", storage=str(tmp_path), on_event=print)
        time.sleep(3)  # Ray's monitor looks at the files now and then
    shown = capfd.readouterr()
    assert (shown.out + shown.err).count("said by a worker") == int(verbose)
