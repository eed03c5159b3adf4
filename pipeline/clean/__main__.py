"""The command clean."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pipeline.cli.command import Command
from pipeline.params.paths import storage_location
from pipeline.params.runtime import load_runtime

DESCRIPTION = """\
List what runs left in the storage of conf/, with size, age and what needs it, and what --delete would remove.
Nothing is removed without --delete.

needed   a run in training; the run of models/model.pt; the run in reports/train.json of the working tree, and
         of each branch, tag, stash and DVC experiment; a run whose MLflow run is not deleted
removed  finished runs and sweeps that nobody needs; of those that are needed, the state that only a resume would use
         (the best detectors, histories and records stay, so `dvc repro` and the sweep can restore their results);
         inputs uploaded for clusters that do not belong to the current data
kept     unfinished runs, unless --unfinished; anything that is not recognised
"""


def add_options(parser: ArgumentParser) -> None:
    """What is removed."""
    parser.add_argument("--delete", action="store_true", help="remove the marked entries")
    parser.add_argument("--dry-run", action="store_true", help="only list (the default)")
    parser.add_argument("--unfinished", action="store_true", help="also unfinished runs and sweeps that nobody needs")


def work(options: Namespace) -> None:
    """Run the command in the folder of params.yaml.

    Raises:
        ValueError: for options that exclude each other.
    """
    if options.delete and options.dry_run:
        raise ValueError("--delete and --dry-run are both given; choose one")
    storage = storage_location(load_runtime())
    from pipeline.clean.run import run  # Ray and MLflow are not needed before

    run(storage, delete=options.delete, unfinished=options.unfinished)


COMMAND = Command("clean", DESCRIPTION, work, add_options)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
