"""Laws of the view that shows scores first."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.params import flatten, load_params
from pipeline.tracking.view import METRICS, PARAMS, TAG, VIEW

# MLflow declares its tables with what SQLAlchemy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_experiment_has_the_view_and_keeps_what_a_person_made_of_it(tracker: Any) -> None:
    client = tracker.client()
    experiment = client.get_run(tracker.id_of(tracker.begin())).info.experiment_id
    view = json.loads(client.get_experiment(experiment).tags[TAG])
    assert view["name"] == VIEW
    assert json.loads(view["state"])["orderByKey"] == f"metrics.`{METRICS[0]}`"
    client.set_experiment_tag(experiment, TAG, "mine")
    tracker.begin()
    assert client.get_experiment(experiment).tags[TAG] == "mine"
    client.set_experiment_tag(experiment, TAG, json.dumps(view))


def test_params_of_the_view_are_those_of_params_yaml(pytestconfig: pytest.Config, monkeypatch: Any) -> None:
    monkeypatch.chdir(pytestconfig.rootpath)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert set(PARAMS) <= set(flatten(load_params().model_dump()))
