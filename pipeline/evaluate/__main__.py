"""The stage evaluate as a command."""

from __future__ import annotations

from argparse import Namespace

from pipeline.cli.command import Command
from pipeline.params import load_params
from pipeline.params.place import load_place

DESCRIPTION = """\
Detect on the test (or val) split with models/model.pt and judge it as COCO does.

reads    params.yaml (postprocess, evaluate), models/model.pt, data/prepared/<split>.json, the pictures
writes   reports/evaluate.json, reports/detections.json.gz (a COCO results file), plots/precision_recall.{csv,png},
         plots/detections.png; MLflow: goes on with train's run
"""


def work(options: Namespace) -> None:
    """Run the stage in the folder of params.yaml."""
    params, place = load_params(), load_place()
    from pipeline.evaluate.run import run  # torch is not needed before

    run(params, place)


COMMAND = Command("evaluate", DESCRIPTION, work)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
