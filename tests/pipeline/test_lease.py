"""Laws of a run's lease: one driver on all machines holds it, and only the death of that one sets it free."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from pipeline.runs import lease as lease_room
from pipeline.runs.lease import (
    HEARTBEAT_S,
    SECONDS_BETWEEN_CHECKS,
    SETTLE_S,
    TTL_S,
    Lease,
    LeaseFile,
    Owner,
    hold_lease,
)

REPOSITORY = Path(__file__).parents[2]


class Clock:
    """Of one driver: time goes by in its sleep, in which others act.

    Args:
        each_second: done after every second.
    """

    def __init__(self, start: float = 0.0) -> None:
        self.time = start
        self.each_second: Callable[[], object] = lambda: None

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.time += 1
            self.each_second()


@pytest.fixture(params=["memory", "local"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder that several machines see."""
    yield "memory://shared/runs" if request.param == "memory" else str(tmp_path / "runs")
    fsspec.filesystem("memory").store.clear()


def driver(storage: str, host: str, clock: Clock | None = None, *, lock: str | None = None) -> Lease:
    """A driver on a machine of its own."""
    clock = clock or Clock()
    me = Owner(host, 7, "Monday", host if lock is None else lock)
    return Lease(LeaseFile(storage, "d1"), "d1", me, now=clock.now, sleep=clock.sleep)


def heart(lease: Lease) -> Callable[[], None]:
    """Renews a lease every HEARTBEAT_S seconds."""
    seconds = iter(range(1, 10**6))

    def second() -> None:
        if next(seconds) % HEARTBEAT_S == 0:
            assert lease.renew()

    return second


def test_lease_names_its_owner_until_it_is_given_back(storage: str) -> None:
    lease = driver(storage, "head")
    lease.acquire()
    content = json.loads(LeaseFile(storage, "d1").read() or b"")
    assert (content["host"], content["pid"], content["since"]) == ("head", 7, "Monday")
    assert lease.renew()
    lease.release()
    assert LeaseFile(storage, "d1").read() is None
    driver(storage, "other").acquire()


def test_other_runs_have_other_leases(storage: str) -> None:
    driver(storage, "head").acquire()
    other = driver(storage, "other")
    replace(other, file=LeaseFile(storage, "d2"), name="d2").acquire()


@pytest.mark.parametrize("ahead_s", [-86400.0, 0.0, 86400.0])
def test_second_driver_is_refused_while_the_first_lives_whatever_their_clocks_say(
    storage: str, ahead_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    first, clock = driver(storage, "head", Clock()), Clock(ahead_s)
    first.acquire()
    clock.each_second = heart(first)
    with pytest.raises(ValueError, match="run d1 is held by process 7 on head since Monday, which renews its lease"):
        driver(storage, "laptop", clock).acquire()
    assert clock.time - ahead_s <= HEARTBEAT_S + SECONDS_BETWEEN_CHECKS
    assert first.is_mine()
    said = capsys.readouterr().out
    assert said.startswith("run d1 was held by process 7 on head since Monday (its lease is ")
    assert said.endswith("waiting up to 120 s to see whether the lease is renewed\n") and said.count("\n") == 1


def test_lease_of_a_dead_driver_is_taken_over_after_its_time_and_the_line_says_whose(
    storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    driver(storage, "head").acquire()  # and nothing more is heard of it
    clock = Clock()
    second = driver(storage, "laptop", clock)
    second.acquire()
    assert TTL_S <= clock.time <= TTL_S + SECONDS_BETWEEN_CHECKS + SETTLE_S
    assert second.is_mine()
    assert capsys.readouterr().out.splitlines()[1:] == [
        "not renewed in 120 s: taking over the lease of process 7 on head since Monday"
    ]


def test_lease_that_is_given_back_meanwhile_is_taken_at_once(storage: str) -> None:
    first, clock = driver(storage, "head"), Clock()
    first.acquire()
    clock.each_second = first.release
    driver(storage, "laptop", clock).acquire()
    assert clock.time <= SECONDS_BETWEEN_CHECKS + SETTLE_S


def test_who_holds_the_lock_of_the_dead_driver_need_not_wait(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    driver(storage, "head", lock="the same").acquire()
    clock = Clock()
    driver(storage, "head", clock, lock="the same").acquire()
    assert clock.time <= SETTLE_S
    assert capsys.readouterr().out == ""


def test_no_lock_is_like_no_other(storage: str) -> None:
    """Where a system cannot tell locks apart."""
    driver(storage, "head", lock="").acquire()
    clock = Clock()
    driver(storage, "laptop", clock, lock="").acquire()
    assert clock.time >= TTL_S


def test_of_two_drivers_that_begin_together_one_holds_it(storage: str) -> None:
    file = LeaseFile(storage, "d1")
    file.create(b"")
    file.remove()
    late = driver(storage, "late")
    held: list[Callable[[], None]] = []

    def others() -> None:
        """The other one has found no lease either, and writes after the first; then it lives."""
        if not held:
            file.write(late.content())
            held.append(heart(late))
        held[0]()

    clock = Clock()
    clock.each_second = others
    early = driver(storage, "early", clock)
    early.file.create = lambda content: False  # type: ignore[method-assign]  # as in a bucket
    with pytest.raises(ValueError, match="is held by process 7 on late"):
        early.acquire()
    assert late.is_mine()


def test_driver_that_slept_learns_at_its_next_heartbeat_that_the_run_is_no_longer_its_own(storage: str) -> None:
    slept = driver(storage, "laptop")
    slept.acquire()
    second = driver(storage, "head")
    second.acquire()
    assert not slept.renew()
    slept.release()
    assert second.is_mine() and second.renew()


@pytest.mark.parametrize("broken", ["read", "write"])
def test_one_heartbeat_that_the_store_does_not_take_loses_nothing(
    storage: str, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = driver(storage, "head")
    lease.acquire()

    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(LeaseFile, broken, fail)
        assert lease.renew()
    before = lease.file.read()
    assert lease.renew()
    assert lease.file.read() != before


def test_lease_that_is_not_whole_is_watched_like_any_other(storage: str) -> None:
    file = LeaseFile(storage, "d1")
    file.create(b"")
    file.write(b'{"host": ')
    clock = Clock()
    driver(storage, "head", clock).acquire()
    assert clock.time >= TTL_S


# ---- while something runs --------------------------------------------------------------------------------------------


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """The file of a local lock."""
    path = tmp_path / "d1.lock"
    path.touch()
    return path


def test_lost_lease_ends_what_runs_with_a_sentence(tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_room, "HEARTBEAT_S", 0.05)
    file, other = LeaseFile(str(tmp_path), "d1"), driver(str(tmp_path), "other")
    ended = []

    def work() -> None:
        with hold_lease(str(tmp_path), "d1", lock=lock):
            file.write(other.content())
            try:
                time.sleep(20)
            finally:
                ended.append("cleared up")

    with pytest.raises(
        SystemExit,
        match=r"no longer held by this process: another one took over its lease .*/leases/d1\.json",
    ):
        work()
    assert ended == ["cleared up"]
    assert other.is_mine()


def test_lease_is_renewed_while_something_runs_and_gone_when_it_has_ended(
    tmp_path: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_room, "HEARTBEAT_S", 0.02)
    file, seen = LeaseFile(str(tmp_path), "d1"), set()
    with hold_lease(str(tmp_path), "d1", lock=lock):
        deadline = time.monotonic() + 20
        while len(seen) < 3 and time.monotonic() < deadline:
            seen.add(file.read())
        assert len(seen) >= 3
    assert file.read() is None


def test_lock_is_known_by_its_file_and_the_start_of_the_machine(lock: Path, tmp_path: Path) -> None:
    (tmp_path / "other.lock").touch()
    assert Owner.here(lock).lock == Owner.here(lock).lock != ""
    assert Owner.here(lock).token != Owner.here(lock).token
    assert Owner.here(lock).lock != Owner.here(tmp_path / "other.lock").lock
    assert Owner.here(tmp_path / "none.lock").lock == ""


def test_store_that_does_not_answer_is_one_sentence(lock: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be used"), hold_lease(str(tmp_path / "file"), "d1", lock=lock):
        pytest.fail("it was let in")
