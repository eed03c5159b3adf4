"""The command ui: MLflow's pages on the runs of this experiment, in a browser."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace

from pipeline.cli.command import Command
from pipeline.params.paths import outer_root, project_root

DESCRIPTION = """\
Show the runs of this experiment in the MLflow UI, at http://127.0.0.1:5000, for this machine only, until Ctrl-C.

reads    mlflow.db and mlartifacts/ in the folder of params.yaml
"""


def add_options(parser: ArgumentParser) -> None:
    """The port."""
    parser.add_argument("--port", type=int, default=5000, help="port on 127.0.0.1 (default: %(default)s)")


def work(options: Namespace) -> None:
    """Become MLflow's server; it does not return."""
    os.chdir(outer_root(project_root()))
    variables = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
    os.execve(sys.executable, server(options.port), variables)


def server(port: int) -> list[str]:
    """The command line of the server: one worker, bound to the loopback address, because it asks for no password."""
    store = ["--backend-store-uri", "sqlite:///mlflow.db"]
    return [sys.executable, "-m", "mlflow", "ui", *store, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]


COMMAND = Command("ui", DESCRIPTION, work, add_options)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
