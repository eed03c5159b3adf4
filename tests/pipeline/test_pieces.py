"""Laws of work in pieces, on a Ray that lives in this process: every piece is done once, whoever dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions

from pipeline.cluster import Resources, StoppedError, pieces
from pipeline.cluster.pieces import do_pieces

TWO = Resources(2, 1, 0, backend="gloo", max_failures=2, start_timeout_s=60)


class DiedError(Exception):
    """The end of a worker's process."""


class Ray:
    """The calls of Ray that pieces makes; a worker computes at once, and one that fails with DiedError is dead.

    Attributes:
        room: workers that the cluster has room for.
        most_at_once: workers that were there at one time.
        options: of the workers.
    """

    exceptions = ray.exceptions

    def __init__(self, room: int = 9) -> None:
        self.room, self.most_at_once = room, 0
        self.living: list[Any] = []
        self.options: dict[str, Any] = {}

    def remote(self, **options: Any) -> Callable[[type], Any]:
        self.options = options
        return lambda kind: SimpleNamespace(remote=lambda *arguments: self.start(kind(*arguments)))

    def start(self, worker: Any) -> SimpleNamespace:
        handle = SimpleNamespace()
        handle.answer = SimpleNamespace(remote=lambda: Answer(handle, worker.answer))
        handle.do = SimpleNamespace(remote=lambda piece: Answer(handle, lambda: worker.do(piece)))
        self.living.append(handle)
        return handle

    def wait(self, answers: list[Answer], timeout: float) -> tuple[list[Answer], list[Answer]]:
        """The newest answers first, so that pieces end in another order than they were given."""
        here = self.living[: self.room]
        self.most_at_once = max(self.most_at_once, len(here))
        ready = [answer for answer in answers if answer.worker in here]
        return ready[::-1], answers

    def get(self, answer: Answer) -> Any:
        try:
            return answer.compute()
        except DiedError as error:
            raise ray.exceptions.ActorUnavailableError(str(error), None) from None
        except Exception as error:  # noqa: BLE001  # as Ray does
            raise ray.exceptions.RayTaskError("do", "Traceback (most recent call last)", error) from None

    def kill(self, worker: Any) -> None:
        if worker in self.living:
            self.living.remove(worker)


class Answer:
    def __init__(self, worker: SimpleNamespace, compute: Callable[[], Any]) -> None:
        self.worker, self.compute = worker, compute


@pytest.fixture
def its_ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    fake = Ray()
    monkeypatch.setattr(pieces, "ray", fake)
    return fake


def failing(errors: dict[int, list[BaseException]]) -> Callable[[], Callable[[int], int]]:
    """Squares; a piece raises its errors, one each time, before it succeeds."""

    def square(piece: int) -> int:
        if errors.get(piece):
            raise errors[piece].pop()
        return piece**2

    return lambda: square


def test_every_piece_is_done_once_on_the_workers_of_conf(its_ray: Ray) -> None:
    prepared = []

    def prepare() -> Callable[[int], int]:
        prepared.append(1)
        return lambda piece: piece**2

    asked = replace(TWO, cpus_per_worker=3, gpus_per_worker=0.5, accelerator_type="L4", labels={"role": "gpu"})
    results = list(do_pieces(prepare, range(9), resources=replace(asked, environment={"HTTPS_PROXY": "proxy:1"})))
    assert sorted(results) == [piece**2 for piece in range(9)]
    assert results != sorted(results)  # they come as they are done
    assert (its_ray.most_at_once, len(prepared), its_ray.living) == (2, 2, [])
    variables = its_ray.options.pop("runtime_env")["env_vars"]
    assert (variables["OMP_NUM_THREADS"], variables["HTTPS_PROXY"]) == ("3", "proxy:1")
    assert its_ray.options == {
        "num_cpus": 3,
        "num_gpus": 0.5,
        "accelerator_type": "L4",
        "label_selector": {"role": "gpu"},
    }


def test_elastic_workers_begin_with_the_room_there_is(its_ray: Ray) -> None:
    its_ray.room = 1
    results = list(do_pieces(failing({}), range(4), resources=replace(TWO, workers=[1, 4])))
    assert (sorted(results), its_ray.most_at_once) == ([0, 1, 4, 9], 1)


def test_piece_of_a_worker_that_died_is_done_by_another(its_ray: Ray, capsys: pytest.CaptureFixture[str]) -> None:
    errors: dict[int, list[BaseException]] = {2: [DiedError("node lost"), OSError("no route")]}
    assert sorted(do_pieces(failing(errors), range(5), resources=TWO)) == [0, 1, 4, 9, 16]
    assert its_ray.living == []
    printed = capsys.readouterr().out
    assert "warning: a worker failed (OSError: no route); its work is repeated by another\n" in printed
    assert "warning: a worker failed (The actor None is unavailable: node lost" in printed


def test_one_failure_more_than_max_failures_ends_it_with_its_error(its_ray: Ray) -> None:
    errors: dict[int, list[BaseException]] = {2: [DiedError(f"death {number}") for number in (3, 2, 1)]}
    with pytest.raises(RuntimeError, match=r"a worker failed, and max_failures in conf/ allows no more.*death 3"):
        list(do_pieces(failing(errors), range(5), resources=TWO))
    assert its_ray.living == []


def test_mistake_of_the_user_is_its_sentence_at_once(its_ray: Ray) -> None:
    errors: dict[int, list[BaseException]] = {2: [ValueError("a.png cannot be read")]}
    with pytest.raises(ValueError, match=r"^a\.png cannot be read$"):
        list(do_pieces(failing(errors), range(5), resources=TWO))
    assert its_ray.living == []


def test_workers_that_do_not_start_are_one_sentence(its_ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    its_ray.room, seconds = 0, iter(range(0, 9000, 10))
    monkeypatch.setattr(pieces.time, "monotonic", lambda: next(seconds))
    with pytest.raises(ValueError, match=r"^no worker with 1 CPU and 2 GPU started within 60 s: all nodes are busy or"):
        list(do_pieces(failing({}), range(5), resources=replace(TWO, gpus_per_worker=2)))


def test_work_longer_than_the_time_for_a_start_goes_on(its_ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(0, 90000, 50))
    monkeypatch.setattr(pieces.time, "monotonic", lambda: next(seconds))
    assert len(list(do_pieces(failing({}), range(50), resources=TWO))) == 50


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_ends_the_workers(its_ray: Ray, number: signal.Signals) -> None:
    def stop_at_two(piece: int) -> int:
        if piece == 2:
            os.kill(os.getpid(), number)
        return piece

    before = signal.getsignal(number)
    done = []
    with pytest.raises(StoppedError, match="stopped before its end; run again to start over"):
        done.extend(do_pieces(lambda: stop_at_two, range(50), resources=TWO))
    assert (its_ray.living, signal.getsignal(number)) == ([], before)


def test_no_pieces_need_no_worker(its_ray: Ray) -> None:
    assert list(do_pieces(failing({}), [], resources=TWO)) == []
    assert its_ray.options == {}
