"""The command: run, resume, status, report."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from pipeline.cli.command import Command
from pipeline.cli.end import Ending, tell_end
from pipeline.params import Params, load_params
from pipeline.params.paths import storage_location
from pipeline.params.reading import read_yaml, validate
from pipeline.params.runtime import RuntimeConfig, load_runtime, runtime_path
from pipeline.params.sweep import Sweep, check_sweep

CONF = "conf/sweep.yaml"

DESCRIPTION = """\
Search the space in section `sweep` of params.yaml with Ray Tune, and report which setting is best. Trials use the
workers set in conf/ (PIPELINE_CONF names the file, conf/sweep.yaml by default).

reads    params.yaml, data/prepared/{train,val}.json (`dvc repro anchor_stats` makes them), the images
writes   reports/sweep.html (winner, what matters, what to try next), reports/sweep.csv, plots/sweep_*.png;
         MLflow: a parent run with a run for each trial
keeps    records, checkpoints and the best detector of each trial in <storage of conf/>/sweeps/<digest>

run      start the sweep, or resume it after it was killed (the default)
resume   resume the sweep; an error if it has not been started
status   show the state of the newest sweep
report   write report, table and plots of the newest sweep; --apply writes its winner into params.yaml
"""


def add_options(parser: ArgumentParser) -> None:
    """What to do, and with which section sweep."""
    parser.add_argument("command", nargs="?", default="run", choices=("run", "resume", "status", "report"))
    parser.add_argument(
        "--preset", type=Path, help="file whose section sweep is used instead, e.g. presets/sweeps/gamma.yaml"
    )
    parser.add_argument("--apply", action="store_true", help="write the winner into params.yaml; comments are kept")


def work(options: Namespace) -> None:
    """Run the command in the folder of params.yaml.

    Raises:
        ValueError: when there is no sweep to run or to resume.
    """
    params, conf = load_params(), runtime_path(CONF)
    runtime = load_runtime(conf)
    if options.command in ("run", "resume"):
        with tell_end(runtime.on_end) as ending:
            search(params, runtime, options, conf=conf, ending=ending)
        return
    from pipeline.sweep.records import newest_sweep
    from pipeline.sweep.report import report, status

    folder = newest_sweep(storage_location(runtime))
    if options.command == "status":
        print(status(folder))
    else:
        report(folder, conf=conf, apply=options.apply)


def search(params: Params, runtime: RuntimeConfig, options: Namespace, *, conf: Path, ending: Ending) -> None:
    """Run or resume the sweep.

    Raises:
        ValueError: when there is none to resume.
    """
    # Ray, torch and MLflow are needed only here.
    from pipeline.sweep.run import make_plan, run_sweep

    plan = make_plan(params, chosen_sweep(params, options.preset), runtime)
    if options.command == "resume" and plan.folder.read("sweep.json") is None:
        raise ValueError(
            f"there is no sweep {plan.name} of this params.yaml, conf/ and code in {storage_location(runtime)} to "
            "resume; `python -m pipeline.sweep run` starts it"
        )
    run_sweep(plan, conf=conf, apply=options.apply, ending=ending)


def chosen_sweep(params: Params, preset: Path | None) -> Sweep:
    """The section sweep of params.yaml, or that of a preset.

    Raises:
        ValueError: when there is none, or it does not fit params.yaml.
    """
    if preset is None:
        if params.sweep is None:
            raise ValueError("params.yaml has no section sweep; add one, or use --preset presets/sweeps/gamma.yaml")
        return params.sweep
    content = read_yaml(preset)
    if set(content) != {"sweep"}:
        raise ValueError(f"{preset} holds {sorted(content)}, expected one section: sweep")
    sweep = validate(Sweep, content["sweep"], preset)
    complaints = list(check_sweep(sweep, Params, params.model_dump(exclude={"sweep"})))
    if complaints:
        raise ValueError(f"{preset}: " + "\n  ".join(complaints))
    return sweep


COMMAND = Command("sweep", DESCRIPTION, work, add_options)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
