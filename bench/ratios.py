"""How the micro benches measure: ours and its peers in turns, in one process, as ratios.

A bench hands `run_bench` its cases and, for memory, its contenders. One process measures all cases under one
allocator; memory is measured in one process per contender.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import torchvision
from torch.utils import benchmark

RESULTS = Path(__file__).with_name("RESULTS.md")
# glibc gives every tensor past 32 MB back to the system and takes it anew, page by page, unless it is told not to.
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": str(2**28)}
ALLOCATORS: dict[str, dict[str, str]] = {"default": {}, "tuned": TUNED}
MIN_SECONDS = 0.05  # of one contender in one round; whatever takes longer runs once
COLUMNS = ["what", "threads", "allocator", "ours, wall (CPU) ms", "peer", "peer's ms", "ratio, wall", "ratio, CPU"]

Run = Callable[[], Any]


class Case(NamedTuple):
    """One thing that ours and the peers can do; `what` names it in the table."""

    what: str
    ours: Run
    peers: Mapping[str, Run]


def run_bench(
    title: str,
    cases: Callable[[], Iterable[Case]],
    *,
    peaks: Mapping[str, Callable[[], Run]] | None = None,
    unit: tuple[str, int] = ("MiB", 2**20),
) -> None:
    """Read the command line, measure, print the tables and, with --write, keep them in RESULTS.md.

    Args:
        cases: makes them one after the other, so that only one lies in memory.
        peaks: for every contender a function that prepares it and returns what is to be measured.
        unit: in which memory is told, its name and bytes.
    """
    options, peaks = read_options(title), peaks or {}
    if options.child in peaks:
        print(json.dumps(extra_peak(peaks[options.child]())))
    elif options.child:
        wanted = (case for case in cases() if re.search(options.only, case.what))
        print(json.dumps([row for case in wanted for row in compare(case, options.threads, options.repeats)]))
    if options.child:
        return
    text = header()  # the load before
    timed = [[*row[:2], name, *row[2:]] for name in options.allocators for row in in_child(name, name)]
    wanted_peaks = [name for name in peaks if re.search(options.only, name)]
    used = [[n, a, f"{in_child(n, a) / unit[1]:.2f}"] for n in wanted_peaks for a in options.allocators]
    text += f"\n\n{table(COLUMNS, timed)}" if timed else ""
    text += f"\n\n{table(['extra peak memory', 'allocator', unit[0]], used)}" if used else ""
    print(text)
    if options.write:
        keep(title, text)


def read_options(title: str) -> argparse.Namespace:
    """The command line, the same for all benches."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5, help="rounds; in each every contender has its turn")
    parser.add_argument("--allocators", nargs="+", choices=ALLOCATORS, default=list(ALLOCATORS))
    parser.add_argument(
        "--only", default="", help="regular expression on the names of cases and of memory's contenders"
    )
    parser.add_argument("--write", action="store_true", help=f"keep the tables in bench/{RESULTS.name}")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # an allocator, or memory's contender
    return parser.parse_args()


def in_child(name: str, allocator: str) -> Any:
    """What this bench prints when it runs again as that child, under that allocator."""
    environment = {key: value for key, value in os.environ.items() if key not in TUNED} | ALLOCATORS[allocator]
    command = [sys.executable, "-m", module(), *sys.argv[1:], "--child", name]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def module() -> str:
    """bench.NAME, as it was started."""
    spec = sys.modules["__main__"].__spec__
    assert spec is not None, "start it with python -m bench.NAME"
    return spec.name


def seconds(run: Run, threads: int) -> tuple[float, float]:
    """Wall seconds and processor seconds (of all threads) of one run, after one that warms up."""
    marks: list[float] = []
    timer = benchmark.Timer(
        "run()",
        globals={"run": run},
        num_threads=threads,
        timer=lambda: (marks.append(time.process_time()), benchmark.timer())[1],  # which waits for an accelerator
    )
    found = timer.blocked_autorange(min_run_time=MIN_SECONDS)
    marks = marks[-2 * len(found.raw_times) :]
    cpu = median(end - start for start, end in zip(marks[::2], marks[1::2], strict=True))
    return found.median, cpu / found.number_per_run


def compare(case: Case, threads: Iterable[int], repeats: int) -> list[list[str]]:
    """One row per number of threads and peer; ratios are taken within a round, where the machine is the same."""
    runs, rows = {"ours": case.ours, **case.peers}, []
    for count in threads:
        rounds = [{name: seconds(run, count) for name, run in runs.items()} for _ in range(repeats)]
        times = {name: [1e3 * median(turn[name][clock] for turn in rounds) for clock in (0, 1)] for name in runs}
        shown = {name: f"{wall:.4g} ({cpu:.4g})" for name, (wall, cpu) in times.items()}
        for peer in case.peers:
            ratios = [spread([turn[peer][clock] / turn["ours"][clock] for turn in rounds]) for clock in (0, 1)]
            rows.append([case.what, str(count), shown["ours"], peer, shown[peer], *ratios])
    return rows


def spread(ratios: Sequence[float]) -> str:
    """Median and range."""
    return f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def extra_peak(run: Run) -> int:
    """Bytes by which the process grows at most while it runs once; Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is resident now
    before = resident("VmRSS")
    kept = run()
    peak = resident("VmHWM")
    del kept
    return peak - before


def resident(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    return 1024 * int(re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


def header() -> str:
    """Command, machine, versions, load and how to read the tables."""
    models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) or [platform.processor()]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"`{' '.join(['python -m', module(), *sys.argv[1:]])}`, {os.cpu_count()} CPU cores ({models[0]}), {gpu}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"load before {os.getloadavg()[0]:.2f}.\nMedians over rounds; ratios: peer / ours in a round, and their range. "
        f"Allocator tuned: {' '.join(f'{key}={value}' for key, value in TUNED.items())}."
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *rows])


def keep(title: str, text: str) -> None:
    """Write a section of today into RESULTS.md."""
    RESULTS.write_text(with_section(RESULTS.read_text(), title, text))


def with_section(results: str, title: str, text: str) -> str:
    """RESULTS.md with this section first, in the place of an older one of the same title."""
    head, *sections = re.split(r"^(?=## )", results, flags=re.MULTILINE)
    kept = [section for section in sections if not section.splitlines()[0].endswith(f" {title}")]
    return "".join([head, f"## {time.strftime('%Y-%m-%d')} {title}\n{text}\n\n", *kept])
