"""The verdict on a detector in three sentences: how good it is, what limits it, what to try first."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluate.advice import NOTHING_LEARNT
from pipeline.evaluate.charts import KIND_NAMES, rank_kinds
from pipeline.evaluate.proposals import Advice, gain_of, value_of
from retinanet.evaluation.analysis import Analysis, Figure

PHRASES = {
    "missed": "objects that it misses",
    "background": "detections where nothing is",
    "localisation": "boxes that are badly placed",
    "classification": "objects that it gives the wrong class",
    "both": "detections wrong in class and place",
    "duplicate": "objects that it finds twice",
}
assert PHRASES.keys() == KIND_NAMES.keys()


def judge_in_words(analysis: Analysis, advice: Sequence[Advice], *, split: str) -> list[str]:
    """Three sentences."""
    return [how_good(analysis, split), what_limits(analysis), what_first(advice)]


def how_good(analysis: Analysis, split: str) -> str:
    """AP with its interval, and what it means in use."""
    overall = analysis.overall
    images = f"{analysis.num_images} image{'' if analysis.num_images == 1 else 's'} of {split}"
    if value_of(analysis, "AP") is None:
        return f"On {images} there is no ground truth, so nothing can be said about the detector."
    known = f"On {images} the detector reaches AP {with_interval(overall['AP'])}"
    if value_of(analysis, "AP50") is not None:
        known += f" and AP50 {overall['AP50'].value:.3f}"
    precision, recall = value_of(analysis, "precision"), value_of(analysis, "recall")
    if precision is None or recall is None:
        return f"{known}."
    return (
        f"{known}: at its working point it finds {100 * recall:.0f} % of the objects, and {100 * precision:.0f} % of "
        "what it reports is right."
    )


def what_limits(analysis: Analysis) -> str:
    """The kind of error that costs most, and the weakest class."""
    ap, errors = value_of(analysis, "AP"), analysis.errors
    if ap is None:
        return "A split without objects shows at most false alarms."
    if ap < NOTHING_LEARNT:
        return "It has learnt nothing that the evaluation can count; single errors say little."
    known = [one for one in analysis.classes if one.ap.value is not None]
    weakest = min(known, key=lambda one: one.ap.value or 0.0, default=None)
    weak = ""
    if weakest is not None and len(known) > 1:
        weak = f"the weakest of {len(known)} classes is {weakest.name} with AP {weakest.ap.value:.3f}"
    if errors is None:
        return f"{weak[:1].upper()}{weak[1:]}." if weak else "Its errors were not analysed."
    kind = rank_kinds(errors)[0]
    gain = gain_of(analysis, kind)
    if gain < 0.005:
        return f"No kind of error costs it more than 0.005 AP50{f'; {weak}' if weak else ''}."
    most = f"What costs it most are {PHRASES[kind]} ({gain:.3f} AP50)"
    return f"{most}; {weak}." if weak else f"{most}."


def what_first(advice: Sequence[Advice]) -> str:
    """The first advice."""
    if not advice:
        return "No rule asks for a change; more data, a larger backbone or a longer training are what is left."
    proposal = advice[0].proposal.split(". ")[0].rstrip(".")
    return f"{advice[0].finding.rstrip('.')}: {proposal[:1].lower()}{proposal[1:]}."


def with_interval(figure: Figure, digits: int = 3) -> str:
    """`0.637 (0.60 to 0.67)`; a dash where it is undefined."""
    if figure.value is None:
        return "-"
    value = f"{figure.value:.{digits}f}"
    if figure.low is None or figure.high is None:
        return value
    return f"{value} ({figure.low:.{digits}f} to {figure.high:.{digits}f})"
