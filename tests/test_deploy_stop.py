"""A job of the cluster that is stopped lets its stage end as Ctrl-C does, before its clone goes."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.test_deploy import SCRIPT, Team, variables_of_a_job

pytestmark = pytest.mark.slow

STAGE = """
import pathlib, time
pathlib.Path({folder!r}, "begun").touch()
try:
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)  # as a checkpoint takes
    pathlib.Path("runs/logs").mkdir(parents=True)
    pathlib.Path("runs/logs/train.log").write_text("a traceback")
    pathlib.Path({folder!r}, "kept").touch()
    raise SystemExit(1)
"""


def test_sigterm_to_the_job_lets_the_stage_keep_its_checkpoint(tmp_path: Path) -> None:
    team = Team(tmp_path)
    (team.home / "stage.py").write_text(STAGE.format(folder=str(tmp_path)))
    stages = {"train": {"cmd": "python stage.py", "deps": ["params.yaml"], "outs": ["model.txt"]}}
    (team.home / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    team.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    team.share()

    variables = variables_of_a_job(tmp_path, **team.variables)
    job = subprocess.Popen(["bash", str(SCRIPT)], env=variables, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline and job.poll() is None:
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)
    told = job.communicate(timeout=60)[1]
    assert job.returncode not in (0, -signal.SIGTERM), told
    assert (tmp_path / "kept").exists()
    assert "a traceback" in told
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("tmp.")]
