"""The laws of pipeline/reports/training_curves.py and of what DVC draws from its CSVs."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.evaluate.report import read_history
from pipeline.reports.curves import name_few
from pipeline.reports.training_curves import curves_of_classes, plot_training, write_classes_csv, write_history_csv
from tests.pipeline.test_curves import run_dvc, size_px

ROOT = Path(__file__).resolve().parents[2]
ODD = ["a, b", 'the "dog"', "K\u00e4fer/red", "two\nlines", "$x_{$", "x.AP", "_"]
EPOCHS: list[dict[str, Any]] = [
    {"epoch": 1, "loss": 1.5, "loss_cls": 1.0, "loss_box": 0.5, "lr": 0.01, "grad_norm": None, "grad_norm_max": None},
    {"epoch": 2, "loss": 0.8, "loss_cls": 0.5, "loss_box": 0.3, "lr": 0.001, "grad_norm": 2.5, "grad_norm_max": 7.0},
]
EPOCHS[1] |= {"AP": 0.2, "AP50": 0.4, "val_loss": 0.9}


def with_classes(names: list[str], epochs: int = 2) -> list[dict[str, Any]]:
    """Epochs of which all but the first are evaluated; the last class has no ground truth."""
    rows = [EPOCHS[min(n, 1)] | {"epoch": n + 1} for n in range(epochs)]
    for row in rows[1:]:
        aps = [(place + row["epoch"]) / (len(names) + epochs) for place in range(len(names) - 1)]
        row |= {f"per_class.{name}.AP": ap for name, ap in zip(names, [*aps, None], strict=True)}
    return rows


def test_history_comes_back_from_its_csv_whatever_the_classes_are_called(tmp_path: Path) -> None:
    history = with_classes(ODD)
    write_history_csv(history, tmp_path / "training.csv")
    first, second = read_history(tmp_path / "training.csv")
    assert second == history[1]
    assert {key: value for key, value in first.items() if value is not None} == {
        key: value for key, value in history[0].items() if value is not None
    }


def test_csv_of_classes_has_a_row_for_each_known_ap(tmp_path: Path) -> None:
    history = [
        {"epoch": 1, "per_class.cat.AP": 0.25, "per_class.dog.AP": None},
        {"epoch": 2, "loss": 1.0},
        {"epoch": 3, "per_class.cat.AP": 0.5, "per_class.dog.AP": 0.125, "per_class.dog.AP50": 0.9},
    ]
    write_classes_csv(history, tmp_path / "classes.csv")
    assert (tmp_path / "classes.csv").read_text() == "epoch,class,AP\n1,cat,0.25\n3,cat,0.5\n3,dog,0.125\n"


def test_csv_of_classes_keeps_odd_names(tmp_path: Path) -> None:
    write_classes_csv(with_classes(ODD), tmp_path / "classes.csv")
    with (tmp_path / "classes.csv").open(newline="", encoding="utf-8") as file:
        assert [row["class"] for row in csv.DictReader(file)] == ODD[:-1]
    assert list(curves_of_classes(with_classes(ODD))) == ODD[:-1]


def test_of_many_names_the_best_and_the_worst_are_named() -> None:
    scores = {f"class {k}": k / 100 for k in range(80)}
    ranked, named = name_few(scores)
    assert ranked == [f"class {k}" for k in reversed(range(80))]
    assert named == [f"class {k}" for k in (79, 78, 77, 76, 75, 4, 3, 2, 1, 0)]
    ranked, named = name_few({"b": 0.5, "a": 0.5, "c": 0.75})
    assert ranked == named == ["c", "a", "b"]


@pytest.mark.parametrize("classes", [0, 1, 2, 80])
@pytest.mark.parametrize("keys", [{"epoch", "loss", "loss_cls", "loss_box"}, {*EPOCHS[0]}, {*EPOCHS[1]}])
@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_curves_are_drawn_for_any_history(tmp_path: Path, epochs: int, keys: set[str], classes: int) -> None:
    names = (ODD + [f"class {k}" for k in range(80)])[:classes]
    rows = with_classes([*names, "none of val"], epochs)
    history = [{key: row[key] for key in row if key in keys or key.startswith("per_class.")} for row in rows]
    plot_training(history, tmp_path / "curves.png")
    assert size_px(tmp_path / "curves.png") == (1320, 825)


@pytest.mark.parametrize("key", ["grad_norm", "grad_norm_max", "lr", "val_loss", "per_class.b.AP"])
def test_every_curve_is_in_the_picture(tmp_path: Path, key: str) -> None:
    rows = with_classes(["a", "b", "c"], epochs=4)
    plot_training(rows, tmp_path / "one.png")
    plot_training([row if row.get(key) is None else row | {key: 0.5 * row[key]} for row in rows], tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "two.png").read_bytes()


def test_same_values_give_the_same_picture(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        plot_training(with_classes(["a", "b"]), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@pytest.mark.slow
def test_drawing_leaves_pyplot_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.reports.training_curves import plot_training\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"plot_training([], Path({str(tmp_path / 'curves.png')!r}))\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.slow
def test_dvc_draws_the_curves_that_dvc_yaml_names(tmp_path: Path) -> None:
    """The plots of the project's dvc.yaml, on the CSVs of a training."""
    declared = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    of_training = [plot for plot in declared["plots"] if "plots/training.csv" in json.dumps(plot)]
    (classes,) = (
        plot
        for plot in declared["stages"]["train"]["plots"]
        if isinstance(plot, dict) and "plots/training_classes.csv" in plot
    )
    options = {key: value for key, value in classes["plots/training_classes.csv"].items() if key != "cache"}
    content = {"plots": [*of_training, {"plots/training_classes.csv": options}]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "plots").mkdir()
    history = with_classes(["a, b", 'the "dog"', "rest"], epochs=3)
    write_history_csv(history, tmp_path / "plots/training.csv")
    write_classes_csv(history, tmp_path / "plots/training_classes.csv")
    run_dvc("init", "--no-scm", folder=tmp_path)
    (tmp_path / ".dvc" / "plots").mkdir()
    for template in ("training", "training_classes"):
        shutil.copy(ROOT / f".dvc/plots/{template}.json", tmp_path / ".dvc/plots")
    run_dvc("plots", "show", "--out", "html", folder=tmp_path)
    text = (tmp_path / "html" / "index.html").read_text()
    assert "<DVC_METRIC" not in text
    specs = [json.loads(found) for found in re.findall(r"var spec = (\{.*\});", text)]
    # Epochs that were not evaluated have empty cells, which DVC's own templates draw as 0.
    assert sum("isValid" in json.dumps(spec.get("transform")) for spec in specs) == len(of_training) == 4
    drawn = {spec["title"]["text"]: spec["data"]["values"] for spec in specs}
    fields = {title: {value.get("field") for value in values} for title, values in drawn.items()}
    assert fields == {
        "Loss": {"loss", "val_loss"},
        "AP on val": {"AP", "AP50"},
        "Learning rate": {None},
        "Gradient norm before clipping": {"grad_norm", "grad_norm_max"},
        "AP of each class on val": {"AP"},
    }
    aps = [(value["epoch"], value["class"], float(value["AP"])) for value in drawn["AP of each class on val"]]
    assert aps == [
        (str(row["epoch"]), name, row[f"per_class.{name}.AP"]) for name in ("a, b", 'the "dog"') for row in history[1:]
    ]
