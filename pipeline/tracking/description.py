"""Description of a run at the top of its MLflow page: metrics, data, and the command that reproduces it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

DESCRIPTION_TAG = "mlflow.note.content"
"""MLflow's tag for the description, in Markdown."""


def describe_run(best: Mapping[str, Any], *, epochs: int, digest: str, reproduce: str | None) -> dict[str, str]:
    """Return the tag with the description of a training.

    Args:
        best: row of the best epoch by AP on val.
        epochs: number of epochs trained.
        reproduce: the command that reproduces the run, if known.
    """
    figures = [f"{name} {best[name]:.3f}" for name in ("AP", "AP50", "AP75") if best.get(name) is not None]
    lines = [
        f"**{', '.join(figures) or 'no AP'}** on val, at epoch {best['epoch']} of {epochs} (run `{digest}`)",
        "",
        "`best.*` are the metrics of this epoch, `test.*` those of the evaluation; the charts show the curves by epoch "
        "and, under `val/detections`, the detections on the same images.",
    ]
    if reproduce:
        lines += ["", "Reproduce with:", "```", reproduce, "```"]
    return {DESCRIPTION_TAG: "\n".join(lines)}


def link_artifact(client: MlflowClient, run_id: str, path: str, title: str) -> None:
    """Add a link to an artifact to the end of the description, once."""
    run = client.get_run(run_id)
    link = f"[{title}](#/experiments/{run.info.experiment_id}/runs/{run_id}/artifacts/{path})"
    text = run.data.tags.get(DESCRIPTION_TAG, "")
    if link not in text:
        client.set_tag(run_id, DESCRIPTION_TAG, f"{text}\n\n{link}".lstrip())
