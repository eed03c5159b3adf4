"""The command replay."""

from __future__ import annotations

import argparse

from pipeline.cli.command import run_command

DESCRIPTION = """\
Compute the losses of a kept step again, each image alone: once as training did, once in float32.

reads    the file that the message of `train` names
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        "python -m pipeline.replay", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="path or URL of a not_finite_*.pt")
    chosen = parser.parse_args(arguments)
    from pipeline.replay.run import run  # torch is not needed before

    run(chosen.file)


if __name__ == "__main__":
    run_command("replay", main)
