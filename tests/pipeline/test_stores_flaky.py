"""Laws of a storage that fails now and then: what passes is tried again, what does not is one sentence at once."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runs.identity import RUN_ID, RunFolder
from pipeline.storage import stores
from pipeline.storage.stores import PAUSES_S, is_transient, retry
from tests.flaky import SLOW_DOWN, FlakyStore, full_disk


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The pauses that were made, none of which takes time."""
    made: list[float] = []
    monkeypatch.setattr(stores.time, "sleep", made.append)
    yield made
    FlakyStore.reset()


def failing(failures: int, error: OSError) -> Callable[[], str]:
    """Work that fails so often, and then succeeds."""
    left = [failures]

    def work() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return "done"

    return work


@given(failures=st.integers(0, 8))
def test_work_is_repeated_after_what_passes_as_often_as_there_are_pauses(failures: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        made: list[float] = []
        patch.setattr(stores.time, "sleep", made.append)
        if failures <= len(PAUSES_S):
            assert retry(failing(failures, OSError(SLOW_DOWN))) == "done"
        else:
            with pytest.raises(OSError, match="SLOW_DOWN"):
                retry(failing(failures, OSError(SLOW_DOWN)))
        assert tuple(made) == PAUSES_S[:failures]
    assert sum(PAUSES_S) <= 15


@pytest.mark.parametrize(
    "error",
    [
        OSError(SLOW_DOWN),
        OSError("AWS Error NETWORK_CONNECTION during HeadBucket operation: curlCode: 7, Could not connect to server"),
        OSError("AWS Error UNKNOWN (HTTP status 502) during PutObject operation: Bad Gateway"),
        OSError("google::cloud::Status(UNAVAILABLE: Retry policy exhausted)"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        TimeoutError("timed out"),
        OSError(errno.ESTALE, "Stale file handle"),
    ],
)
def test_error_of_a_slow_or_unreachable_store_is_transient(error: OSError) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        full_disk(),
        PermissionError(errno.EACCES, "Permission denied"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        OSError(errno.EROFS, "Read-only file system"),
        OSError("AWS Error ACCESS_DENIED during PutObject operation: Access Denied"),
        OSError("AWS Error NO_SUCH_BUCKET during PutObject operation"),
        OSError("AWS Error UNKNOWN (HTTP status 403) during PutObject operation"),
        OSError("there is no such bucket"),
        OSError(errno.ENOSPC, "No space left on device: /mnt/UNAVAILABLE"),
    ],
)
def test_full_disk_or_missing_right_is_not(error: OSError, pauses: list[float]) -> None:
    assert not is_transient(error)
    with pytest.raises(type(error)):
        retry(failing(1, error))
    assert pauses == []


def test_texts_of_a_run_reach_a_store_that_fails_every_second_write() -> None:
    FlakyStore.reset(every=2)
    folder = RunFolder("flaky://runs", "d1")
    for number in range(5):
        folder.write(RUN_ID, f"{number}")
        assert folder.read(RUN_ID) == f"{number}"
    assert FlakyStore.writes == 9  # the first as it is, each later one twice


def test_store_that_takes_nothing_is_one_sentence() -> None:
    FlakyStore.reset(every=1)
    with pytest.raises(ValueError, match=r"^flaky://runs/d1 cannot be used \(When creating.*; check the address.*$"):
        RunFolder("flaky://runs", "d1").write(RUN_ID, "0")
    assert FlakyStore.writes == 1 + len(PAUSES_S)
    FlakyStore.reset(every=1, error=full_disk())
    with pytest.raises(ValueError, match=r"\(No space left on device\)"):
        RunFolder("flaky://runs", "d1").write(RUN_ID, "0")
    assert FlakyStore.writes == 1


def test_folder_that_takes_nothing_keeps_the_text_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(str(tmp_path), "d1")
    folder.write(RUN_ID, "before")

    def fill_disk(path: Path, text: str) -> None:
        path.touch()
        raise full_disk()

    monkeypatch.setattr(Path, "write_text", fill_disk)
    with pytest.raises(ValueError, match=r"d1 cannot be used \(No space left on device\); it must be a folder"):
        folder.write(RUN_ID, "after")
    assert folder.read(RUN_ID) == "before"
