"""The command export."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from pipeline.cli.command import Command

DESCRIPTION = """\
Export the trained detector: register it in MLflow, write it to a folder, or both.

reads    models/model.pt (or --model) and its run in MLflow, or the run of --run
writes   a version of --register with the alias and its AP; --output/pyfunc (what MLflow loads and serves) and
         --output/model.pt (what retinanet.inference.detector.Detector.load reads)
"""


def add_options(parser: ArgumentParser) -> None:
    """Which model, and where it goes."""
    parser.add_argument("--register", metavar="NAME", help="register the model under this name")
    parser.add_argument("--alias", default="champion", help="alias of the registered version (default: %(default)s)")
    parser.add_argument("--run", metavar="RUN_ID", help="MLflow run whose model is exported (default: --model)")
    parser.add_argument("--model", type=Path, default=Path("models/model.pt"), help="file of a detector")
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="new folder for the model's files")


def work(options: Namespace) -> None:
    """Run the command.

    Raises:
        ValueError: when neither a name nor a folder is given.
    """
    if options.register is None and options.output is None:
        raise ValueError("nothing to do; give --register NAME, --output FOLDER or both")
    from pipeline.export.run import run  # torch is not needed before

    run(register=options.register, alias=options.alias, run_id=options.run, output=options.output, path=options.model)


COMMAND = Command("export", DESCRIPTION, work, add_options, in_project=False)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
