"""Run all checks and say what is likeliest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.diagnose import data_checks, network_checks, training_checks
from pipeline.diagnose.evidence import Cause, Evidence
from pipeline.diagnose.measuring import (
    FIRST_PICTURES,
    count_split,
    cover_boxes,
    images_per_pass,
    measure_first_step,
    measure_trained,
    read_history,
    take,
)
from pipeline.params import Params
from pipeline.params.editing import as_command
from pipeline.params.paths import check_folder, picture_root
from pipeline.params.runtime import RuntimeConfig
from pipeline.storage.outs import read_json
from retinanet.data.splits import Split
from retinanet.inference.detector import Detector

PREPARED = "data/prepared/{}.json"
HISTORY = Path("plots/training.csv")
SURE = 0.5  # likelihood of a first cause from which it is named as the likeliest

CHECKS: tuple[Callable[[Evidence], Iterator[Cause]], ...] = (
    data_checks.no_labels,
    data_checks.other_classes,
    data_checks.uncovered_boxes,
    network_checks.frozen_random_weights,
    network_checks.norm_of_one_image,
    network_checks.wrong_prior,
    network_checks.one_sided_alpha,
    training_checks.diverged,
    training_checks.unmoved,
    training_checks.too_short,
    training_checks.silent_scores,
    training_checks.learnt_by_heart,
)


def run(params: Params, runtime: RuntimeConfig, *, model: Path, pictures: int) -> None:
    """Collect the evidence, and print causes with their settings.

    Raises:
        ValueError: when the data set is not prepared, or its pictures are not there.
    """
    evidence = collect(params, runtime, model=model, pictures=pictures)
    print("\n".join(describe(evidence)))
    print("\n".join(report(find_causes(evidence))))


def collect(params: Params, runtime: RuntimeConfig, *, model: Path, pictures: int) -> Evidence:
    """All that is known; see run."""
    test = params.evaluate.split
    contents = {name: read_json(Path(PREPARED.format(name))) for name in ("train", test)}
    evidence = Evidence(
        params=params,
        test=test,
        splits={name: count_split(content) for name, content in contents.items()},
        images_per_pass=images_per_pass(params, runtime),
        history=read_history(HISTORY),
    )
    samples = [take(contents[name], pictures) for name in ("train", test)]
    roots = [picture_root(sample["info"]["root"], runtime) for sample in samples]
    check_folder(roots[0])
    coverage = cover_boxes(contents["train"], params)
    if coverage is not None and samples[0]["images"]:
        few = Split(take(contents["train"], FIRST_PICTURES), root=roots[0])
        categories = contents["train"]["categories"]
        evidence = replace(
            evidence, coverage=coverage, first_step=measure_first_step(few, params, coverage.grid, categories)
        )
    if model.is_file():
        detector = Detector.load(model, "cuda" if torch.cuda.is_available() else "cpu")
        detector.postprocess = detector.build_postprocess(**params.postprocess.model_dump(exclude={"calibrate"}))
        evidence = replace(evidence, trained=measure_trained(detector, samples[0], samples[1], roots))
    return evidence


def find_causes(evidence: Evidence) -> list[Cause]:
    """Possible causes, the likeliest first."""
    return sorted((cause for check in CHECKS for cause in check(evidence)), key=lambda cause: -cause.likelihood)


def describe(evidence: Evidence) -> Iterator[str]:
    """What was looked at, a line each."""
    for name, split in evidence.splits.items():
        yield f"{name}: {split.images} images, {sum(split.boxes.values())} boxes of {len(split.boxes)} classes"
    coverage, first, trained = evidence.coverage, evidence.first_step, evidence.trained
    if coverage is not None and len(coverage.boxes):
        without = float((coverage.owned == 0).float().mean())
        yield (
            f"anchors: {100 * without:.0f} % of the boxes of train without a foreground anchor, best IoU "
            f"{float(coverage.best_iou.median()):.2f} in the median"
        )
    if first is not None:
        yield f"first step: an anchor costs {first.loss:.4f} as background (paper: {first.expected:.4f})"
    if evidence.history:
        losses = training_checks.losses_of(evidence)
        yield f"training: loss {losses[0]:.3g} in the first epoch, {losses[-1]:.3g} in the last of {len(losses)}"
    if trained is not None:
        train_ap, test_ap = ("-" if ap is None else f"{ap:.3f}" for ap in (trained.train_ap, trained.test_ap))
        yield (
            f"model: {100 * trained.share:.2f} % of all scores over 0.05, the highest {trained.highest:.3f}; AP "
            f"{train_ap} on pictures of train, {test_ap} of {evidence.test}"
        )
    else:
        yield "model: there is none yet, so scores and AP were not looked at"


def report(causes: Sequence[Cause]) -> Iterator[str]:
    """The causes as text, the likeliest first."""
    yield ""
    if not causes:
        yield "No cause found. Open reports/prepare.html: are the boxes where the objects are?"
        return
    for place, cause in enumerate(causes):
        first = "Most likely" if cause.likelihood >= SURE else "Possible"
        title = "Also possible" if place else first
        yield f"{title}: {cause.name}. {cause.finding}"
        yield f"  {cause.remedy}"
        if cause.settings:
            yield f"  {as_command(cause.settings)}"
