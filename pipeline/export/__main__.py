"""The command export."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.cli.command import run_command

DESCRIPTION = """\
Give the trained detector to those who use it: a name in MLflow's registry, a folder, or both.

reads    models/model.pt and its run in MLflow, or the run of --run
writes   a version of --register with the alias and its AP; --output/pyfunc (what MLflow loads and serves) and
         --output/model.pt (what retinanet.inference.detector.Detector.load reads)
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command in the folder of params.yaml."""
    parser = argparse.ArgumentParser(
        "python -m pipeline.export", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--register", metavar="NAME", help="register the model under this name")
    parser.add_argument("--alias", default="champion", help="of the registered version (default: %(default)s)")
    parser.add_argument("--run", metavar="RUN_ID", help="MLflow run whose model is meant (default: models/model.pt)")
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="a new folder for the model's files")
    chosen = parser.parse_args(arguments)
    if chosen.register is None and chosen.output is None:
        raise ValueError("nothing to do; give --register NAME, --output FOLDER or both")
    from pipeline.export.run import run  # torch is not needed before

    run(register=chosen.register, alias=chosen.alias, run_id=chosen.run, output=chosen.output)


if __name__ == "__main__":
    run_command("export", main)
