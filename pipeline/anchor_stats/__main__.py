"""The stage anchor_stats as a command."""

from __future__ import annotations

import argparse

from pipeline.cli.command import run_command
from pipeline.params import load_params

DESCRIPTION = """\
Match the anchors of params.yaml against every truth of the training split, resized as training does.

reads    params.yaml (anchors, matcher, transforms), data/prepared/train.json
writes   anchors.json (what train reads), reports/anchor_stats.json
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the stage in the folder of params.yaml."""
    parser = argparse.ArgumentParser(
        "python -m pipeline.anchor_stats", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    params = load_params()
    from pipeline.anchor_stats.run import run  # torch is not needed before

    run(params)


if __name__ == "__main__":
    run_command("anchor_stats", main)
