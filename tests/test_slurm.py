"""Laws of deploy/slurm.sh, with programs in the place of Slurm's, Ray's and DVC's that note their calls."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray.scripts.scripts import cli

from pipeline.cli.stop import STOPPED
from pipeline.params.runtime import load_runtime
from tests.test_deploy import parse_command

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "deploy/slurm.sh"

# Notes its arguments, one call a line.
NOTE = """#!/usr/bin/env bash
printf '%q ' "$(basename "$0")" "$@" >>"$CALLS"
echo >>"$CALLS"
"""
PROGRAMS = {
    # Runs the task once, as on the first node.
    "srun": 'while [[ "$1" == --* ]]; do shift; done\n"$@"\n',
    "scontrol": """case "$1" in
        show) if [ "$2" = hostnames ]; then printf 'node1\\nnode2\\n'; else echo "   JobState=$STATE"; seq 9999; fi ;;
    esac
    """,
    # Returns 0 where Ray does not start, as the real one does.
    "ray": """[ "$1" = symmetric-run ] || exit 0
    [ "$RAY_STARTS" = yes ] || { echo "Failed to start Ray" >&2; exit 0; }
    while [ "$1" != -- ]; do shift; done
    shift
    "$@"
    """,
    # As DVC, it leaves Ctrl-C to the stage, and returns a status of its own.
    "python": """[ "$1 $2" = "-m dvc" ] || exit 9
    env | grep -E "^(RAY|PIPELINE)_" >"$VARIABLES"
    trap : INT
    "$PYTHON" "$STAGE" || exit 255
    """,
}
# A stage train, which on a signal ends as the real one.
STAGE = """
import os, pathlib, signal, sys, time
got = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: got.append(number))
pathlib.Path(os.environ["BEGUN"]).touch()
if {waits}:
    end = time.monotonic() + 60
    while not got and time.monotonic() < end:
        time.sleep(0.05)
    pathlib.Path(os.environ["GOT"]).write_text(" ".join(signal.Signals(number).name for number in got))
print({sentence!r}, file=sys.stderr)
sys.exit({status})
"""


class Job:
    """The script as Slurm runs it, on the first of two nodes."""

    def __init__(self, folder: Path, *, stage: str, state: str = "RUNNING", ray_starts: str = "yes") -> None:
        self.folder, self.experiment = folder, folder / "experiment"
        programs = folder / "bin"
        for made in (programs, self.experiment, folder / "tmp"):
            made.mkdir()
        for name, body in PROGRAMS.items():
            (programs / name).write_text(NOTE + body)
            (programs / name).chmod(0o755)
        (self.experiment / "dvc.yaml").touch()
        (folder / "stage.py").write_text(stage)
        self.variables = {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "TMPDIR": str(folder / "tmp"),
            "SLURM_JOB_ID": "41",
            "SLURM_SUBMIT_DIR": str(self.experiment),
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "32",
            "STATE": state,
            "RAY_STARTS": ray_starts,
            "PYTHON": sys.executable,
            "STAGE": str(folder / "stage.py"),
            **{name: str(folder / name.lower()) for name in ("CALLS", "BEGUN", "GOT", "VARIABLES")},
        }

    def run(self, *arguments: str, stop: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run the job to its end, with that signal to the script alone once the stage has begun."""
        job = subprocess.Popen(
            ["bash", str(SCRIPT), *arguments],
            env=self.variables,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=catch_ctrl_c,
        )
        if stop is not None:
            deadline = time.monotonic() + 60
            while not (self.folder / "begun").exists() and time.monotonic() < deadline and job.poll() is None:
                time.sleep(0.05)
            job.send_signal(stop)
        output, _ = job.communicate(timeout=60)
        assert list((self.folder / "tmp").iterdir()) == []
        return subprocess.CompletedProcess(job.args, job.returncode, output)

    def calls(self, program: str) -> list[list[str]]:
        lines = [shlex.split(line) for line in (self.folder / "calls").read_text().splitlines()]
        return [line for line in lines if line[0] == program]

    @property
    def is_requeued(self) -> bool:
        return ["scontrol", "requeue", "41"] in self.calls("scontrol")


def catch_ctrl_c() -> None:
    """Runs before the script: as in Slurm, Ctrl-C ends a program, also where the tests' own shell has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stage(sentence: str, *, status: int, waits: bool = False) -> str:
    return STAGE.format(sentence=sentence, status=status, waits=waits)


def options_of_slurm() -> dict[str, str]:
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", SCRIPT.read_text(), flags=re.MULTILINE)
    return dict(found)


# ---- what must fit together ------------------------------------------------------------------------------------------


def test_script_is_bash_and_its_options_come_before_every_command() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    lines = SCRIPT.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert lines[0] == "#!/usr/bin/env bash"
    assert not [line for line in lines[first:] if line.startswith("#SBATCH")]  # sbatch would not read them
    assert SCRIPT.stat().st_mode & 0o111


def test_gpus_of_the_job_are_those_of_its_conf() -> None:
    options, runtime = options_of_slurm(), load_runtime(ROOT / "conf/slurm.yaml")
    gpus = int(options["gpus-per-node"])
    assert runtime.fewest == runtime.most == int(options["nodes"]) * gpus
    assert int(options["cpus-per-task"]) >= gpus * runtime.cpus_per_worker
    assert options["ntasks-per-node"] == "1"


def test_slurm_signals_the_script_alone_in_time_and_may_queue_it_again() -> None:
    options = options_of_slurm()
    assert options["signal"] == "B:TERM@120"
    assert {"requeue", "exclusive"} <= set(options)
    assert options["open-mode"] == "append"  # the next start would empty the log


# ---- a job that nobody stops -----------------------------------------------------------------------------------------


def test_finished_training_is_not_queued_again(tmp_path: Path) -> None:
    job = Job(tmp_path, stage=stage("best epoch 3", status=0))
    done = job.run()
    assert (done.returncode, job.is_requeued) == (0, False), done.stdout
    assert "best epoch 3" in done.stdout


def test_failed_training_is_not_queued_again(tmp_path: Path) -> None:
    job = Job(tmp_path, stage=stage("train: no ground truth", status=1))
    done = job.run()
    assert (done.returncode, job.is_requeued) == (255, False), done.stdout


def test_ray_that_does_not_start_fails_the_job(tmp_path: Path) -> None:
    job = Job(tmp_path, stage=stage("never", status=0), ray_starts="no")
    done = job.run()
    assert (done.returncode, job.is_requeued) == (1, False)
    assert done.stdout.splitlines()[-2:] == [
        "Failed to start Ray",
        "slurm: the training did not begin; the reason is above",
    ]


def test_every_node_runs_ray_as_it_is_installed_and_the_driver_finds_it(tmp_path: Path) -> None:
    job = Job(tmp_path, stage=stage("", status=0))
    job.run("-S", "loss.gamma=1.5")
    (srun,) = job.calls("srun")
    assert {"--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=32"} <= set(srun)
    for command in job.calls("ray"):
        parse_command(cli, command[1:])
    (symmetric,) = (command for command in job.calls("ray") if command[1] == "symmetric-run")
    started = symmetric[2 : symmetric.index("--")]
    assert started == ["--address", "node1:6379", "--min-nodes", "2", "--num-cpus=32"]
    assert job.calls("python") == [["python", "-m", "dvc", "exp", "run", "-S", "loss.gamma=1.5"]]
    variables = dict(line.split("=", 1) for line in (tmp_path / "variables").read_text().splitlines())
    assert variables["RAY_ADDRESS"] == "node1:6379"
    assert variables["RAY_AUTH_MODE"] == "token"
    assert variables["PIPELINE_CONF"] == "conf/slurm.yaml"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"SLURM_JOB_ID": ""}, "this is a job of Slurm; submit it: sbatch deploy/slurm.sh"),
        ({"SLURM_SUBMIT_DIR": "/"}, "/ holds no dvc.yaml; submit from the folder of an experiment"),
    ],
)
def test_job_in_the_wrong_place_is_a_sentence(changes: dict[str, str], sentence: str, tmp_path: Path) -> None:
    job = Job(tmp_path, stage="")
    job.variables |= changes
    done = job.run()
    assert (done.returncode, done.stdout) == (1, f"slurm: {sentence}\n")


# ---- the time limit --------------------------------------------------------------------------------------------------


def test_sigterm_reaches_the_training_as_ctrl_c_and_its_checkpoint_queues_the_job_again(tmp_path: Path) -> None:
    job = Job(tmp_path, stage=stage(f"train: {STOPPED}", status=1, waits=True))
    done = job.run(stop=signal.SIGTERM)
    assert (tmp_path / "got").read_text() == "SIGINT", done.stdout
    assert (done.returncode, job.is_requeued) == (0, True), done.stdout
    assert done.stdout.splitlines() == [
        "slurm: SIGTERM: the training writes a checkpoint and stops",
        f"train: {STOPPED}",
        "slurm: the job queues again, and resumes from the checkpoint",
    ]


@pytest.mark.parametrize(
    ("sentence", "status", "returned"),
    [
        ("train: stopped before the first checkpoint; run again", 1, 255),  # it would queue for ever
        ("train: loss is nan at step 3", 1, 255),
        ("best epoch 3", 0, 0),  # it was at its end
    ],
)
def test_stop_without_a_checkpoint_does_not_queue_the_job_again(
    sentence: str, status: int, returned: int, tmp_path: Path
) -> None:
    job = Job(tmp_path, stage=stage(sentence, status=status, waits=True))
    done = job.run(stop=signal.SIGTERM)
    assert (done.returncode, job.is_requeued) == (returned, False), done.stdout


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING"])
def test_job_that_scancel_ends_is_not_queued_again(state: str, tmp_path: Path) -> None:
    job = Job(tmp_path, stage=stage(f"train: {STOPPED}", status=1, waits=True), state=state)
    done = job.run(stop=signal.SIGTERM)
    assert (done.returncode, job.is_requeued) == (255, False), done.stdout
