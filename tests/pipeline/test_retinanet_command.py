"""Laws of the command retinanet: every subcommand is there, light until it works, and says where it cannot run."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from argparse import Namespace
from pathlib import Path

import pytest

from pipeline import __main__ as retinanet
from pipeline import __version__, ui
from pipeline.__main__ import SUMMARIES, build_parser, load
from pipeline.tracking import provenance

ROOT = Path(__file__).parents[2]
HEAVY = ["torch", "torchvision", "ray", "mlflow", "matplotlib", "pandas", "scipy", "optuna", "numpy", "pyarrow"]
RUN = f"""
import sys
from pipeline.__main__ import main
try:
    main()
finally:
    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
IN_PROJECT = [name for name in SUMMARIES if load(name).in_project]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status of the command, in this process."""
    monkeypatch.setattr(sys, "argv", ["retinanet", *arguments])
    with pytest.raises(SystemExit) as ended:
        retinanet.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]], ids=" ".join)
def test_help_and_version_import_no_heavy_package(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert done.stdout


def test_help_lists_every_subcommand_with_its_summary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^    (\w+) ", shown, flags=re.MULTILINE) == list(SUMMARIES)


@pytest.mark.parametrize("name", SUMMARIES)
def test_subcommand_has_the_help_of_the_module(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = load(name)
    with pytest.raises(SystemExit):
        command.main(["--help"])
    alone = capsys.readouterr().out.partition("\n\n")
    assert alone[0].startswith(f"usage: python -m pipeline.{command.name} ")
    assert call(monkeypatch, name, "--help") == 0
    usage, _, rest = capsys.readouterr().out.partition("\n\n")
    assert usage.startswith(f"usage: retinanet {name} ")
    assert rest == alone[2]


def test_every_room_that_is_a_command_is_a_subcommand() -> None:
    """A module or folder of pipeline/ that declares a Command."""
    text = "COMMAND = Command("
    files = [*ROOT.glob("pipeline/*.py"), *ROOT.glob("pipeline/*/__main__.py")]
    declared = {
        path.parent.name if path.name == "__main__.py" else path.stem for path in files if text in path.read_text()
    }
    assert {load(name).name for name in SUMMARIES} == declared


@pytest.mark.parametrize("name", IN_PROJECT)
def test_outside_an_experiment_a_subcommand_says_so_in_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, name) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"{name}: params.yaml does not exist in {tmp_path}; run from the folder of an experiment")
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_commands_that_need_no_experiment_are_those_of_a_model_or_a_store() -> None:
    assert set(SUMMARIES) - set(IN_PROJECT) == {"compare", "export", "import", "predict", "replay", "serve"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_subcommands_and_options(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--print-completion", shell) == 0
    script = capsys.readouterr().out
    assert [word for word in [*SUMMARIES, "unfinished", "register", "status"] if word not in script] == []


def test_version_is_that_of_the_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith(f"retinanet {__version__} ")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "pipeline.__version__"}
    assert settings["project"]["scripts"] == {"retinanet": "pipeline.__main__:main"}


def test_option_is_parsed_by_its_subcommand_alone() -> None:
    options = build_parser(["ui"]).parse_args(["ui", "--port", "5001"])
    assert options.port == 5001
    with pytest.raises(SystemExit):
        build_parser(["train"]).parse_args(["train", "--port", "5001"])


def test_ui_serves_the_store_of_the_experiment_on_loopback(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[list[str], str]] = []
    monkeypatch.setattr(ui.os, "execve", lambda path, line, variables: started.append((line, str(Path.cwd()))))
    copy = project / ".dvc/tmp/exps/copy"  # in which DVC runs an experiment; the store is the original's
    (copy / ".dvc").mkdir(parents=True)
    (copy / "params.yaml").touch()
    monkeypatch.chdir(copy)
    ui.work(Namespace(port=5001))
    ((line, folder),) = started
    assert folder == str(project)
    assert " ".join(line[1:]) == (
        "-m mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5001 --workers 1"
    )


def test_make_ui_is_the_subcommand_with_its_default_port() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "-m pipeline ui --port $(PORT)\n" in makefile and "PORT ?= 5000\n" in makefile
    assert build_parser(["ui"]).parse_args(["ui"]).port == 5000


@pytest.mark.parametrize(
    "started",
    [["/a/bin/retinanet", "train"], ["/a/pipeline/__main__.py", "train"], ["/a/pipeline/train/__main__.py"]],
    ids=["retinanet", "pipeline", "module"],
)
def test_run_in_mlflow_bears_the_name_of_the_command(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", started)
    assert provenance.command() == "train"
