"""What a sweep has shown, from its records alone."""

from __future__ import annotations

import csv
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import yaml

from pipeline.params import load_params
from pipeline.params.runtime import load_runtime
from pipeline.runs.sweep_folder import EXHAUSTED, RESUME_STATE, SweepFolder
from pipeline.sweep import run as sweep_run
from pipeline.sweep.ranking import is_significant, rank_settings, verdict
from pipeline.sweep.records import configure, newest_sweep
from pipeline.sweep.report import apply_settings, report, status
from pipeline.sweep.run import Plan, run_sweep
from pipeline.tracking.interface import NoopRun

PARAMS = Path(__file__).parents[3] / "params.yaml"
CONF = Path("conf/sweep.yaml")


def write_trial(
    folder: SweepFolder,
    number: int,
    settings: dict[str, Any],
    score: float | None,
    *,
    seed: int = 1,
    state: str = "finished",
) -> None:
    configuration = configure(settings, seed=seed, number=number)
    history = [] if score is None else [{"epoch": 1, "AP": score / 2}, {"epoch": 2, "AP": score}]
    record = {"key": configuration["key"], "number": number, "seed": seed, "settings": settings, "state": state}
    folder.write_json(f"trials/{configuration['key']}.json", record | {"history": history, "score": score})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepFolder:
    """A sweep of five settings; the last has failed."""
    monkeypatch.chdir(tmp_path)
    params = load_params(PARAMS)
    assert params.sweep is not None
    found = SweepFolder(str(tmp_path / "runs/sweeps/abc"))
    sweep = params.sweep.model_dump() | {"fixed": {"train.epochs": 2}}
    plan = {"name": "abc", "sweep": sweep, "params": params.model_dump(exclude={"sweep"}), "trials": 5, "begun": 1.0}
    found.write_json("sweep.json", plan)
    for number, (alpha, gamma, score) in enumerate(
        [(0.25, 2.0, 0.3), (0.5, 1.0, 0.4), (0.75, 0.5, 0.2), (0.3, 3.0, 0.1)]
    ):
        write_trial(found, number, {"loss.alpha": alpha, "loss.gamma": gamma}, score)
    write_trial(found, 4, {"loss.alpha": 0.9, "loss.gamma": 0.0}, None, state="failed")
    return found


def test_settings_are_ranked_by_their_best_ap_and_failures_come_last(folder: SweepFolder) -> None:
    assert [setting.number for setting in rank_settings(folder)] == [1, 0, 2, 3, 4]


def test_the_report_writes_table_and_plots_and_prints_the_winner(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {key: value for key, value in mpl.rcParams.items() if "backend" not in key}
    report(folder, conf=CONF, apply=False)
    # Optuna's drawings set a style, which would change the charts of the page.
    assert before == {key: value for key, value in mpl.rcParams.items() if "backend" not in key}
    printed = capsys.readouterr().out
    command = "PIPELINE_CONF=conf/sweep.yaml dvc exp run -S train.epochs=2 -S loss.alpha=0.5 -S loss.gamma=1.0"
    assert command in printed
    assert "set sweep.seeds to 3" in printed
    rows = list(csv.DictReader(Path("reports/sweep.csv").read_text().splitlines()))
    assert [row["loss.alpha"] for row in rows] == ["0.5", "0.25", "0.75", "0.3", "0.9"]
    page = Path("reports/sweep.html").read_text()
    assert "Trial 1 of 5 settings, with AP 0.400 on val: loss.alpha 0.5, loss.gamma 1." in page
    assert page.count("data:image/png") == 3 and page.count("data:image/svg") == 1 and command in page
    assert "4 settings with an AP are too few" in page
    for name in ("slices", "parallel", "map"):
        assert Path(f"plots/sweep_{name}.png").stat().st_size > 5000
    assert not Path("plots/sweep_importance.png").exists()  # of five settings it would be chance


def test_ten_settings_have_an_importance(folder: SweepFolder) -> None:
    for number in range(5, 12):
        write_trial(folder, number, {"loss.alpha": number / 20, "loss.gamma": 2.0}, number / 100)
    shown = report(folder, conf=CONF, apply=False)
    assert shown is not None and Path("plots/sweep_importance.png") in shown.paths
    assert Path("plots/sweep_importance.png").stat().st_size > 5000
    assert Path("reports/sweep.html").read_text().count("data:image/svg") == 2


class Recorder(NoopRun):
    """Keeps what is logged, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        self.calls.append(("artifact", path))

    def set_tags(self, tags: Any) -> None:
        self.calls.append(("tags", tags))

    def link_artifact(self, path: str, title: str) -> None:
        self.calls.append(("link", path))


def test_the_page_is_an_artifact_of_the_sweeps_run_and_linked_below_its_description(folder: SweepFolder) -> None:
    run = Recorder()
    sweep_run.log_report(run, report(folder, conf=CONF, apply=False))
    assert ("artifact", Path("reports/sweep.html")) in run.calls
    assert [name for name, _ in run.calls[-2:]] == ["tags", "link"]  # the other way round, the link would be lost
    assert run.calls[-1] == ("link", "sweep.html")


def test_a_failed_setting_is_not_one_that_ties_with_the_winner(folder: SweepFolder) -> None:
    """It has no AP at all."""
    for seed in (1, 2, 3):
        write_trial(folder, 1, {"loss.alpha": 0.5, "loss.gamma": 1.0}, 0.4 + seed / 1000, seed=seed)
        write_trial(folder, 0, {"loss.alpha": 0.25, "loss.gamma": 2.0}, 0.2 + seed / 1000, seed=seed)
    settings = [one for one in rank_settings(folder) if one.number in (0, 1, 4)]
    assert [one.number for one in settings] == [1, 0, 4]
    assert verdict(settings, 3).endswith("significantly better than all others")


def test_a_value_that_is_a_list_is_typed_so_that_dvc_reads_it_back(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    write_trial(folder, 5, {"anchors.aspect_ratios": [0.5, 1.0], "optim.clip_grad_norm": None}, 0.9)
    report(folder, conf=CONF, apply=False)
    assert "-S 'anchors.aspect_ratios=[0.5, 1.0]' -S optim.clip_grad_norm=null" in capsys.readouterr().out


def test_applying_the_winner_changes_its_values_and_nothing_else(folder: SweepFolder) -> None:
    before = PARAMS.read_text().splitlines()
    Path("params.yaml").write_text(PARAMS.read_text())
    report(folder, conf=CONF, apply=True)
    after = Path("params.yaml").read_text().splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert [new.split("#")[0].strip() for _, new in changed] == ["alpha: 0.5", "gamma: 1.0"]
    assert all(old.partition("#")[2] == new.partition("#")[2] for old, new in changed)
    assert yaml.safe_load(Path("params.yaml").read_text())["train"]["epochs"] == load_params(PARAMS).train.epochs


def test_applying_keeps_lists_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.read_text())
    apply_settings({"anchors.aspect_ratios": [0.5, 2.0]}, path)
    load_params(path)
    assert "aspect_ratios:" in path.read_text()
    assert yaml.safe_load(path.read_text())["anchors"]["aspect_ratios"] == [0.5, 2.0]


def test_seeds_say_what_cannot_be_told_apart(folder: SweepFolder) -> None:
    for number, scores in ((10, (0.50, 0.52, 0.51)), (11, (0.49, 0.53, 0.50)), (12, (0.20, 0.21, 0.22))):
        for seed, score in enumerate(scores):
            write_trial(folder, number, {"loss.gamma": float(number)}, score, seed=seed)
    settings = [setting for setting in rank_settings(folder) if setting.number >= 10]
    assert verdict(settings, 3).startswith(
        "trial 10 has the highest AP, 0.510, but is not significantly better than trial 11 ("
    )
    assert verdict([settings[0], settings[2]], 3) == "trial 10 is best, AP 0.510: significantly better than all others"


def test_with_one_seed_nothing_can_be_told() -> None:
    assert not is_significant([0.5], [0.1])


def test_status_says_how_far_each_trial_is(folder: SweepFolder) -> None:
    words = status(folder)
    assert words.startswith("sweep abc: at most 5 trials: 4 finished, 1 failed; best AP 0.400")
    assert "trial 1 seed 1: finished AP 0.400 at epoch 2" in words


def test_the_newest_sweep_of_a_storage_is_found(folder: SweepFolder, tmp_path: Path) -> None:
    other = SweepFolder(str(tmp_path / "runs/sweeps/def"))
    other.write_json("sweep.json", {"name": "def", "begun": 2.0})
    assert newest_sweep(str(tmp_path / "runs")).read_json("sweep.json")["name"] == "def"
    with pytest.raises(ValueError, match="there is no sweep in"):
        newest_sweep(str(tmp_path / "elsewhere"))


def test_a_record_is_written_whole_or_not_at_all(folder: SweepFolder) -> None:
    folder.write("trials/x.json", b"{}")
    assert folder.read("trials/x.json") == b"{}"
    assert folder.read("trials/y.json") is None


@pytest.mark.parametrize(
    ("trials", "exhausted", "ended"),
    [(5, None, True), (6, None, False), (9, b"5", True), (9, b"6", False), (9, b"", True)],
    ids=["all", "one left", "no setting left", "no setting left but one trial", "of an earlier version"],
)
def test_sweep_has_ended_once_none_of_its_trials_is_left(
    trials: int, exhausted: bytes | None, ended: bool, folder: SweepFolder
) -> None:
    folder.write_json("sweep.json", folder.read_json("sweep.json") | {"trials": trials})
    if exhausted is not None:
        folder.write(EXHAUSTED, exhausted)
    assert folder.has_ended() == ended
    write_trial(folder, 6, {"loss.alpha": 0.4}, 0.3, state="running")
    assert not folder.has_ended()


def test_ended_sweep_that_is_asked_for_again_gives_the_same_report_without_what_resuming_needs(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in RESUME_STATE:
        folder.write(f"{part}/trial/checkpoint_000001/state.pt", b"state")
    params, runtime = load_params(PARAMS), load_runtime(PARAMS.parent / "conf/local.yaml")
    assert params.sweep is not None
    plan = Plan(params, params.sweep.model_copy(update={"trials": 5}), runtime, "abc", folder)
    monkeypatch.setattr(sweep_run, "open_parent", lambda *arguments: nullcontext(NoopRun()))
    monkeypatch.setattr(sweep_run, "log_split", lambda *arguments: None)
    monkeypatch.setattr(sweep_run, "run_trials", lambda *arguments: pytest.fail("Ray starts"))
    said, tables = [], []
    for _ in range(2):
        run_sweep(plan, conf=CONF, apply=False)
        said.append(capsys.readouterr().out)
        tables.append(Path("reports/sweep.csv").read_bytes())
        for part in RESUME_STATE:
            shutil.rmtree(folder.path(part), ignore_errors=True)
    assert said[0] == said[1] and tables[0] == tables[1]
    assert "reproduce the winner" in said[0] and "resumes" not in said[0]
