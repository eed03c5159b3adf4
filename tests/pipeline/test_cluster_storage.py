"""Laws of checkpoints in the storage: what is damaged is never gone on from, and nothing good is lost with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.cluster.storage import DIGESTS, NOTES, Checkpoints, check_whole, name_of, seal


def keep(run: Path, step: int) -> Path:
    """A whole checkpoint."""
    folder = run / name_of(step)
    folder.mkdir(parents=True)
    (folder / "state.pt").write_bytes(b"state %d" % step)
    (folder / "history.json").write_text("[]")
    seal(folder)
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


def truncate(folder: Path) -> None:
    (folder / "state.pt").write_bytes((folder / "state.pt").read_bytes()[:3])


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "state.pt").read_bytes())
    content[0] ^= 1
    (folder / "state.pt").write_bytes(bytes(content))


def lose_a_file(folder: Path) -> None:
    (folder / "history.json").unlink()


def lose_the_digests(folder: Path) -> None:
    (folder / DIGESTS).unlink()


def truncate_the_digests(folder: Path) -> None:
    (folder / DIGESTS).write_text((folder / DIGESTS).read_text()[:9])


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lose_a_file, lose_the_digests, truncate_the_digests])
def test_damaged_checkpoint_is_told_and_the_one_before_taken(run: Path, damage: object) -> None:
    older, newer = keep(run, 1), keep(run, 2)
    damage(newer)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r".+"):
        check_whole(newer)
    told: list[str] = []
    assert Checkpoints.of(str(run.parent), "d1").newest(told.append) == older.name
    assert len(told) == 1
    assert told[0].startswith(f"{newer.name} is damaged (")
    assert newer.exists()


def test_damaged_notes_of_ray_are_put_aside_and_good_ones_left(run: Path) -> None:
    run.mkdir(parents=True)
    checkpoints = Checkpoints.of(str(run.parent), "d1")
    checkpoints.mend_notes(pytest.fail)
    (run / NOTES).write_text(json.dumps({"version": 0}))
    checkpoints.mend_notes(pytest.fail)
    (run / NOTES).write_text('{"version": ')
    told: list[str] = []
    checkpoints.mend_notes(told.append)
    assert len(told) == 1
    assert [path.name for path in run.iterdir()] == [f"{NOTES}.damaged"]


def test_what_is_left_of_a_checkpoint_is_removed_and_nothing_else(run: Path) -> None:
    kept, left = keep(run, 1), keep(run, 2)
    checkpoints = Checkpoints.of(str(run.parent), "d1")
    checkpoints.remove(left.name)
    checkpoints.remove("checkpoint_that_never_was")
    assert [path.name for path in run.iterdir()] == [kept.name]
