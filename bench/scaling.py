"""How training scales over the cores of this machine, and what Ray costs against torchrun, on drawn shapes.

    python -m bench.scaling                                     # about 6 minutes on two cores
    python -m bench.scaling --images 48 --epochs 2 --rounds 1   # a glance

Every number of workers trains under Ray Train and under a plain torchrun in turns, the order reversed in every other
round; a worker has one thread. Both run the same function on the same data, so their losses must be equal to the digit.
A step is timed from the end of one optimiser step to that of the next, within an epoch, and the first epoch, which
decodes the pictures, is left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from bench.timed_training import RESULT
from pipeline.cluster import worker_environment
from pipeline.params import load_params
from pipeline.params.runtime import RuntimeConfig, load_runtime
from pipeline.worker_config import worker_config
from retinanet.network.precision import native_precision

REPOSITORY = Path(__file__).resolve().parents[1]
LAUNCHERS = ("ray", "torchrun")
MAX_SHARE, LONG_STEP_S = 0.02, 0.3  # the bar: of a step this long or longer, Ray may cost this share


@dataclass(frozen=True)
class Timing:
    """One training.

    Attributes:
        start_up_s: from the command to the end of the first step.
        epoch_end_s: what an epoch's end costs beside a step: the report with its checkpoint.
        steps_s: of the warm steps, by the clock; and the first worker's processor time of each.
        losses: per epoch, all figures of the history but times.
    """

    workers: int
    launcher: str
    start_up_s: float
    epoch_end_s: float
    steps_s: list[float]
    steps_cpu_s: list[float]
    losses: list[dict[str, Any]]


def main() -> None:
    """Time all trainings, print the tables and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--images", type=int, default=96, help="drawn for training")
    parser.add_argument("--epochs", type=int, default=4, help="of a training; the first is warm-up")
    parser.add_argument("--batch", type=int, default=16, help="images of a global batch")
    parser.add_argument("--rounds", type=int, default=2, help="trainings of each kind; 0: those of --record")
    parser.add_argument("--conf", type=Path, default=REPOSITORY / "conf/local.yaml")
    parser.add_argument("--record", type=Path, help="file that keeps the trainings; those it has already count too")
    parser.add_argument("--plot", type=Path, default=REPOSITORY / "bench/scaling.png")
    options = parser.parse_args()
    check_options(parser, options)
    timings = read_record(options.record)
    if options.rounds > 0:
        with tempfile.TemporaryDirectory(prefix="scaling") as folder:
            timings += measure(Path(folder), options, rounds_before=count_rounds(timings, options.workers[0]))
    write_record(options.record, timings)
    demand_equal_losses(timings)
    cores = os.cpu_count() or 1
    rows = summarise(timings, batch=options.batch, cores=cores)
    print(tables(rows, cores=cores), verdict(rows), sep="\n\n")
    plot(rows, options.plot, cores=cores)


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse what cannot be measured."""
    if options.epochs < 2:
        parser.error(f"--epochs is {options.epochs}, but the first is warm-up; use 2 or more")
    if options.images < 3 * options.batch:
        parser.error(f"--images is {options.images}, less than 3 steps of --batch {options.batch}")
    if options.rounds < 1 and not (options.record and options.record.exists()):
        parser.error(f"--rounds is {options.rounds}, which needs a --record of earlier trainings")
    if max(options.workers) > options.batch:
        parser.error(f"--workers has {max(options.workers)}, more than the images of a batch ({options.batch})")


# ---- trainings -------------------------------------------------------------------------------------------------------


def measure(folder: Path, options: argparse.Namespace, *, rounds_before: int = 0) -> list[Timing]:
    """All trainings, in turns."""
    runtime = load_runtime(options.conf)
    make_project(folder, options)
    numbers = range(rounds_before, rounds_before + options.rounds)
    orders = [LAUNCHERS if number % 2 == 0 else LAUNCHERS[::-1] for number in numbers]
    kinds = [(count, launcher) for order in orders for count in options.workers for launcher in order]
    with chdir(folder):
        progress = tqdm(enumerate(kinds), total=len(kinds), unit="training", disable=None)
        return [timed_training(folder / str(i), runtime, workers=w, launcher=name) for i, (w, name) in progress]


def make_project(folder: Path, options: argparse.Namespace) -> None:
    """The shipped parameters with fewer images, prepared."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["data"]["shapes"] |= {"train": options.images, "val": 8, "test": 8}
    params["train"] |= {"batch_size": options.batch, "epochs": options.epochs, "evaluate_every": options.epochs}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    for stage in ("prepare", "anchor_stats"):
        command = [sys.executable, "-m", f"pipeline.{stage}"]
        subprocess.run(command, cwd=folder, env=environment(1), check=True, stdout=subprocess.DEVNULL)


def timed_training(folder: Path, runtime: RuntimeConfig, *, workers: int, launcher: str) -> Timing:
    """Train the project of the current folder."""
    folder.mkdir()
    precision = native_precision(runtime.gpus_per_worker > 0) if runtime.precision == "auto" else runtime.precision
    runtime = runtime.model_copy(update={"workers": workers, "cpus_per_worker": 1, "precision": precision})
    config = worker_config(load_params(), runtime, digest="timed", run=str(folder))
    (folder / "config.pickle").write_bytes(pickle.dumps(config))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    command = [sys.executable, *(torchrun if launcher == "torchrun" else []), "-m", "bench.timed_training", str(folder)]
    begun = time.time()
    ended = subprocess.run(command, env=environment(runtime.cpus_per_worker), capture_output=True, text=True)
    if ended.returncode != 0:
        raise SystemExit(f"scaling: {launcher} with {workers} workers failed:\n{ended.stderr[-2000:]}")
    result = json.loads((folder / RESULT).read_text())
    clock, cpu = (split_epochs(kind, steps=result["losses"][0]["step"]) for kind in zip(*result["stamps"], strict=True))
    return Timing(
        workers=workers,
        launcher=launcher,
        start_up_s=clock[0][0] - begun,
        epoch_end_s=epoch_end(clock),
        steps_s=warm_steps(clock),
        steps_cpu_s=warm_steps(cpu),
        losses=result["losses"],
    )


def environment(threads: int) -> dict[str, str]:
    """Ours, with what Ray's workers get, for both ways alike."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **worker_environment(threads)}


def split_epochs(stamps: Sequence[float], *, steps: int) -> list[list[float]]:
    """The stamps of each epoch of so many steps."""
    return [list(stamps[i : i + steps]) for i in range(0, len(stamps), steps)]


def warm_steps(epochs: Sequence[Sequence[float]]) -> list[float]:
    """Seconds of each step after the first epoch, without the first of an epoch, which has the report before it."""
    return [end - begin for epoch in epochs[1:] for begin, end in itertools.pairwise(epoch)]


def epoch_end(epochs: Sequence[Sequence[float]]) -> float:
    """Seconds that the end of an epoch costs beside a step, the median over the epochs."""
    gaps = [after[0] - before[-1] for before, after in itertools.pairwise(epochs)]
    return statistics.median(gaps) - statistics.median(warm_steps(epochs))


def demand_equal_losses(timings: Sequence[Timing]) -> None:
    """Stop where two trainings with equally many workers differ in any digit of any loss."""
    first: dict[int, list[dict[str, Any]]] = {}
    for timing in timings:
        expected = first.setdefault(timing.workers, timing.losses)
        assert timing.losses == expected, f"{timing.launcher}, {timing.workers} workers: {timing.losses} != {expected}"


def read_record(path: Path | None) -> list[Timing]:
    """The trainings of earlier calls with the same options: a machine may be quiet for minutes only."""
    return [Timing(**fields) for fields in json.loads(path.read_text())] if path and path.exists() else []


def count_rounds(timings: Sequence[Timing], workers: int) -> int:
    """How often so many workers have trained under both launchers."""
    return sum(timing.workers == workers for timing in timings) // len(LAUNCHERS)


def write_record(path: Path | None, timings: Sequence[Timing]) -> None:
    """Keep them."""
    if path:
        path.write_text(json.dumps([asdict(timing) for timing in timings]))


# ---- what they show --------------------------------------------------------------------------------------------------


def summarise(timings: Sequence[Timing], *, batch: int, cores: int) -> list[dict[str, float]]:
    """A row per number of workers; efficiency is against one worker on each core that there is."""
    rows = []
    for workers in sorted({timing.workers for timing in timings}):
        of_ray, plain = ([t for t in timings if (t.workers, t.launcher) == (workers, name)] for name in LAUNCHERS)
        row = compare(of_ray, plain)
        rows.append({"workers": workers, "images_per_s": batch / row["ray_s"], **row})
    per_core = rows[0]["images_per_s"] / min(rows[0]["workers"], cores)
    for row in rows:
        row["efficiency"] = row["images_per_s"] / (min(row["workers"], cores) * per_core)
    return rows


def compare(of_ray: Sequence[Timing], plain: Sequence[Timing]) -> dict[str, float]:
    """The medians of both launchers, and the share that Ray adds to a step: median, least and most of the rounds."""
    row = {}
    for name, kind in zip(LAUNCHERS, (of_ray, plain), strict=True):
        row[f"{name}_s"] = statistics.median(step for timing in kind for step in timing.steps_s)
        row[f"{name}_cpu_s"] = statistics.median(step for timing in kind for step in timing.steps_cpu_s)
        row[f"{name}_start_up_s"] = statistics.median(timing.start_up_s for timing in kind)
        row[f"{name}_epoch_end_s"] = statistics.median(timing.epoch_end_s for timing in kind)
    median = statistics.median
    rounds = [median(ours.steps_s) / median(theirs.steps_s) - 1 for ours, theirs in zip(of_ray, plain, strict=True)]
    row |= {"share": median(rounds), "least_share": min(rounds), "most_share": max(rounds), "rounds": len(rounds)}
    return row | {"cpu_share": row["ray_cpu_s"] / row["torchrun_cpu_s"] - 1}


def tables(rows: Sequence[Mapping[str, float]], *, cores: int) -> str:
    """Markdown: how it scales, and Ray beside torchrun."""
    scaling = [f"| workers on {cores} cores | images/s | per core | efficiency |", "|---|---|---|---|"]
    beside = [
        "| workers | step: Ray | torchrun | Ray adds (rounds) | to processor time "
        "| start-up: Ray | torchrun | end of an epoch: Ray | torchrun |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rate, used = row["images_per_s"], min(row["workers"], cores)
        scaling.append(f"| {row['workers']} | {rate:.1f} | {rate / used:.1f} | {row['efficiency']:.2f} |")
        spread = f"{row['share']:+.1%} ({row['least_share']:+.1%} .. {row['most_share']:+.1%})"
        steps = [f"{1000 * row[f'{name}_s']:.0f} ms" for name in LAUNCHERS]
        others = [f"{row[f'{name}_{what}_s']:.1f} s" for what in ("start_up", "epoch_end") for name in LAUNCHERS]
        cells = [str(row["workers"]), *steps, spread, f"{row['cpu_share']:+.1%}", *others]
        beside.append(f"| {' | '.join(cells)} |")
    return "\n".join([*scaling, "", *beside])


def verdict(rows: Sequence[Mapping[str, float]]) -> str:
    """What the table says of the bar: a line per number of workers whose steps are long enough."""
    lines = ["Losses equal to the digit."]
    for row in rows:
        least, most = row["least_share"], row["most_share"]
        if row["torchrun_s"] < LONG_STEP_S:
            word = f"steps below {1000 * LONG_STEP_S:.0f} ms, not judged; use a larger --batch"
        elif row["rounds"] < 2 or least <= MAX_SHARE < most:
            word = f"{row['rounds']:.0f} rounds do not decide about the bar of {MAX_SHARE:.0%}; use more --rounds"
        else:
            word = f"{'within' if most <= MAX_SHARE else 'ABOVE'} the bar of {MAX_SHARE:.0%} in every round"
        lines.append(
            f"{row['workers']:.0f} workers: Ray adds {row['share']:+.1%} ({least:+.1%} .. {most:+.1%}): {word}."
        )
    return "\n".join(lines)


def plot(rows: Sequence[Mapping[str, float]], path: Path, *, cores: int) -> None:
    """Draw images/s beside what the cores allow, and the step under both launchers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=110, layout="constrained")
    rates, steps = figure.subplots(1, 2)
    workers = [row["workers"] for row in rows]
    names = [str(count) for count in workers]
    per_core = rows[0]["images_per_s"] / min(workers[0], cores)
    rates.plot(
        names, [min(count, cores) * per_core for count in workers], "--", color="0.6", label="what the cores allow"
    )
    rates.plot(names, [row["images_per_s"] for row in rows], marker="o", label="measured, Ray")
    rates.set(xlabel=f"workers on {cores} cores", ylabel="images/s", title="Throughput")
    for offset, launcher in ((-0.2, "ray"), (0.2, "torchrun")):
        heights = [1000 * row[f"{launcher}_s"] for row in rows]
        bars = steps.bar([i + offset for i in range(len(rows))], heights, width=0.38, label=launcher)
        steps.bar_label(bars, fmt="%.0f", fontsize=8)
    steps.set_xticks(range(len(rows)), names)
    steps.set(xlabel=f"workers on {cores} cores", ylabel="ms", title="A step of the global batch, median")
    for axes in (rates, steps):
        axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
        axes.grid(alpha=0.3, axis="y")
        axes.set_axisbelow(True)
        axes.legend(frameon=False, loc="upper left", ncols=2)
    figure.savefig(path)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        raise SystemExit(f"scaling: {error}") from None
