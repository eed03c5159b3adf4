"""Laws of runs whose code changed: found by one listing, named with what changed, gone on from only when asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.runs.checksums import write_checksums
from pipeline.runs.identity import RunFolder
from pipeline.runs.predecessor import CODE, begin_run, find_predecessor
from pipeline.runs.sweep_folder import SweepFolder
from pipeline.sweep.predecessor import choose_sweep, note_code

OLD = {"python": "3.11", "torch": "2.15.0", "retinanet/anchors/boxes.py": "1"}
NEW = {**OLD, "retinanet/anchors/boxes.py": "2"}
FIRST, SECOND = "aaaaaaaaaaaaaaaa-00000001", "aaaaaaaaaaaaaaaa-00000002"


def add_checkpoint(storage: Path, name: str, *, time_ns: int, content: str = "weights") -> None:
    folder = storage / name / f"checkpoint_000000003_{time_ns}"
    folder.mkdir(parents=True)
    (folder / "state.pt").write_text(content)
    write_checksums(folder)


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("checkpoint*/*")}


def test_changed_code_begins_at_zero_and_says_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin_run(str(tmp_path), FIRST, OLD, resume_earlier=False)
    add_checkpoint(tmp_path, FIRST, time_ns=5)
    assert capsys.readouterr().out == ""
    assert begin_run(str(tmp_path), SECOND, NEW, resume_earlier=False) == {}
    assert capsys.readouterr().out == (
        f"run {SECOND} starts at its first epoch: run {FIRST} has the same parameters and data, but its code differs "
        "(retinanet/anchors/boxes.py); to resume from it, stop this and set resume: always in conf/\n"
    )
    assert texts(tmp_path / SECOND) == {}


def test_resume_always_goes_on_from_a_copy_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin_run(str(tmp_path), FIRST, OLD, resume_earlier=False)
    add_checkpoint(tmp_path, FIRST, time_ns=5)
    begin_run(str(tmp_path), SECOND, NEW, resume_earlier=False)  # stopped, because of what it said
    capsys.readouterr()
    tags = begin_run(str(tmp_path), SECOND, NEW, resume_earlier=True)
    assert tags == {"resumed_from": FIRST, "resumed_from.changes": "retinanet/anchors/boxes.py"}
    said = capsys.readouterr().out
    assert said.startswith(f"warning: run {SECOND} resumes from run {FIRST}, which another version of the code started")
    assert texts(tmp_path / SECOND) == texts(tmp_path / FIRST) != {}
    assert json.loads((tmp_path / FIRST / CODE).read_text())["code"] == OLD
    # Run again, also with another conf/, it is the run that it became, and copies nothing over its own work.
    add_checkpoint(tmp_path, FIRST, time_ns=9, content="later")
    for resume_earlier in (True, False):
        assert begin_run(str(tmp_path), SECOND, NEW, resume_earlier=resume_earlier) == tags
    assert len(list((tmp_path / SECOND).glob("checkpoint_*"))) == 1
    assert capsys.readouterr().out == ""


def test_copy_that_was_cut_off_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin_run(str(tmp_path), FIRST, OLD, resume_earlier=False)
    add_checkpoint(tmp_path, FIRST, time_ns=5)

    def cut_off(origin: RunFolder, folder: RunFolder) -> None:
        add_checkpoint(tmp_path, SECOND, time_ns=5, content="wei")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.runs.predecessor.copy_checkpoints", cut_off)
        with pytest.raises(KeyboardInterrupt):
            begin_run(str(tmp_path), SECOND, NEW, resume_earlier=True)
    begin_run(str(tmp_path), SECOND, NEW, resume_earlier=True)
    assert texts(tmp_path / SECOND) == texts(tmp_path / FIRST)


def test_run_with_checkpoints_of_its_own_looks_for_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, code, time_ns in ((FIRST, OLD, 5), (SECOND, NEW, 4)):
        begin_run(str(tmp_path), name, code, resume_earlier=False)
        add_checkpoint(tmp_path, name, time_ns=time_ns)
    capsys.readouterr()
    assert begin_run(str(tmp_path), SECOND, NEW, resume_earlier=True) == {}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("url", ["memory://of-predecessors", "{tmp_path}"])
def test_predecessor_is_the_one_with_the_newest_checkpoint(url: str, tmp_path: Path) -> None:
    storage = url.format(tmp_path=tmp_path)
    assert find_predecessor(storage, SECOND, NEW) is None
    for suffix, time_ns in (("0000000a", 7), ("0000000b", 9), ("0000000c", 8)):
        folder = RunFolder(storage, f"aaaaaaaaaaaaaaaa-{suffix}")
        folder.write(CODE, json.dumps({"code": OLD}))
        folder.write(f"checkpoint_000000001_{time_ns}/state.pt", "weights")
    for other in (
        "aaaaaaaaaaaaaaaa-0000000d",
        "bbbbbbbbbbbbbbbb-0000000e",
        "aaaaaaaaaaaaaaaa-0000000f.20261125-120000",
    ):
        content = {CODE: "{}"} if other.endswith("d") else {CODE: "{}", "checkpoint_000000001_99/state.pt": "weights"}
        for name, text in content.items():  # without checkpoint; of other parameters; put aside
            RunFolder(storage, other).write(name, text)
    found = find_predecessor(storage, SECOND, NEW)
    assert found is not None and found.name == "aaaaaaaaaaaaaaaa-0000000b"
    assert found.changes == "retinanet/anchors/boxes.py"


# ---- sweeps ----------------------------------------------------------------------------------------------------------


def test_sweep_under_other_code_goes_on_only_when_asked_and_stays_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert choose_sweep(str(tmp_path), FIRST, OLD, resume_earlier=True) == FIRST
    SweepFolder(f"{tmp_path}/{FIRST}").write_json("sweep.json", note_code({"begun": 1.0}, OLD))
    assert choose_sweep(str(tmp_path), SECOND, NEW, resume_earlier=False) == SECOND
    assert "its code differs (retinanet/anchors/boxes.py)" in capsys.readouterr().out
    assert choose_sweep(str(tmp_path), SECOND, NEW, resume_earlier=True) == FIRST
    mixed = note_code(SweepFolder(f"{tmp_path}/{FIRST}").read_json("sweep.json"), NEW)
    assert "ran different versions of the code; changed: retinanet/anchors/boxes.py" in capsys.readouterr().out
    note_code(mixed, OLD)  # the first code again: the trials of the other are still there
    assert "ran different versions of the code; changed: retinanet/anchors/boxes.py" in capsys.readouterr().out
