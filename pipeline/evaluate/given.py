"""Judge the results file of another detector as the detector of this project is judged."""

from __future__ import annotations

import shlex
from pathlib import Path

from pipeline.evaluate.judging import judge, summarise_errors
from pipeline.evaluate.outputs import PAGE, write_outputs
from pipeline.evaluate.report import Curves, write_given_report
from pipeline.evaluate.summary import summary
from pipeline.evaluate.thresholds import summarise
from pipeline.params import Params
from pipeline.params.paths import picture_root
from pipeline.params.runtime import RuntimeConfig
from pipeline.reports.given_results import as_detections, read_given_results
from pipeline.storage.outs import read_json
from retinanet.data.splits import Split
from retinanet.evaluation.score_matches import describe_candidates
from retinanet.evaluation.working_point import choose_points, describe_target

LOWEST = -1e-6  # below every score


def run_given(params: Params, runtime: RuntimeConfig, path: Path, output: Path) -> None:
    """Judge a file on the prepared split; nothing of the project's own evaluation is touched, and MLflow is not told.

    Its working point is chosen on the split itself, because there are no detections on another. Pictures that cannot be
    read here are left out of the page.

    Args:
        path: a COCO results file.
        output: folder, for reports/ and plots/ in it.

    Raises:
        ValueError: for a file that is none, or rows of images or classes that the split has not.
    """
    split = params.evaluate.split
    truth = read_json(Path(f"data/prepared/{split}.json"))
    results = read_given_results(path, truth)
    detections = as_detections(truth, results)
    named = len({row["image_id"] for row in results})
    print(f"{path}: {len(results)} detections on {named} of {len(detections)} images", flush=True)
    target = params.evaluate.working_point
    candidates = describe_candidates(truth, detections, lowest=LOWEST)
    points = choose_points({"working_point": candidates}, target)
    judged = judge(truth, detections, points, resamples=params.evaluate.resamples, temperature=None)
    write_outputs(truth, detections, judged, folder=output)
    curves = Curves(judged.result.precision_recall, judged.curves, points.overall.threshold if points else None)
    write_given_report(
        output / PAGE,
        judged.analysis,
        curves,
        Split(truth, root=picture_root(truth["info"]["root"], runtime)),
        params,
        given=path.name,
        reproduce=command_of(path, output),
    )
    print(summary(judged.result, split))
    if points:
        print(summarise(judged.result.metrics, target, chosen_on=split))
        print(f"the {describe_target(target)} was chosen on {split} itself, so these figures are a little too good")
    print(summarise_errors(judged.analysis))
    print(f"written to {output}, with the report {output / PAGE}")


def command_of(path: Path, output: Path) -> str:
    """The command that judges a file."""
    return shlex.join(["python", "-m", "pipeline.evaluate", "--detections", str(path), "--output", str(output)])
