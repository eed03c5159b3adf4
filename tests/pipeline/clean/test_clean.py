"""Laws of clean: what is needed stays, what is not known stays, and nothing goes without --delete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.clean import listing, needs
from pipeline.clean.__main__ import main
from pipeline.clean.run import remove, run
from pipeline.cluster.archive import archive_run, export_archive
from pipeline.runs.identity import BEST, ENDED, ROWS, RUN_ID, RunFolder, digest_file, lock_run
from pipeline.storage.outs import write_json
from retinanet.inference.detector_file import save_detector
from tests.stored_runs import HISTORY, RUNS, add_run, clean, commit_report, contents, git


def test_without_delete_the_list_is_all_and_nothing_changes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(here / "runs", RUNS[1])
    (here / "runs/notes.txt").write_text("mine")
    before = contents(here / "runs")
    run(f"{here}/runs", delete=False, unfinished=True)
    said = capsys.readouterr().out
    assert contents(here / "runs") == before
    assert "nothing was removed; --delete removes the marked entries" in said
    assert [word in said for word in (RUNS[1], "remove", "nobody", "notes.txt", "unknown")] == [True] * 5


def test_run_of_every_revision_and_experiment_stays_and_the_others_go(here: Path) -> None:
    commit_report(RUNS[1])
    git("tag", "v1")
    git("checkout", "-q", "-b", "other")
    git("update-ref", "refs/exps/aa/bb/swift-owl", commit_report(RUNS[2]))
    git("reset", "-q", "--hard", "v1")
    for name in (RUNS[3], RUNS[4]):
        write_json(Path("reports/train.json"), {"run": name})
        git("stash", "push", "-q")
    commit_report(RUNS[5])
    git("checkout", "-q", "main")
    write_json(Path("reports/train.json"), {"run": RUNS[6]})
    save_detector(Path("models/model.pt"), {}, {"run": {"digest": RUNS[7], "epoch": 1}})
    for name in RUNS:
        add_run(here / "runs", name)
    assert clean(here) == set(RUNS[1:8])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("refs/heads/main", "branch main"),
        ("refs/remotes/origin/main", "branch origin/main"),
        ("refs/tags/v1", "tag v1"),
        ("refs/exps/aa/bb/swift-owl", "experiment swift-owl"),
        ("0123456789" * 4, "stash 01234567"),
        ("HEAD", "HEAD"),
    ],
)
def test_who_needs_a_run_is_named_shortly(name: str, expected: str) -> None:
    assert needs.shorten(name) == expected


def test_without_git_the_working_tree_decides_and_it_is_said(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "git", lambda *arguments: None)
    write_json(Path("reports/train.json"), {"run": RUNS[1]})
    for name in RUNS[:3]:
        add_run(here / "runs", name)
    assert clean(here) == {RUNS[1]}
    assert "no git repository here" in capsys.readouterr().out


@pytest.mark.parametrize(("answer", "left"), [({"aaa"}, RUNS[:1]), (None, RUNS[:2]), (set(), [])])
def test_run_whose_mlflow_run_is_not_deleted_stays(
    here: Path, answer: set[str] | None, left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "active_runs", lambda run_ids: answer)
    for name, run_id in zip(RUNS[:2], ("aaa", "bbb"), strict=True):
        add_run(here / "runs", name, mlflow=run_id)
    assert clean(here) == set(left)


def test_run_in_training_and_unfinished_run_stay(here: Path) -> None:
    for number in range(4):
        add_run(here / "runs", RUNS[number], has_ended=number in (0, 1))
    RunFolder(f"{here}/runs", "leases").write(f"{RUNS[1]}.json", "{}")
    with lock_run(here / "runs/locks", RUNS[0]):
        assert clean(here) == {*RUNS[:4], "leases"}
    commit_report(RUNS[2])
    assert clean(here, unfinished=True) == {RUNS[1], RUNS[2], "leases"}


def test_finished_run_that_is_needed_keeps_what_its_outputs_are_made_of(here: Path) -> None:
    folder = add_run(here / "runs", RUNS[1])
    RunFolder(f"{here}/runs", RUNS[1]).write("code.json", "{}")
    commit_report(RUNS[1])
    detector = (folder / "checkpoint_000000002_2" / BEST).read_bytes()
    clean(here)
    assert sorted(contents(folder)) == [
        "code.json",
        ENDED,
        f"finished/{BEST}",
        f"finished/{ROWS}",
        "finished/sha256.json",
    ]

    def export(found: Path) -> tuple[bytes, str]:
        return (found / BEST).read_bytes(), (found / ROWS).read_text()

    found = export_archive(RunFolder(f"{here}/runs", RUNS[1]), export)
    assert found is not None and found[0] == detector and json.loads(found[1]) == HISTORY
    before = contents(folder)
    clean(here)
    assert contents(folder) == before
    (folder / "finished" / BEST).write_bytes(b"half")
    with pytest.raises(ValueError, match=r"finished is damaged \(detector\.pt does not match its checksum\)"):
        export_archive(RunFolder(f"{here}/runs", RUNS[1]), export)


def test_run_whose_detector_cannot_be_kept_is_left_as_it_is(here: Path) -> None:
    folder = add_run(here / "runs", RUNS[1])
    commit_report(RUNS[1])
    for checkpoint in folder.glob("checkpoint_*/"):
        (checkpoint / BEST).write_bytes(b"half") if checkpoint.is_dir() else None
    before = contents(folder)
    clean(here)
    assert contents(folder) == before


def test_inputs_of_the_present_data_stay_and_all_while_a_run_trains(here: Path) -> None:
    write_json(Path("data/prepared/train.json"), {})
    kept = f"{digest_file(Path('data/prepared/train.json'))}.json"
    for name in (kept, f"{'0' * 64}.json", "readme"):
        RunFolder(f"{here}/runs", "inputs").write(name, "{}")
    add_run(here / "runs", RUNS[1], has_ended=False)
    with lock_run(here / "runs/locks", RUNS[1]):
        clean(here)
        assert len(list((here / "runs/inputs").iterdir())) == 3
    clean(here)
    assert {path.name for path in (here / "runs/inputs").iterdir()} == {kept, "readme"}


def test_sweep_that_nobody_needs_goes_once_its_trials_have_ended(here: Path) -> None:
    for name, states in ((RUNS[1], ["finished", "stopped"]), (RUNS[2], ["finished", "running"])):
        folder = RunFolder(f"{here}/runs", f"sweeps/{name}")
        folder.write("sweep.json", json.dumps({"trials": 2}))
        for number, state in enumerate(states):
            folder.write(f"trials/{number}.json", json.dumps({"number": number, "seed": 1, "state": state}))
    clean(here)
    assert {path.name for path in (here / "runs/sweeps").iterdir()} == {RUNS[2]}


def test_sweep_that_is_needed_keeps_what_its_report_is_made_of(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(needs, "active_runs", lambda run_ids: {"aaa"})
    storage, kept = f"{here}/runs", ["mlflow_run_id", "sweep.json", "trials/0.json", "trials/0/detector.pt"]
    for name, state in ((RUNS[1], "finished"), (RUNS[2], "running")):
        folder = RunFolder(storage, f"sweeps/{name}")
        folder.write("sweep.json", json.dumps({"trials": 1}))
        folder.write("trials/0.json", json.dumps({"number": 0, "seed": 1, "state": state}))
        folder.write(RUN_ID, "aaa")
        for path in ("trials/0/detector.pt", "tune/0/checkpoint_000001/state.pt", "train/0/checkpoint_1/state.pt"):
            folder.write(path, "0" * 1000)
    before = contents(here / "runs/sweeps" / RUNS[2])
    clean(here)
    assert "drop resume state  2.0 kB  MLflow run aaa" in capsys.readouterr().out
    assert sorted(contents(here / "runs/sweeps" / RUNS[1])) == kept
    assert contents(here / "runs/sweeps" / RUNS[2]) == before


@pytest.mark.parametrize("name", ["", ".", "..", "locks", "sweeps", f"../{RUNS[1]}", f"a/{RUNS[1]}", "inputs/readme"])
def test_what_has_no_known_name_is_never_removed(here: Path, name: str) -> None:
    add_run(here / "runs", RUNS[1])
    with pytest.raises(ValueError, match="is not the name of a run"):
        remove(f"{here}/runs", name)
    assert (here / "runs" / RUNS[1]).is_dir()


def test_removal_that_was_cut_off_is_ended_by_the_next(here: Path) -> None:
    add_run(here / "runs", RUNS[1]).rename(here / "runs" / f"{RUNS[1]}{listing.REMOVING}")
    assert clean(here) == set()


def test_storage_may_be_a_url() -> None:
    storage = "memory://of-clean/runs"
    for name in (*RUNS[:2], "mine"):
        folder = RunFolder(storage, name)
        folder.write(ENDED, "2")
        folder.write("checkpoint_000000001_1/state.pt", "0")
    entries = {
        entry.name: entry for entry in listing.list_entries(storage, {RUNS[0]: ["branch main"]}, unfinished=False)
    }
    assert {name: entry.action for name, entry in entries.items()} == {
        RUNS[0]: listing.STRIP,
        RUNS[1]: listing.REMOVE,
        "mine": listing.KEEP,
    }
    remove(storage, RUNS[1])
    assert RunFolder(storage, RUNS[1]).read(ENDED) is None and RunFolder(storage, "mine").read(ENDED) == "2"


def test_both_of_dry_run_and_delete_are_refused() -> None:
    with pytest.raises(ValueError, match="--delete and --dry-run are both given"):
        main(["--delete", "--dry-run"])


def test_keeping_a_run_without_a_whole_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no complete checkpoint"):
        archive_run(str(tmp_path), RUNS[1])
