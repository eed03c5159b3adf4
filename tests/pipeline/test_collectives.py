"""Laws of collectives: whatever happens to one worker, all of them make the same collective calls, or it raises."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.cluster import worker as worker_room
from pipeline.cluster.worker import STEPS_BETWEEN_CHECKS, PauseRequests, Worker
from pipeline.fit import building as building_room
from pipeline.fit import validation as validation_room
from pipeline.fit.loop import load_splits, train_worker
from pipeline.params import load_params
from pipeline.params.runtime import load_runtime
from pipeline.worker_config import worker_config
from retinanet.training import engine as engine_room
from retinanet.training import progress as progress_room

STEPS = 3 * STEPS_BETWEEN_CHECKS
NEVER = 10**6


# ---- the questions of every step -------------------------------------------------------------------------------------


def asked_of_ray(rank: int, *, stopped_at: int, announced_at: int) -> tuple[list[int], list[tuple[bool, bool]]]:
    """The steps at which a rank asks Ray about its nodes, which is a collective; and what it answers at each step."""
    asked, answers = [], []

    class Rank(PauseRequests):
        def is_stopping(self) -> bool:
            return self.steps >= stopped_at

    pauses = Rank(None, first=rank == 0, watches_nodes=True)

    def get_preemption_info() -> str | None:
        asked.append(pauses.steps)
        return "a node goes" if pauses.steps >= announced_at else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_room.ray.train, "get_preemption_info", get_preemption_info)
        for _ in range(STEPS):
            answers.append(pauses())
    return asked, answers


@given(st.integers(1, 4), st.integers(1, STEPS + 1), st.integers(1, STEPS + 1))
def test_every_rank_asks_ray_at_the_same_steps_whenever_somebody_stops(
    num_workers: int, stopped_at: int, announced_at: int
) -> None:
    ranks = [asked_of_ray(rank, stopped_at=stopped_at, announced_at=announced_at) for rank in range(num_workers)]
    assert [asked for asked, _ in ranks] == [[20, 40, 60]] * num_workers
    (_, first), *others = ranks
    assert [stop for _, stop in first] == [step >= stopped_at for step in range(1, STEPS + 1)]
    assert not any(stop for _, answers in others for _, stop in answers)


@pytest.mark.parametrize("announced_at", [1, 20, 21, 60])
def test_announced_end_of_a_node_is_one_pause_on_every_rank_at_the_same_step(announced_at: int) -> None:
    seen = math.ceil(announced_at / STEPS_BETWEEN_CHECKS) * STEPS_BETWEEN_CHECKS
    for rank in range(3):
        _, answers = asked_of_ray(rank, stopped_at=NEVER, announced_at=announced_at)
        assert [step for step, (pause, _) in enumerate(answers, start=1) if pause] == [seen]


# ---- a whole training, its workers as threads ------------------------------------------------------------------------


class Meeting:
    """Collectives of workers that are threads: each call waits for all, which must have made the same one.

    A worker that raises ends the meeting, as Ray takes all workers away when one has failed.
    """

    def __init__(self, num_workers: int) -> None:
        self.barrier = threading.Barrier(num_workers, timeout=60)
        self.calls: list[list[str]] = [[] for _ in range(num_workers)]
        self.values: list[Any] = [None] * num_workers
        self.here = threading.local()

    @property
    def rank(self) -> int:
        rank: int = self.here.rank
        return rank

    def meet(self, name: str, value: Any = None) -> list[Any]:
        """The values of all ranks."""
        self.calls[self.rank].append(name)
        self.values[self.rank] = (name, value)
        self.barrier.wait()
        names, values = zip(*self.values, strict=True)
        self.barrier.wait()
        assert set(names) == {name}, names
        return list(values)

    def run(self, work: Callable[[int], None]) -> list[BaseException | None]:
        """What each rank has raised, when all have ended."""
        raised: list[BaseException | None] = [None] * len(self.calls)

        def of_rank(rank: int) -> None:
            self.here.rank = rank
            try:
                work(rank)
            except BaseException as error:  # noqa: BLE001  # it is looked at where the ranks are
                raised[rank] = error
                self.barrier.abort()

        threads = [threading.Thread(target=of_rank, args=(rank,)) for rank in range(len(self.calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return raised

    # What torch and Ray call these.

    def sum_over_workers(self, values: Tensor) -> Tensor:
        return torch.stack(self.meet(f"sum of {list(values.shape)}", values)).sum(dim=0)

    def gather_object(self, value: Any, gathered: list[Any] | None) -> None:
        values = self.meet("gather", value)
        if gathered is not None:
            gathered[:] = values

    def broadcast_object_list(self, values: list[Any]) -> None:
        values[:] = self.meet("broadcast", values)[0]

    def report(self, metrics: dict[str, Any], **options: Any) -> None:
        steps = self.meet("report", metrics["step"])
        assert set(steps) == {metrics["step"]}


@dataclass
class Mishap:
    """What happens to one of the workers, and when."""

    stopped_at: int = NEVER
    announced_at: int = NEVER
    full_at: int = NEVER
    spoiled: tuple[int, int] = (NEVER, NEVER)
    on_nan: Any = "stop"
    told: list[str] = field(default_factory=list)


class Ranks:
    """Two workers of the project of the current folder, in two epochs of six steps."""

    def __init__(self, mishap: Mishap, patch: pytest.MonkeyPatch) -> None:
        self.mishap, self.meeting = mishap, Meeting(2)
        params = load_params()
        train = params.train.model_copy(
            update={"batch_size": 4, "epochs": 2, "evaluate_every": 2, "on_nan": mishap.on_nan}
        )
        runtime = load_runtime().model_copy(update={"workers": 2, "checkpoint_every": 4})
        run = str(Path("runs/d1").resolve())
        self.config = worker_config(params.model_copy(update={"train": train}), runtime, digest="d1", run=run)
        self.written: list[int] = []
        self.patch_all(patch)

    def patch_all(self, patch: pytest.MonkeyPatch) -> None:
        meeting, compute_losses = self.meeting, engine_room.compute_losses
        for room in (engine_room, progress_room):
            patch.setattr(room, "sum_over_workers", meeting.sum_over_workers)
        patch.setattr(dist, "gather_object", meeting.gather_object)
        patch.setattr(dist, "broadcast_object_list", meeting.broadcast_object_list)
        patch.setattr(building_room, "distribute", lambda network, worker: network)
        patch.setattr(validation_room, "broadcast_state", lambda network: meeting.meet("weights"))
        patch.setattr(worker_room.ray.train, "report", meeting.report)
        patch.setattr(worker_room.ray.train, "get_preemption_info", self.get_preemption_info)
        patch.setattr(worker_room, "STEPS_BETWEEN_CHECKS", 2)
        patch.setattr(engine_room, "compute_losses", functools.partial(self.compute_losses, compute_losses))

    def get_preemption_info(self) -> str | None:
        looks = self.meeting.calls[self.meeting.rank].count("look")
        announced = 2 * (looks + 1) >= self.mishap.announced_at
        info: str | None = self.meeting.meet("look", "a node goes" if announced else None)[0]
        return info

    def write(self, fill: Any, *, step: int) -> None:
        """In place of Checkpoints.write."""
        if step == self.mishap.full_at:
            raise OSError(28, "No space left on device")
        self.written.append(step)

    def compute_losses(self, compute_losses: Any, state: Any, *rest: Any) -> Tensor:
        losses: Tensor = compute_losses(state, *rest)
        return losses * math.nan if (self.meeting.rank, state.schedule.last_epoch) == self.mishap.spoiled else losses

    def work(self, rank: int) -> None:
        """What one worker does."""

        class Stopped(PauseRequests):
            def is_stopping(pauses) -> bool:  # noqa: N805  # self is another's
                return pauses.steps >= self.mishap.stopped_at

        def send_event(event: dict[str, Any]) -> None:
            if event["kind"] == "warning":
                self.mishap.told.append(event["text"])

        link = Worker(
            rank=rank,
            num_workers=2,
            device=torch.device("cpu"),
            send_event=send_event,
            report=lambda metrics, write: worker_room.report(metrics, write, send_event, self),  # type: ignore[arg-type]  # stands for Checkpoints
            last_checkpoint=self.last_checkpoint,
            pause_requested=Stopped(None, first=rank == 0, watches_nodes=True),
        )
        train_worker(self.config, link, *load_splits(self.config.data))

    @contextmanager
    def last_checkpoint(self) -> Iterator[Path | None]:
        yield None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mishap", "written"),
    [
        (Mishap(stopped_at=2), [2]),
        (Mishap(stopped_at=5), [4, 5]),
        (Mishap(stopped_at=6), [4, 6]),  # the last step of an epoch
        (Mishap(announced_at=9, full_at=4, spoiled=(1, 2), on_nan=1), [6, 8, 10, 12]),
    ],
)
def test_workers_meet_at_every_collective_and_keep_checkpoints_of_the_same_steps(
    mishap: Mishap, written: list[int], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = Ranks(mishap, monkeypatch)
    assert ranks.meeting.run(ranks.work) == [None, None]
    first, second = ranks.meeting.calls
    assert first == second
    assert ranks.written == written
    assert [text.partition(":")[0] for text in mishap.told] == ["no checkpoint at step 4"] * (mishap.full_at == 4)


@pytest.mark.slow
def test_workers_end_early_at_the_same_step_though_only_the_first_computes_the_ap(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = Ranks(Mishap(), monkeypatch)
    train = ranks.config.params.train.model_copy(update={"epochs": 5, "evaluate_every": 1, "patience": 1})
    ranks.config = replace(ranks.config, params=ranks.config.params.model_copy(update={"train": train}))
    aps = iter([0.2, 0.1])
    monkeypatch.setattr(validation_room, "evaluate", lambda config, detections: {"AP": next(aps)})
    assert ranks.meeting.run(ranks.work) == [None, None]
    first, second = ranks.meeting.calls
    assert first == second
    assert ranks.written == [4, 6, 8, 12]  # two epochs of six steps


@pytest.mark.slow
def test_worker_whose_loss_is_not_finite_raises_and_leaves_no_rank_ahead_of_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = Ranks(Mishap(spoiled=(1, 2)), monkeypatch)
    first, second = ranks.meeting.run(ranks.work)
    assert isinstance(first, threading.BrokenBarrierError)  # it waited for the other, as Ray then ends it
    assert isinstance(second, FloatingPointError) and "at step 3" in str(second)
    ours, theirs = ranks.meeting.calls
    assert ours[: len(theirs)] == theirs and len(ours) == len(theirs) + 1
