"""Laws of a team's server, as docs/tracking.md sets it up: PostgreSQL, S3 behind a proxy, users with passwords.

All of it is real but the S3, which is moto's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from PIL import Image

from pipeline.tracking import open_run
from pipeline.tracking.store import connect, find_or_create_experiment, find_store
from tests.servers import ask_postgres, running_mlflow, running_postgres, running_s3

pytestmark = [
    pytest.mark.slow,
    # MLflow declares its tables with what SQLAlchemy deprecates; boto3 asks the clock in a way that Python deprecates.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

PROJECT = Path(__file__).resolve().parents[3]
KEYS = {"AWS_ACCESS_KEY_ID": "of-the-bucket", "AWS_SECRET_ACCESS_KEY": "known-to-the-server", "AWS_REGION": "us-east-1"}
PASSWORDS = {"admin": "the-first-password", "ann": "password-of-ann", "bob": "password-of-bob"}
# Whoever is on the team may add to every experiment (MLflow's own default: look at it), and a password is hashed once a
# minute instead of at each request, of which a training makes hundreds.
USERS = """[mlflow]
database_uri = {users}
admin_username = admin
default_permission = EDIT
auth_cache_ttl_seconds = 60
"""

TRIALS, EPOCHS, PICTURES = 6, 12, 3
TRIAL = """
import sys
from pathlib import Path

import mlflow
from pipeline.tracking import open_run

parent, number, epochs, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
pictures = sorted(folder.glob("*.png"))
print("ready", flush=True)
sys.stdin.readline()  # all trials begin at once
tags = {"mlflow.parentRunId": parent, "trial": str(number)}
history = []
with open_run(run_id=None, name=f"trial-{number}", params={"loss.alpha": number / 10}, tags=tags) as run:
    for epoch in range(epochs):
        history.append({"epoch": epoch, "step": 10 * epoch, "loss": number + 1 / (epoch + 1), "AP": epoch / 100})
        run.log_history(history)
    for step, picture in enumerate(pictures):
        run.log_picture("detections", picture, step)
    run.log_artifact(folder / "weights.bin", "model")
"""


@dataclass(frozen=True)
class Team:
    """The address of the server, and what stands behind it."""

    address: str
    postgres: str
    s3: Any

    def variables(self, user: str) -> dict[str, str]:
        """All that a user sets."""
        login = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": PASSWORDS[user]}
        return {"MLFLOW_TRACKING_URI": self.address, **login}


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    with ExitStack() as stack:
        postgres = stack.enter_context(running_postgres())
        for database in ("mlflow", "mlflow_users"):
            ask_postgres(postgres, "postgres", f"CREATE DATABASE {database}")
        bucket = stack.enter_context(running_s3(folder))
        s3 = boto3.client(
            "s3",
            endpoint_url=bucket,
            region_name=KEYS["AWS_REGION"],
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )
        stack.callback(s3.close)
        s3.create_bucket(Bucket="mlflow")
        (folder / "users.ini").write_text(USERS.format(users=f"{postgres}/mlflow_users"))
        arguments = ["--app-name", "basic-auth", "--workers", "2"]
        arguments += ["--backend-store-uri", f"{postgres}/mlflow", "--artifacts-destination", "s3://mlflow/artifacts"]
        variables = {
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "users.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS["admin"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "signs-the-cookies",
            "MLFLOW_S3_ENDPOINT_URL": bucket,
            **KEYS,
        }
        address = stack.enter_context(running_mlflow(arguments, folder=folder, variables=variables))
        add_users(address)
        yield Team(address, postgres, s3)


def add_users(address: str) -> None:
    """The accounts of ann and bob, made by the admin."""
    for name in ("ann", "bob"):
        account = {"username": name, "password": PASSWORDS[name]}
        login = ("admin", PASSWORDS["admin"])
        requests.post(f"{address}/api/2.0/mlflow/users/create", json=account, auth=login, timeout=60).raise_for_status()


def set_variables(patch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, text in variables.items():
        patch.setenv(name, text)


def start_trial(team: Team, parent: str, number: int, folder: Path) -> subprocess.Popen[str]:
    """A trial in a process of its own, which waits for a line; it knows the server, and no key of the bucket."""
    kept = {key: text for key, text in os.environ.items() if not key.startswith(("AWS_", "MLFLOW_"))}
    environment = kept | team.variables("ann" if number % 2 else "bob")
    environment |= {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", TRIAL, parent, str(number), str(EPOCHS), str(folder)]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(arguments, cwd=folder, env=environment, text=True, **pipes)


def run_all(trials: list[subprocess.Popen[str]]) -> list[str]:
    """Let the trials go once all are ready; what each of them has warned of."""
    try:
        for trial in trials:
            assert trial.stdout is not None
            assert trial.stdout.readline() == "ready\n"
        for trial in trials:
            assert trial.stdin is not None
            trial.stdin.write("go\n")
            trial.stdin.flush()
        warnings = [trial.communicate(timeout=300)[1] for trial in trials]
        assert [trial.returncode for trial in trials] == [0] * len(trials), warnings
        return warnings
    finally:
        for trial in trials:
            trial.kill()
            trial.communicate()


def write_outcome(folder: Path) -> dict[str, bytes]:
    """What a trial stores: pictures and a file."""
    for number in range(PICTURES):
        Image.effect_noise((96, 64), 60 + number).convert("RGB").save(folder / f"{number}.png")
    (folder / "weights.bin").write_bytes(os.urandom(300_000))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_nothing_is_lost_when_several_trials_write_at_once(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, team.variables("ann"))
    outcome = write_outcome(tmp_path)
    with open_run(run_id=None, name="sweep", params={}, tags={"kind": "sweep"}) as sweep:
        assert sweep.run_id is not None
        assert run_all([start_trial(team, sweep.run_id, number, tmp_path) for number in range(TRIALS)]) == [""] * TRIALS

    client = connect(find_store())
    experiment = client.get_run(sweep.run_id).info.experiment_id
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{sweep.run_id}'")
    assert sorted(run.data.params["loss.alpha"] for run in runs) == [str(number / 10) for number in range(TRIALS)]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.info.artifact_uri.partition(":")[0] for run in runs} == {"mlflow-artifacts"}
    for run in runs:
        number, run_id = int(run.data.tags["trial"]), run.info.run_id
        curve = [(point.step, point.value) for point in client.get_metric_history(run_id, "loss")]
        assert curve == [(epoch, number + 1 / (epoch + 1)) for epoch in range(EPOCHS)]
        pictures = [file.path for file in client.list_artifacts(run_id, "images") if file.path.endswith(".png")]
        assert len(pictures) == PICTURES
        stored = client.download_artifacts(run_id, "model/weights.bin", str(tmp_path))
        assert Path(stored).read_bytes() == outcome["weights.bin"]

    # Behind the server: PostgreSQL holds every point of every curve, and the bucket the files.
    trials = "run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'trial')"
    points = f"SELECT key, count(*) FROM metrics WHERE {trials} GROUP BY key"
    counts = dict(ask_postgres(team.postgres, "mlflow", points))
    assert counts == dict.fromkeys(("epoch", "step", "loss", "AP", "best.AP", "best.epoch"), TRIALS * EPOCHS)
    keys = [entry["Key"] for entry in team.s3.list_objects_v2(Bucket="mlflow")["Contents"]]
    assert sum(key.endswith("model/weights.bin") for key in keys) == TRIALS


def test_wrong_password_is_told_in_one_sentence_before_any_work(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, team.variables("ann") | {"MLFLOW_TRACKING_PASSWORD": "forgotten"})
    with pytest.raises(ValueError, match="it rejects user ann with this password; set MLFLOW_TRACKING_U") as told:
        open_run(run_id=None, name="trial", params={}, tags={})
    assert "forgotten" not in str(told.value)
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    with pytest.raises(ValueError, match="it rejects anonymous users"):
        open_run(run_id=None, name="trial", params={}, tags={})


def test_trainings_that_begin_at_once_share_a_new_experiment(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, team.variables("bob") | {"MLFLOW_EXPERIMENT_NAME": "new"})
    store = find_store()
    client = connect(store)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: find_or_create_experiment(client, store), range(8)))
    assert len(set(found)) == 1
