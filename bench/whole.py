"""A whole training as its user times it, beside torchvision's RetinaNet in a plain loop.

    python -m bench.whole [--seconds 120] [--voc FOLDER] [--preset presets/bccd.yaml] [--write]

In a project of its own, on this machine's cores: `python -m pipeline.train` with every form of workers and threads, and
bench/whole_peer.py with all cores, in turn and in an order that is reversed in every other round. First each trains one
epoch, which tells its speed; then as many as fit into --seconds, start and evaluations included: AP at equal wall time.
Both at fp32 unless the machine is quicker in bfloat16, with flips as the only augmentation, and without norms in the
heads, which torchvision has not.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bench.ratios import header, keep, table

REPOSITORY = Path(__file__).resolve().parents[1]
PEER = "torchvision's loop"


class Training(NamedTuple):
    """One training.

    Attributes:
        wall_s: of the whole command.
        images_per_s: of the training itself; ours is the median of its epochs.
        AP, AP50: on val after the last epoch.
    """

    wall_s: float
    images_per_s: float
    AP: float
    AP50: float


def main() -> None:
    """Print the tables; --write keeps them in bench/RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="of a training, start and evaluations included")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--preset", type=Path, default=REPOSITORY / "params.yaml")
    parser.add_argument("--voc", type=Path, help="the folder of a VOC data set such as BCCD, instead of drawn shapes")
    parser.add_argument("--write", action="store_true", help="keep the tables in bench/RESULTS.md")
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    forms = dict.fromkeys([(1, cores), (cores, 1)])
    with tempfile.TemporaryDirectory(prefix="whole") as name:
        project = Path(name)
        set_up(project, options.preset, options.voc)
        contenders = {f"{workers} x {threads} threads": (workers, threads) for workers, threads in forms}
        rows = []
        for round_number in range(options.rounds):
            names = [PEER, *contenders]
            for contender in names if round_number % 2 == 0 else reversed(names):
                epochs = epochs_within(project, contenders.get(contender), options.seconds)
                trained = train(project, contenders.get(contender), epochs)
                rows.append((contender, epochs, trained))
                print(contender, epochs, trained, flush=True)
    text = f"{header()}\n\n{report(rows)}"
    print(text)
    if options.write:
        keep("A whole training beside torchvision's loop", text)


def set_up(project: Path, preset: Path, voc: Path | None) -> None:
    """A project whose data and anchors are made."""
    params = yaml.safe_load(preset.read_text())
    params["transforms"] |= {
        "scale_jitter": [1.0, 1.0],
        "random_crop": 1.0,
        "horizontal_flip": 0.5,
        "vertical_flip": 0.5,
    }
    params["transforms"] |= {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    params["model"] |= {"norm": "group", "head_norm": "none", "backbone": "resnet18"}
    params["optim"] |= {"optimizer": "adamw", "schedule": "one_cycle", "lr": 0.002, "weight_decay": 0.05}
    if voc is not None:
        params["data"]["root"] = str(voc.resolve())
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copytree(REPOSITORY / "conf", project / "conf")
    for stage in ("prepare", "anchor_stats"):
        run(project, "-m", f"pipeline.{stage}")


def epochs_within(project: Path, form: tuple[int, int] | None, seconds: float) -> int:
    """The epochs that fit into this time, by a training of one and one of three."""
    one, three = (train(project, form, epochs).wall_s for epochs in (1, 3))
    each = max((three - one) / 2, 1e-3)
    return max(1, int((seconds - (one - each)) / each))


def train(project: Path, form: tuple[int, int] | None, epochs: int) -> Training:
    """Train as one contender.

    Args:
        form: workers and threads of ours; None: the peer.
    """
    begun = time.monotonic()
    if form is None:
        result = json.loads(run(project, "-m", "bench.whole_peer", str(project), str(epochs)).splitlines()[-1])
        return Training(time.monotonic() - begun, result["images_per_s"], result["AP"], result["AP50"])
    workers, threads = form
    change(project / "params.yaml", "train", epochs=epochs, evaluate_every=epochs)
    runtime = yaml.safe_load((project / "conf/local.yaml").read_text())
    runtime |= {"workers": workers, "cpus_per_worker": threads, "resume": "never"}
    (project / "conf/local.yaml").write_text(yaml.safe_dump(runtime))
    run(project, "-m", "pipeline.train")
    wall_s = time.monotonic() - begun
    with (project / "plots/training.csv").open() as file:
        history = list(csv.DictReader(file))
    speeds = sorted(float(row["images_per_s"]) for row in history)
    return Training(wall_s, speeds[len(speeds) // 2], float(history[-1]["AP"]), float(history[-1]["AP50"]))


def change(path: Path, section: str, **values: Any) -> None:
    """Set keys of a section of params.yaml."""
    content = yaml.safe_load(path.read_text())
    content[section] |= values
    path.write_text(yaml.safe_dump(content))


def run(project: Path, *arguments: str) -> str:
    """What a command of this Python prints, in the project."""
    outside = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "PIPELINE_CONF", "RAY_ADDRESS", "OMP_NUM_THREADS")
    environment = {key: value for key, value in os.environ.items() if key not in outside}
    environment |= {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def report(rows: list[tuple[str, int, Training]]) -> str:
    """One line per contender, the mean of its rounds; speeds as a ratio to the peer's."""
    means = {}
    for name in dict.fromkeys(name for name, _, _ in rows):
        found = [(epochs, *trained) for other, epochs, trained in rows if other == name]
        means[name] = [sum(column) / len(found) for column in zip(*found, strict=True)]
    peer = means[PEER][2]
    cells = [
        [name, f"{speed:.1f}", f"{speed / peer:.2f}", f"{epochs:.0f}", f"{wall:.0f}", f"{ap:.3f}", f"{ap50:.3f}"]
        for name, (epochs, wall, speed, ap, ap50) in means.items()
    ]
    return table(["contender", "images/s", "ratio", "epochs", "wall s", "AP", "AP50"], cells)


if __name__ == "__main__":
    main()
