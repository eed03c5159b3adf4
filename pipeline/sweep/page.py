"""The page reports/sweep.html: which setting won, whether it holds, what to try next; one file that opens offline."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.cli.progress import duration
from pipeline.pages.charts import Chart
from pipeline.pages.rendering import figure_uri, png_uri, render_page
from pipeline.params.editing import as_yaml
from pipeline.params.sweep import kind_of
from pipeline.sweep.advice import Advice, Outcome, advise, join_names
from pipeline.sweep.charts import WORDS, draw_curves, draw_importances
from pipeline.sweep.importance import BEST, CHANCE, LEAST, SHUFFLES
from pipeline.sweep.ranking import Setting, verdict
from pipeline.sweep.space import format_settings
from pipeline.sweep.widening import edge_of

CAPTIONS = {
    "sweep_map": "AP over two parameters, from the settings tried (dots).",
    "sweep_slices": "AP against each parameter. Hollow: stopped early, so its final AP would be higher.",
    "sweep_parallel": "A line is a setting, the darker the higher its AP.",
}


def build_page(outcome: Outcome, *, command: str, plots: Sequence[Path]) -> str:
    """Return the HTML.

    Args:
        command: that trains the winner.
        plots: the PNG files of the sweep; those in CAPTIONS are shown.
    """
    advice = advise(outcome)
    pictures = {path.stem: path for path in plots if path.stem in CAPTIONS}
    return render_page(
        "pipeline.sweep",
        "page.html",
        name=outcome.plan["name"],
        verdict=judge_in_words(outcome, advice),
        tiles=_tiles(outcome),
        winner=[_parameter(outcome, name) for name in _changed(outcome)],
        fixed=outcome.sweep["fixed"],
        trust=trust_sentences(outcome),
        importances=outcome.importances,
        matters=_what_matters(outcome),
        importance_chart=_importance_chart(outcome),
        names=outcome.names,
        seeds=outcome.sweep["seeds"],
        rows=[_row(outcome, setting) for setting in outcome.settings],
        words=WORDS,
        curves=_curves(outcome.settings),
        pictures=[
            Chart(png_uri(pictures[stem].read_bytes()), caption, caption)
            for stem, caption in CAPTIONS.items()
            if stem in pictures
        ],
        advice=advice,
        command=command,
        section=as_yaml({"sweep": dict(outcome.sweep)}),
    )


def judge_in_words(outcome: Outcome, advice: Sequence[Advice]) -> list[str]:
    """Three texts: what won, whether that is more than chance, what to try next."""
    winner, baseline = outcome.winner, outcome.baseline()
    won = f"Trial {winner.number} of {len(outcome.settings)} settings, with AP {winner.mean:.3f} on val"
    won += f": {format_settings({name: outcome.value(winner, name) for name in winner.settings})}."
    if baseline is not None and baseline.number != winner.number:
        won += f" The unchanged params.yaml reaches {baseline.mean:.3f}."
    held = verdict(outcome.settings, outcome.sweep["seeds"])
    if winner.spread is not None:
        held += f". Its seeds spread by {winner.spread:.3f} (standard deviation)"
    following = "Nothing asks for another sweep: write the winner into params.yaml and train it at full length."
    if advice:
        proposal = advice[0].proposal.split(". ")[0].rstrip(".")
        following = f"{advice[0].finding.rstrip('.')}. {proposal}."
    return [won, f"{held[:1].upper()}{held[1:]}.", following]


def trust_sentences(outcome: Outcome) -> list[str]:
    """What the AP of the winner is worth."""
    settings, sentences = [one for one in outcome.settings if one.scores], []
    if len(settings) > 1:
        gap = outcome.winner.mean - settings[1].mean
        sentences.append(f"The next best, trial {settings[1].number}, is {gap:.3f} behind.")
    sentences.append(
        f"This AP is the highest of {len(settings)} on val, and of all epochs, so it is a little too good: on other "
        "pictures expect less. The test split was not used."
    )
    stopped = sum("stopped" in one.states for one in settings)
    if stopped:
        sentences.append(f"Settings that were stopped early, {stopped}, are ranked by the AP that they had reached.")
    return sentences


def _tiles(outcome: Outcome) -> list[dict[str, str]]:
    states = Counter(state for setting in outcome.settings for state in setting.states)
    seconds = sum(training.seconds for setting in outcome.settings for training in setting.trainings)
    tiles = {"best AP": f"{outcome.winner.mean:.3f}", "settings": str(len(outcome.settings))}
    tiles |= {"seeds each": str(outcome.sweep["seeds"]), "epochs": str(outcome.plan["params"]["train"]["epochs"])}
    tiles |= {words: str(states[state]) for state, words in WORDS.items() if states[state]}
    if seconds:
        tiles["training in all"] = duration(seconds)
    return [{"name": name, "value": value} for name, value in tiles.items()]


def _changed(outcome: Outcome) -> list[str]:
    """The parameters of the space, and others that the winner sets."""
    return [*outcome.sweep["space"], *(name for name in outcome.winner.settings if name not in outcome.sweep["space"])]


def _parameter(outcome: Outcome, name: str) -> dict[str, Any]:
    """A parameter of the winner against params.yaml, with the range that was searched."""
    value, entry = outcome.value(outcome.winner, name), outcome.sweep["space"].get(name)
    edge = None if entry is None else edge_of(entry, value)
    return {
        "name": name,
        "base": json.dumps(outcome.base[name]),
        "value": json.dumps(value),
        "is_changed": value != outcome.base[name],
        "range": "a point" if entry is None else f"{kind_of(entry)} {json.dumps(entry[kind_of(entry)])}",
        "edge": {"low": "on the lower edge", "high": "on the upper edge", None: ""}[edge],
    }


def _what_matters(outcome: Outcome) -> str:
    """The parameters whose importance is more than chance, in a sentence."""
    if len(outcome.names) < 2:
        return "One parameter alone was varied."
    tried = sum(bool(one.scores) for one in outcome.settings)
    if not outcome.importances:
        return f"{tried} settings with an AP are too few to say which parameter matters; {LEAST} are the least."
    sure = [one.name for one in outcome.importances if one.chance <= CHANCE]
    found = f"{join_names(sure)} matter{'s' if len(sure) == 1 else ''}." if sure else "None for sure."
    return (
        f"{found} Importance says how much a parameter decides whether a setting is among the best "
        f"{max(BEST, -(-tried // 10))} of {tried} (PED-ANOVA). Grey bars may be chance: over {100 * CHANCE:.0f} % of "
        f"{SHUFFLES} shuffles of AP over the settings give as much."
    )


def _importance_chart(outcome: Outcome) -> Chart | None:
    if not outcome.importances:
        return None
    return Chart(figure_uri(draw_importances(outcome.importances)), "Importance of each parameter", "")


def _curves(settings: Sequence[Setting]) -> Chart | None:
    if not any(training.points for setting in settings for training in setting.trainings):
        return None
    caption = "AP on val after each evaluated epoch, a line for each trial."
    return Chart(figure_uri(draw_curves(settings)), "AP over the epochs of each trial", caption)


def _row(outcome: Outcome, setting: Setting) -> Mapping[str, Any]:
    """A row of the table of settings: a text and the value by which to sort for each parameter."""
    best = setting.thresholds
    values = [outcome.value(setting, name) for name in outcome.names]
    return {
        "number": setting.number,
        "ap": f"{setting.mean:.3f}" if setting.scores else "-",
        "spread": "-" if setting.spread is None else f"{setting.spread:.3f}",
        "states": sorted(set(setting.states)),
        "epochs": setting.epochs,
        "values": [(f"{v:.3g}" if isinstance(v, float) else json.dumps(v), json.dumps(v)) for v in values],
        "thresholds": None if best is None else f"{best['nms_iou']:g} / {best['score_threshold']:g}",
        "ap_at": None if best is None else f"{best['AP']:.3f}",
        "error": next((training.error for training in setting.trainings if training.error), ""),
    }
