"""Compare two runs: metrics with intervals, what changed, and the images on which they differ most."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from pipeline.compare import report
from pipeline.compare.changes import describe_changes
from pipeline.compare.image_differences import (
    ImageDifference,
    best_threshold,
    draw_differences,
    f1_of_images,
    largest_differences,
)
from pipeline.compare.page import SideBySide, build_page
from pipeline.compare.runs import Run, find_run
from pipeline.params.paths import picture_root, resolve_input
from pipeline.params.runtime import load_runtime
from pipeline.reports.evaluated import EvaluatedSplit, check_split, digest_split
from pipeline.reports.evaluated import check_recorded as check_one_recorded
from pipeline.storage.outs import write_atomic, write_json
from retinanet.data.splits import Split
from retinanet.evaluation.bootstrap import Difference, compare_matches
from retinanet.evaluation.class_matches import match_results

REPORT = Path("reports/compare.json")
PAGE = Path("reports/compare.html")
PAGE_PICTURES = 24  # at least, on the page


def run(options: argparse.Namespace) -> None:
    """Compare two runs, given the checked options of the command."""
    runs = [find_run(word) for word in (options.run_a, options.run_b)]
    split = common_split(*runs, wanted=options.split)
    evaluated = [run.evaluated(split) for run in runs]
    warning = check_split(*evaluated)
    num_images = len(evaluated[1].truth["images"])
    print(f"A  {runs[0].label}\nB  {runs[1].label}")
    print(f"{split}: {num_images} images, {options.resamples} resamples of them, seed {options.seed}", flush=True)
    comparison = compare(evaluated, options)
    notes = [
        *([warning] if warning else []),
        *report.note_few_images(num_images),
        *report.note_undefined(comparison.metrics, options.resamples),
    ]
    check_recorded(runs, evaluated, comparison.metrics, same_truths=warning is None)
    changes = describe_changes(*(run.origin() for run in runs))

    print("", report.metrics_table(comparison.metrics), *notes, "", report.changes_text(changes), "", sep="\n")
    chosen = comparison.differences[: options.pictures]
    print(report.pictures_text(chosen, comparison.thresholds))
    if chosen:
        print(draw(options, runs, evaluated, comparison))
    facts = f"{split}: {num_images} images, {options.resamples} resamples of them, seed {options.seed}"
    page = build_page(
        metrics=comparison.metrics,
        runs=[run.label for run in runs],
        facts=facts,
        notes=notes,
        changes=report.changes_text(changes),
        pictures=pair(options, evaluated, comparison),
    )
    write_atomic(PAGE, lambda path: path.write_text(page, encoding="utf-8"))
    print(f"page written to {PAGE}")
    print("", report.verdict(comparison.metrics), sep="\n")
    content = {
        "verdict": report.verdict(comparison.metrics),
        "notes": notes,
        "runs": {"A": runs[0].label, "B": runs[1].label},
        "split": {"name": split, "digest": digest_split(evaluated[1].truth), "images": num_images},
        "bootstrap": {"resamples": options.resamples, "seed": options.seed, "interval": 0.95},
        "metrics": {name: metric._asdict() for name, metric in comparison.metrics.items()},
        "changes": changes,
        "score_thresholds": dict(zip("AB", comparison.thresholds, strict=True)),
        "pictures": [one.to_json() for one in chosen],
    }
    write_json(REPORT, content)


class Comparison(NamedTuple):
    """Result of comparing two runs.

    Attributes:
        thresholds: of A and B, the score threshold of the F1 in differences.
    """

    metrics: dict[str, Difference]
    thresholds: list[float]
    differences: list[ImageDifference]


def compare(evaluated: Sequence[EvaluatedSplit], options: argparse.Namespace) -> Comparison:
    """Match both runs with the ground truth of B, and resample."""
    truth = evaluated[1].truth
    matches = [match_results(truth, run.results) for run in evaluated]
    class_names = [category["name"] for category in truth["categories"]]
    track = partial(tqdm, disable=None, unit="class", desc="resampling", leave=False)
    metrics = compare_matches(
        *matches, class_names=class_names, resamples=options.resamples, seed=options.seed, track=track
    )
    thresholds = [best_threshold(each) for each in matches]
    f1 = [f1_of_images(each, threshold) for each, threshold in zip(matches, thresholds, strict=True)]
    count = max(options.pictures, PAGE_PICTURES)
    return Comparison(metrics, thresholds, largest_differences(truth["images"], *f1, count=count))


def common_split(a: Run, b: Run, *, wanted: str | None) -> str:
    """Return the split on which both runs were evaluated: the wanted one, else test before val.

    Raises:
        ValueError: when there is none, listing the splits of each run.
    """
    splits = [run.splits() for run in (a, b)]
    for run, own in zip((a, b), splits, strict=True):
        if not own:
            raise ValueError(
                f"{run.label} has no stored detections; run the evaluate stage for it again (`dvc repro evaluate`)"
            )
    common = [split for split in ("test", "val") if split in splits[0] and split in splits[1]]
    if wanted is not None:
        common = [split for split in common if split == wanted]
    if not common:
        has = f"A on {' and '.join(splits[0])}, B on {' and '.join(splits[1])}"
        what = f"--split {wanted}" if wanted else "evaluate.split"
        raise ValueError(f"the runs were not evaluated on the same split ({has}); evaluate one again, see {what}")
    return common[0]


def check_recorded(
    runs: Sequence[Run], evaluated: Sequence[EvaluatedSplit], metrics: Mapping[str, Difference], *, same_truths: bool
) -> None:
    """Check that the detections of each run give the AP that it reported; A's AP on B's ground truth is another one."""
    found = (metrics["AP"].a, metrics["AP"].b)
    for run, one, ap in list(zip(runs, evaluated, found, strict=True))[0 if same_truths else 1 :]:
        check_one_recorded(one, ap, run.label)


def root_of(truth: Mapping[str, Any], data_root: str | None) -> str:
    """The image folder: --data-root, else from conf/ or the split."""
    if data_root is not None:
        return resolve_input(data_root, name="--data-root")
    return picture_root(truth["info"]["root"], load_runtime())


def draw(
    options: argparse.Namespace, runs: Sequence[Run], evaluated: Sequence[EvaluatedSplit], comparison: Comparison
) -> str:
    """Write the sheet; return a sentence with its path, or the reason why there is none."""
    truth = evaluated[1].truth
    try:
        sheet = draw_differences(
            Split(truth, root=root_of(truth, options.data_root)),
            [category["id"] for category in truth["categories"]],
            comparison.differences[: options.pictures],
            results=[run.results for run in evaluated],
            thresholds=comparison.thresholds,
            titles=[f"{name}: {run.label}" for name, run in zip("AB", runs, strict=True)],
        )
    except (OSError, ValueError) as error:
        return f"no sheet was drawn, because the images cannot be read here: {error}"
    write_atomic(options.output, sheet.save)
    return f"sheet written to {options.output}"


def pair(options: argparse.Namespace, evaluated: Sequence[EvaluatedSplit], comparison: Comparison) -> SideBySide | None:
    """What the page needs for its pictures; None where they cannot be read here."""
    truth = evaluated[1].truth
    try:
        split = Split(truth, root=root_of(truth, options.data_root))
        if comparison.differences:
            split.picture(comparison.differences[0].index)
    except (OSError, ValueError):
        return None
    category_ids = [category["id"] for category in truth["categories"]]
    results = [run.results for run in evaluated]
    return SideBySide(split, category_ids, comparison.differences, results, comparison.thresholds)
