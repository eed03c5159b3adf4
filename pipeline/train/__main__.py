"""The stage train as a command."""

from __future__ import annotations

from argparse import Namespace

from pipeline.cli.command import Command
from pipeline.cli.end import tell_end
from pipeline.params import load_params
from pipeline.params.conflicts import check_share
from pipeline.params.runtime import load_runtime
from pipeline.train.preflight import check_inputs

DESCRIPTION = """\
Train on Ray with the workers set in conf/ (PIPELINE_CONF names the file, conf/local.yaml by default). Running the
command again resumes a killed training from its last checkpoint. SIGTERM and Ctrl-C stop it with a checkpoint.

reads    params.yaml, data/prepared/{train,val}.json, anchors.json, the images
writes   models/model.pt (the best epoch by AP on val), reports/train.json, plots/training.{csv,png},
         plots/training_classes.csv
keeps    checkpoints in <storage of conf/>/<digest>, one run in MLflow
"""


def work(options: Namespace) -> None:
    """Run the stage in the folder of params.yaml."""
    params, runtime = load_params(), load_runtime()
    with tell_end(runtime.on_end) as ending:
        check_share(params, runtime)
        check_inputs(params)
        from pipeline.train.run import run  # torch, Ray and MLflow are not needed before

        run(params, runtime, ending)


COMMAND = Command("train", DESCRIPTION, work)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
