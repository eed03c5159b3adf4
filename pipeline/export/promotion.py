"""Promotion: whether a model becomes the champion of its name, by a paired bootstrap against the one that is."""

from __future__ import annotations

from typing import NamedTuple

from tqdm import tqdm

from pipeline.reports.evaluated import EvaluatedSplit, check_recorded, check_split, digest_split, download_evaluated
from pipeline.reports.results import JUDGED
from pipeline.tracking.reading import RunReader
from pipeline.tracking.registry import RunModel, Version, find_version
from retinanet.evaluation.bootstrap import compare_matches
from retinanet.evaluation.class_matches import match_results

CHAMPION, CHALLENGER = "champion", "challenger"
RESAMPLES, SEED = 1000, 0
DATA_HASH = "data_hash"


class Decision(NamedTuple):
    """The alias that a model gets.

    Attributes:
        reason: one sentence.
        against: version of the champion that it was compared with; None if there was none.
    """

    alias: str
    reason: str
    against: str | None


def decide(model: RunModel, name: str) -> Decision:
    """Decide whether a model becomes the champion of a name.

    Raises:
        ValueError: when the two were not evaluated on the same split.
    """
    champion = find_version(name, CHAMPION)
    if champion is None:
        return Decision(CHAMPION, f"{name} had no {CHAMPION}", None)
    if champion.model_id == model.model_id:
        return Decision(CHAMPION, f"it is the {CHAMPION} already", champion.version)
    reader = RunReader()
    split = common_split(reader, champion, model)
    old, new = (download_evaluated(reader, run.run_id, split, run.metrics) for run in (champion, model))
    check_same(old, new, split, name, champion)
    matches = [match_results(new.truth, one.results) for one in (old, new)]
    class_names = [category["name"] for category in new.truth["categories"]]
    ap = compare_matches(*matches, class_names=class_names, resamples=RESAMPLES, seed=SEED, track=bar)["AP"]
    for one, value, run in ((old, ap.a, champion), (new, ap.b, model)):
        check_recorded(one, value, f"MLflow run {run.run_id[:8]}")
    if ap.difference is None or ap.low is None or ap.high is None:
        raise ValueError(f"{split} has no ground truth, so no model is better on it; evaluate on a split with boxes")
    figures = f"AP {ap.a:.3f} -> {ap.b:.3f} on {split}, {ap.difference:+.3f}, 95 % {ap.low:+.3f} to {ap.high:+.3f}"
    how = "better than" if ap.low > 0 else "worse than" if ap.high < 0 else "not significantly different from"
    return Decision(
        CHAMPION if ap.low > 0 else CHALLENGER, f"{how} version {champion.version} ({figures})", champion.version
    )


def bar(classes):  # type: ignore[no-untyped-def]
    """A bar over the classes in a terminal."""
    return tqdm(list(classes), disable=None, unit="class", desc="resampling", leave=False)


def common_split(reader: RunReader, champion: Version, model: RunModel) -> str:
    """Return the split on which both were evaluated, test before val.

    Raises:
        ValueError: when there is none.
    """
    splits = [reader.list_artifacts(run.run_id, JUDGED) for run in (champion, model)]
    for split in ("test", "val"):
        if all(split in own for own in splits):
            return split
    has = [" and ".join(own) or "no split" for own in splits]
    raise ValueError(
        f"the {CHAMPION} (run {champion.run_id[:8]}) was evaluated on {has[0]}, this model (run {model.run_id[:8]}) on "
        f"{has[1]}; run the evaluate stage so that both have the same split"
    )


def check_same(old: EvaluatedSplit, new: EvaluatedSplit, split: str, name: str, champion: Version) -> None:
    """Check that images, classes and ground truth of both are the same.

    Raises:
        ValueError: naming what differs.
    """
    advice = f"evaluate version {champion.version} of {name} on this split, or register without --if-better"
    try:
        warning = check_split(old, new)
    except ValueError as error:
        raise ValueError(f"this model (B) cannot be compared with the {CHAMPION} (A): {error}, {advice}") from None
    if warning is not None:
        digests = " and ".join(digest_split(one.truth) for one in (old, new))
        raise ValueError(
            f"the ground truth of {split} differs between the {CHAMPION} and this model (digests {digests}); {advice}"
        )
