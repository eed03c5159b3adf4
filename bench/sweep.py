"""How much a scheduled search saves against the full grid, on drawn shapes: best AP and training steps of both.

    python bench/sweep.py            # about half an hour on two cores
    python bench/sweep.py --images 120 --epochs 2 --trials 4   # a glance

Both sweeps run through `python -m pipeline.sweep` in a project of their own, with the same base and the same box:
alpha x gamma x foreground_iou, 27 settings as a grid, against TPE with ASHA.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
GRID = {"loss.alpha": [0.25, 0.5, 0.75], "loss.gamma": [0.0, 1.0, 2.0], "matcher.foreground_iou": [0.4, 0.5, 0.6]}
COMMON = {"constraints": [], "seeds": 1, "reduction": 2, "min_covered": 0.0}
COMMON |= {"postprocess": {"nms_iou": [0.5], "score_threshold": [0.05]}}


def main() -> None:
    """Run both sweeps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=480, help="drawn for training")
    parser.add_argument("--epochs", type=int, default=4, help="of a whole trial")
    parser.add_argument("--trials", type=int, default=15, help="of TPE with ASHA")
    options = parser.parse_args()
    grid = {"space": {key: {"grid": values} for key, values in GRID.items()}, "points": []}
    grid |= {"search": "grid", "scheduler": "none", "trials": 27}
    box = {key: {"uniform": [float(min(values)), float(max(values))]} for key, values in GRID.items()}
    scheduled = {"space": box, "points": [], "search": "tpe", "scheduler": "asha", "trials": options.trials}
    with tempfile.TemporaryDirectory() as folder:
        make_project(Path(folder), options)
        rows = [
            run(Path(folder), "grid, every trial whole", grid | budget(options)),
            run(Path(folder), "TPE with ASHA", scheduled | budget(options)),
        ]
    print(table(rows))


def budget(options: argparse.Namespace) -> dict[str, Any]:
    """What both sweeps share."""
    return COMMON | {"fixed": {"train.epochs": options.epochs, "train.evaluate_every": 1}}


def make_project(folder: Path, options: argparse.Namespace) -> None:
    """The shipped parameters with fewer images, prepared."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["data"]["shapes"]["train"] = options.images
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "conf").mkdir()
    (folder / "conf/sweep.yaml").write_text((REPOSITORY / "conf/sweep.yaml").read_text())
    for stage in ("prepare", "anchor_stats"):
        command(folder, "-m", f"pipeline.{stage}")


def run(folder: Path, name: str, sweep: dict[str, Any]) -> dict[str, Any]:
    """One sweep, and what it cost."""
    (folder / "preset.yaml").write_text(yaml.safe_dump({"sweep": sweep}))
    begun = time.perf_counter()
    command(folder, "-m", "pipeline.sweep", "--preset", "preset.yaml")
    seconds = time.perf_counter() - begun
    newest = max((folder / "runs/sweeps").iterdir(), key=lambda path: path.stat().st_mtime)
    records = [json.loads(path.read_text()) for path in (newest / "trials").glob("*.json")]
    best = max(records, key=lambda record: record["score"] or 0.0)
    steps = sum(record["history"][-1]["step"] for record in records if record["history"])
    return {"name": name, "trials": len(records), "steps": steps, "s": seconds, "AP": best["score"], **best}


def command(folder: Path, *arguments: str) -> None:
    """Run Python in the project."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PIPELINE_CONF": "conf/sweep.yaml"}
    subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, check=True)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; the share is of the first row's steps."""
    lines = [
        "| search | trials | steps | of the grid | time | best AP on val | with |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share, minutes = row["steps"] / rows[0]["steps"], row["s"] / 60
        settings = ", ".join(f"{key} {value:g}" for key, value in row["settings"].items())
        figures = f"{row['steps']} | {share:.2f} | {minutes:.1f} min | {row['AP']:.3f}"
        lines.append(f"| {row['name']} | {row['trials']} | {figures} | {settings} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
