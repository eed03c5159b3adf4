"""Report of a sweep: a table, a CSV file, plots, a page, and the command that reproduces the winner."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.params import flatten
from pipeline.params.editing import edit_yaml
from pipeline.runs.sweep_folder import ENDED, FINISHED, SweepFolder
from pipeline.storage.outs import write_atomic
from pipeline.sweep.advice import Outcome
from pipeline.sweep.importance import measure_importances
from pipeline.sweep.listener import best_row
from pipeline.sweep.page import build_page
from pipeline.sweep.plots import Point, draw_plots, study_of
from pipeline.sweep.ranking import Setting, rank_settings, verdict

TABLE = Path("reports/sweep.csv")
PAGE = Path("reports/sweep.html")
PLOTS = Path("plots")
ROWS = 15  # on the screen


class Report(NamedTuple):
    """The winner, the verdict and the files of a report."""

    winner: Setting
    verdict: str
    command: str
    paths: list[Path]


def report(folder: SweepFolder, *, conf: Path, apply: bool) -> Report | None:
    """Write and print the report; return None if no trial has an AP yet."""
    plan, settings = folder.read_json("sweep.json"), rank_settings(folder)
    if not settings or not settings[0].scores:
        print("no trial has an AP yet", flush=True)
        return None
    base = flatten(plan["params"])
    write_atomic(TABLE, lambda path: write_csv(settings, base, path))
    command = winning_command(settings[0], plan, conf)
    shown = Report(
        winner=settings[0],
        verdict=verdict(settings, plan["sweep"]["seeds"]),
        command=command,
        paths=[TABLE, PAGE, *draw(folder, settings, plan, command)],
    )
    print(f"{table(settings, base)}\n{shown.verdict}", flush=True)
    print(f"full results: {', '.join(str(path) for path in shown.paths)}", flush=True)
    print(f"reproduce the winner:\n  {shown.command}", flush=True)
    if apply:
        apply_settings(shown.winner.settings, Path("params.yaml"))
        print("wrote the winner into params.yaml, which keeps its own budget (sweep.fixed was not written)", flush=True)
    elif shown.winner.settings:
        print("`python -m pipeline.sweep report --apply` writes it into params.yaml", flush=True)
    if not folder.has_ended():
        ended = sum(record["state"] in ENDED for record in folder.records())
        print(f"{ended} of {plan['trials']} trials have ended; `python -m pipeline.sweep resume` resumes", flush=True)
    return shown


def draw(folder: SweepFolder, settings: Sequence[Setting], plan: Mapping[str, Any], command: str) -> list[Path]:
    """Write the plots and the page; return the plots."""
    points = [Point(each.settings, each.mean, FINISHED in each.states) for each in settings if each.scores]
    study, names = study_of(points, flatten(plan["params"]), plan["sweep"]["space"])
    importances = measure_importances(study, names)
    plots = draw_plots(study, names, [point.whole for point in points], importances, PLOTS)
    outcome = Outcome(settings, plan, importances, has_ended=folder.has_ended())
    page = build_page(outcome, command=command, plots=plots)
    write_atomic(PAGE, lambda path: path.write_text(page, encoding="utf-8"))
    return plots


def table(settings: Sequence[Setting], base: Mapping[str, Any]) -> str:
    """Format the best settings as a table; parameters missing in a setting have the base's values."""
    names = sorted({name for setting in settings for name in setting.settings})
    short = {name: name.partition(".")[2] for name in names}
    header = [
        f"{'trial':>5}",
        f"{'AP':>6}",
        f"{'+-':>5}",
        f"{'epochs':>6}",
        "  ".join(short.values()),
        "best nms_iou/score: AP",
    ]
    lines = ["  ".join(header)]
    for setting in settings[:ROWS]:
        values = "  ".join(
            f"{format_value(setting.settings.get(name, base[name])):>{len(short[name])}}" for name in names
        )
        spread = "" if setting.spread is None else f"{setting.spread:.3f}"
        ap = f"{setting.mean:.3f}" if setting.scores else "-"
        state = "" if set(setting.states) == {FINISHED} else "  " + ", ".join(sorted(set(setting.states)))
        figures = f"{setting.number:>5}  {ap:>6}  {spread:>5}  {setting.epochs:>6}"
        lines.append(f"{figures}  {values}  {format_thresholds(setting)}{state}")
    rest = len(settings) - ROWS
    return "\n".join(lines + ([f"... and {rest} more"] if rest > 0 else []))


def format_value(value: Any) -> str:
    """Format the value of a parameter for a column."""
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value)


def format_thresholds(setting: Setting) -> str:
    """Format the best thresholds and their AP."""
    best = setting.thresholds
    return f"{best['nms_iou']:g}/{best['score_threshold']:g}: {best['AP']:.3f}" if best else "-"


def winning_command(winner: Setting, plan: Mapping[str, Any], conf: Path) -> str:
    """Return the command that reproduces the winner's first seed, with its AP in reports/train.json."""
    chosen = {**plan["sweep"]["fixed"], **winner.settings}
    settings = " ".join(f"-S {shlex.quote(f'{name}={json.dumps(value)}')}" for name, value in chosen.items())
    command = f"PIPELINE_CONF={shlex.quote(str(conf))} dvc exp run {settings}".rstrip()
    if plan["sweep"]["scheduler"] == "pbt":
        command += "   # PBT changed parameters during training; this trains with the initial ones throughout"
    return command


def apply_settings(settings: Mapping[str, Any], path: Path) -> None:
    """Write values to params.yaml; keep comments and layout."""
    text = edit_yaml(path.read_text(encoding="utf-8"), settings)
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_csv(settings: Sequence[Setting], base: Mapping[str, Any], path: Path) -> None:
    """Write one row per setting, best first."""
    names = sorted({name for setting in settings for name in setting.settings})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            [
                "trial",
                "AP",
                "spread",
                "seeds",
                "state",
                "epochs",
                *names,
                "nms_iou",
                "score_threshold",
                "AP_at_thresholds",
            ]
        )
        for setting in settings:
            best = setting.thresholds or {}
            writer.writerow(
                [setting.number, setting.mean if setting.scores else "", setting.spread, len(setting.scores)]
                + ["/".join(sorted(set(setting.states))), setting.epochs]
                + [json.dumps(setting.settings.get(name, base[name])) for name in names]
                + [best.get(name) for name in ("nms_iou", "score_threshold", "AP")]
            )


def status(folder: SweepFolder) -> str:
    """Format the state of the newest sweep."""
    plan, records = folder.read_json("sweep.json"), folder.records()
    counts = {state: sum(record["state"] == state for record in records) for state in (*ENDED, "running")}
    words = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none started"
    best = max((record.get("score") or 0.0 for record in records), default=0.0)
    lines = [f"sweep {plan['name']}: at most {plan['trials']} trials: {words}; best AP {best:.3f}"]
    for record in records:
        row = best_row(record.get("history") or [])
        ap = f"AP {row['AP']:.3f} at epoch {row['epoch']}" if row else record.get("error", "")
        lines.append(f"  trial {record['number']} seed {record['seed']}: {record['state']:<8} {ap}")
    return "\n".join(lines)
