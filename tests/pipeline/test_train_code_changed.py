"""A training that was stopped, and goes on under code that was edited meanwhile."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest
import torch
import yaml

from tests.running import Stage, ends_well

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of both packages, to be edited."""
    for package in ("retinanet", "pipeline"):
        shutil.copytree(REPOSITORY / package, tmp_path / "code" / package)
    return tmp_path / "code"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def runs_of(project: Path) -> list[str]:
    return sorted(path.parent.name for path in project.glob("runs/*/code.json"))


def test_training_goes_on_across_a_comment_and_across_a_change_only_when_asked(
    project: Path, code: Path, stage_variables: dict[str, str], ray_address: str
) -> None:
    variables = stage_variables | {"RAY_ADDRESS": ray_address, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(code)}
    stopped = Stage(project, variables)
    try:
        stopped.wait_for("epoch 1/3")
        stopped.process.send_signal(signal.SIGTERM)
        stopped.wait()
    finally:
        stopped.end()
    (first,) = runs_of(project)

    edit(code / "retinanet/data/pictures.py", "from __future__", "# A comment.\nfrom __future__")
    lines = ends_well(Stage(project, variables))
    assert any(line.startswith("resuming from epoch ") for line in lines)
    assert not any(line.startswith("epoch 1/3") for line in lines)
    assert runs_of(project) == [first]

    edit(
        code / "retinanet/losses/boxes.py",
        "from __future__ import annotations",
        "from __future__ import annotations\nN=1",
    )
    runtime = yaml.safe_load((project / "conf/local.yaml").read_text()) | {"resume": "always"}
    (project / "conf/local.yaml").write_text(yaml.safe_dump(runtime))
    lines = ends_well(Stage(project, variables))
    (second,) = set(runs_of(project)) - {first}
    warning = f"warning: run {second} resumes from run {first}, which another version of the code started "
    assert f"{warning}(resume: always in conf/); changed since: retinanet/losses/boxes.py" in lines
    assert "resuming from epoch 3" in lines  # it had ended, so nothing is left to train
    assert json.loads((project / "reports/train.json").read_text())["run"] == second
    assert torch.load(project / "models/model.pt", weights_only=True)["description"]["run"]["digest"] == second
    connection = sqlite3.connect(project / "mlflow.db")
    try:
        found = connection.execute("select key, value from tags where key like 'resumed_from%' order by key").fetchall()
        names = connection.execute("select value from tags where key = 'run_digest' order by value").fetchall()
    finally:
        connection.close()
    assert found == [("resumed_from", first), ("resumed_from.changes", "retinanet/losses/boxes.py")]
    assert names == sorted([(first,), (second,)])
