"""Laws of checkpoints in the storage: what is damaged is never gone on from, and nothing good is lost with it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.fs
import pytest
import ray
from ray.train import Checkpoint, CheckpointConfig
from ray.train.v2._internal.exceptions import CheckpointManagerInitializationError
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2._internal.execution.training_report import _TrainingReport

from pipeline.cluster.storage import SNAPSHOT, Checkpoints, name_of
from pipeline.runs.checksums import CHECKSUMS, verify_checksums, write_checksums


def keep(run: Path, step: int) -> Path:
    """A whole checkpoint."""
    folder = run / name_of(step)
    folder.mkdir(parents=True)
    (folder / "state.pt").write_bytes(b"state %d" % step)
    (folder / "history.json").write_text("[]")
    write_checksums(folder)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "runs/d1"


def test_newest_is_the_one_of_the_most_steps(run: Path) -> None:
    folders = [keep(run, step) for step in (1000000, 90, 8)]
    checkpoints = Checkpoints.of(str(run.parent), "d1")
    assert checkpoints.names() == [folder.name for folder in reversed(folders)]
    assert checkpoints.newest(pytest.fail) == folders[0].name
    with checkpoints.opened(folders[0].name) as found:
        assert (found / "state.pt").read_bytes() == b"state 1000000"


def test_run_without_checkpoints_has_no_newest(run: Path) -> None:
    assert Checkpoints.of(str(run.parent), "d1").newest(pytest.fail) is None
    run.mkdir(parents=True)
    (run / "mlflow_run_id").write_text("checkpoint_")
    assert Checkpoints.of(str(run.parent), "d1").newest(pytest.fail) is None


def test_same_step_written_again_is_newer(run: Path) -> None:
    first, second = keep(run, 5), keep(run, 5)
    assert first.name < second.name


def write_state(folder: Path) -> None:
    (folder / "state.pt").write_bytes(b"state")


def test_checkpoint_that_is_written_is_whole_and_the_newest(run: Path) -> None:
    keep(run, 1)
    checkpoints = Checkpoints.of(str(run.parent), "d1")
    written = checkpoints.write(write_state, step=2)
    assert (Path(written.path) / "state.pt").read_bytes() == b"state"
    assert run / str(checkpoints.newest(pytest.fail)) == Path(written.path)


def test_checkpoint_that_cannot_be_uploaded_leaves_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = keep(run, 1)
    checkpoints = Checkpoints.of(str(run.parent), "d1")

    def upload_half(folder: str, name: str) -> None:
        (run / name).mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "upload", upload_half)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.write(write_state, step=2)
    assert checkpoints.names() == [older.name]


def test_storage_that_a_node_does_not_see_is_refused_before_anything_is_written(run: Path) -> None:
    with pytest.raises(ValueError, match=rf"does not see {run}; set storage in conf/ to a URL, or to a folder that"):
        Checkpoints.of(str(run.parent), "d1").write(write_state, step=1)
    assert not run.exists()


def truncate(folder: Path) -> None:
    (folder / "state.pt").write_bytes((folder / "state.pt").read_bytes()[:3])


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "state.pt").read_bytes())
    content[0] ^= 1
    (folder / "state.pt").write_bytes(bytes(content))


def lose_a_file(folder: Path) -> None:
    (folder / "history.json").unlink()


def lose_the_digests(folder: Path) -> None:
    (folder / CHECKSUMS).unlink()


def truncate_the_digests(folder: Path) -> None:
    (folder / CHECKSUMS).write_text((folder / CHECKSUMS).read_text()[:9])


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lose_a_file, lose_the_digests, truncate_the_digests])
def test_damaged_checkpoint_is_told_and_the_one_before_taken(run: Path, damage: object) -> None:
    older, newer = keep(run, 1), keep(run, 2)
    damage(newer)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r".+"):
        verify_checksums(newer)
    told: list[str] = []
    assert Checkpoints.of(str(run.parent), "d1").newest(told.append) == older.name
    assert len(told) == 1
    assert told[0].startswith(f"{newer.name} is damaged (")
    assert newer.exists()


by_ray = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # it writes them with an old method of pydantic


def begin_with_notes(run: Path) -> CheckpointManager:
    """What Ray Train does first with a run that it finds, and refuses to go on from."""
    storage = StorageContext(storage_path=run.parent, experiment_dir_name=run.name)
    return CheckpointManager(CheckpointConfig(num_to_keep=2), storage)


def write_notes(run: Path, *folders: Path) -> None:
    """The notes of this version of Ray on these checkpoints, written by itself."""

    async def register() -> None:
        manager = begin_with_notes(run)
        for folder in folders:
            checkpoint = Checkpoint(path=str(folder), filesystem=pyarrow.fs.LocalFileSystem())
            manager.register_checkpoint(_TrainingReport(checkpoint, {"step": 1}, validation=False))

    asyncio.run(register())


@by_ray
def test_good_notes_of_ray_are_left_as_they_are(run: Path) -> None:
    run.mkdir(parents=True)
    checkpoints = Checkpoints.of(str(run.parent), "d1")
    checkpoints.repair_snapshot(pytest.fail)  # there are none
    write_notes(run, keep(run, 1), keep(run, 2))
    before = (run / SNAPSHOT).read_bytes()
    checkpoints.repair_snapshot(pytest.fail)
    assert (run / SNAPSHOT).read_bytes() == before
    assert len(begin_with_notes(run)._checkpoint_results) == 2


def of_another_ray(notes: Path, newest: Path) -> str:
    """One that had other fields."""
    content = json.loads(notes.read_text()) | {"ray_version": "2.40.0"}
    del content["current_report_index"]
    notes.write_text(json.dumps(content))
    return f"was written by Ray 2.40.0, but this is Ray {ray.__version__}"


def of_a_checkpoint_that_is_gone(notes: Path, newest: Path) -> str:
    shutil.rmtree(newest)
    return f"names missing checkpoints ({newest.name})"


def cut_off(notes: Path, newest: Path) -> str:
    notes.write_bytes(notes.read_bytes()[:40])
    return "is damaged"


def of_another_kind(notes: Path, newest: Path) -> str:
    notes.write_text("[]")
    return "is damaged"


@by_ray
@pytest.mark.parametrize("spoil", [of_another_ray, of_a_checkpoint_that_is_gone, cut_off, of_another_kind])
def test_notes_with_which_ray_would_not_begin_are_told_and_put_aside(
    run: Path, spoil: Callable[[Path, Path], str]
) -> None:
    older, newer = keep(run, 1), keep(run, 2)
    write_notes(run, older, newer)
    flaw = spoil(run / SNAPSHOT, newer)
    with pytest.raises(CheckpointManagerInitializationError):
        begin_with_notes(run)
    told: list[str] = []
    checkpoints = Checkpoints.of(str(run.parent), "d1")
    checkpoints.repair_snapshot(told.append)
    assert told == [f"{SNAPSHOT} {flaw}; it was moved aside, the checkpoints are read without it"]
    assert not (run / SNAPSHOT).exists() and (run / f"{SNAPSHOT}.aside").exists()
    assert begin_with_notes(run)._checkpoint_results == []
    assert checkpoints.newest(pytest.fail) == (newer if newer.exists() else older).name


def test_what_is_left_of_a_checkpoint_is_removed_and_nothing_else(run: Path) -> None:
    kept, left = keep(run, 1), keep(run, 2)
    checkpoints = Checkpoints.of(str(run.parent), "d1")
    checkpoints.remove(left.name)
    checkpoints.remove("checkpoint_that_never_was")
    assert [path.name for path in run.iterdir()] == [kept.name]
