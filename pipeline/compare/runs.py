"""The runs to compare, from MLflow, a revision of git and DVC, or the workspace."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.compare import revisions
from pipeline.params import flatten
from pipeline.params.reading import parse_yaml
from pipeline.reports.evaluated import EvaluatedSplit, download_evaluated
from pipeline.reports.given_results import read_given_results
from pipeline.reports.results import JUDGED, read_results
from pipeline.runs.identity import digest_file
from pipeline.storage.outs import read_json
from pipeline.tracking.provenance import SOURCES
from pipeline.tracking.reading import MIN_PREFIX, RunReader, StoredRun
from pipeline.tracking.records import as_param

WORKSPACE = "workspace"
DETECTIONS, REPORT, TRAINING = "reports/detections.json.gz", "reports/evaluate.json", "reports/train.json"
ENVIRONMENT = ("host", "python", "torch", "torchvision")
"""Tags on the environment of a run, beside its conf/."""


@dataclass(frozen=True)
class Origin:
    """Origin of a run; unknown values are None or left out.

    Attributes:
        params: dotted name -> value as written in params.yaml.
        environment: conf.<key>, host and versions.
        train_data: SHA-256 of data/prepared/train.json.
        changes: uncommitted changes of the code, as of `git status --porcelain`.
    """

    params: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    train_data: str | None = None
    commit: str | None = None
    changes: str | None = None


class Run(Protocol):
    """Interface of a run to compare."""

    label: str

    def splits(self) -> list[str]:
        """The splits on which the run was evaluated."""
        ...

    def evaluated(self, split: str) -> EvaluatedSplit:
        """Its detections on one of them."""
        ...

    def origin(self) -> Origin:
        """Its parameters, data and code."""
        ...


class TrackedRun:
    """An MLflow run; reads only from the tracking server."""

    def __init__(self, reader: RunReader, stored: StoredRun) -> None:
        self._reader, self._stored = reader, stored
        self.label = f"MLflow run {stored.run_id[:8]} ({stored.name})"

    def splits(self) -> list[str]:
        """The splits whose detections are among the artifacts."""
        return self._reader.list_artifacts(self._stored.run_id, JUDGED)

    def evaluated(self, split: str) -> EvaluatedSplit:
        """Download the split and the detections."""
        return download_evaluated(self._reader, self._stored.run_id, split, self._stored.metrics)

    def origin(self) -> Origin:
        """Read from the parameters and tags of the run."""
        params, tags = self._stored.params, self._stored.tags
        return Origin(
            params={key: text for key, text in params.items() if not key.startswith("conf.")},
            environment=environment_of(self._stored),
            train_data=tags.get("data_hash"),
            commit=tags.get("git.commit"),
            changes=tags.get("git.changes"),
        )


class FileRun:
    """A run in files: of the workspace, or of a revision.

    Args:
        commit: None without git.
        is_workspace: read the files of the working tree, not those of the commit.
    """

    def __init__(self, label: str, commit: str | None, *, is_workspace: bool, reader: RunReader) -> None:
        self.label = label
        self._commit, self._is_workspace, self._reader = commit, is_workspace, reader

    def splits(self) -> list[str]:
        """The one split that its params.yaml names."""
        return [self._params()["evaluate"]["split"]]

    def evaluated(self, split: str) -> EvaluatedSplit:
        """Read the split and the detections."""
        with self._file(f"data/prepared/{split}.json") as truth, self._file(DETECTIONS) as results:
            recorded = self._json(REPORT)
            return EvaluatedSplit(read_json(truth), read_results(results), recorded.get("AP"))

    def origin(self) -> Origin:
        """Read from its files; the environment from MLflow."""
        with self._file("data/prepared/train.json") as train:
            train_data = digest_file(train)
        changes = (
            revisions.git("status", "--porcelain", "--untracked-files=all", "--", *SOURCES)
            if self._is_workspace
            else ""
        )
        params = {key: as_param(value) for key, value in flatten(self._params()).items()}
        return Origin(params, self._environment(), train_data=train_data, commit=self._commit, changes=changes or None)

    def _environment(self) -> Mapping[str, str]:
        digest = self._json(TRAINING).get("run")
        twins = [run for run in self._reader.all() if digest and run.tags.get("run_digest") == digest]
        trained = [run for run in twins if run.tags.get("kind") != "evaluate"]  # that one may have run elsewhere
        return environment_of(trained[0]) if trained else {}

    def _params(self) -> dict[str, Any]:
        with self._file("params.yaml") as path:
            content: dict[str, Any] = parse_yaml(
                path.read_text(encoding="utf-8"), source=f"params.yaml of {self.label}"
            )
        return content

    def _json(self, name: str) -> dict[str, Any]:
        with self._file(name) as path:
            content: dict[str, Any] = read_json(path)
        return content

    @contextmanager
    def _file(self, name: str) -> Iterator[Path]:
        if self._is_workspace:
            yield Path(name)
            return
        assert self._commit is not None
        with tempfile.TemporaryDirectory() as folder:
            yield revisions.fetch(name, self._commit, Path(folder) / Path(name).name)


class GivenRun:
    """A COCO results file of any detector, on the prepared splits of the workspace."""

    def __init__(self, path: Path) -> None:
        self.label = f"file {path}"
        self._path = path

    def splits(self) -> list[str]:
        """The prepared splits on which a detector is evaluated."""
        return [split for split in ("test", "val") if Path(f"data/prepared/{split}.json").is_file()]

    def evaluated(self, split: str) -> EvaluatedSplit:
        """Read the prepared split and the file."""
        truth = read_json(Path(f"data/prepared/{split}.json"))
        return EvaluatedSplit(truth, read_given_results(self._path, truth), None)

    def origin(self) -> Origin:
        """Nothing is known of it."""
        return Origin(params={})


def environment_of(stored: StoredRun) -> dict[str, str]:
    """Environment of a run, from its parameters and tags in MLflow."""
    conf = {key: text for key, text in stored.params.items() if key.startswith("conf.")}
    return conf | {key: stored.tags[key] for key in ENVIRONMENT if key in stored.tags}


def find_run(word: str) -> Run:
    """Find a run by `workspace`, a results file, an MLflow run's id, prefix or name, a DVC experiment or a revision.

    Raises:
        ValueError: when the name has no match, or more than one.
    """
    reader = RunReader()
    if word == WORKSPACE:
        return FileRun(WORKSPACE, revisions.resolve("HEAD"), is_workspace=True, reader=reader)
    if word.endswith((".json", ".json.gz")):
        return GivenRun(Path(word))
    kind, _, name = word.partition(":")
    if kind not in ("mlflow", "git") or not name:
        kind, name = "", word
    stored = [] if kind == "git" else reader.find(name)
    commit = None if kind == "mlflow" else revisions.resolve(name)
    if stored and commit:
        raise ValueError(f"{name} is both an MLflow run and a git or DVC revision; write mlflow:{name} or git:{name}")
    if len(stored) > 1:
        raise ValueError(f"{len(stored)} MLflow runs are named {name}: {listing(stored)}; give one of these ids")
    if stored:
        return TrackedRun(reader, stored[0])
    if commit:
        return FileRun(f"revision {name} ({commit[:8]})", commit, is_workspace=False, reader=reader)
    raise ValueError(unknown(name, reader))


def listing(runs: list[StoredRun]) -> str:
    """List the first ids, newest first."""
    return ", ".join(run.run_id[:8] for run in runs[:5]) + (", .." if len(runs) > 5 else "")


def unknown(word: str, reader: RunReader) -> str:
    """An error message with the nearest known names."""
    runs = reader.all()
    ids = {run.run_id[: max(len(word), MIN_PREFIX)]: run.run_id[:8] for run in runs}
    names = {name: name for name in [*(run.name for run in runs), *revisions.known_names(), WORKSPACE]}
    near = dict.fromkeys((ids | names)[text] for text in difflib.get_close_matches(word, ids | names, n=3, cutoff=0.4))
    hint = f"the nearest are {', '.join(near)}" if near else f"the newest run is {listing(runs[:1])}" if runs else ""
    expected = (
        "an MLflow run (id, its first 6 characters or more, or name), a DVC experiment, a git revision, workspace, or "
        "a results file (.json or .json.gz)"
    )
    return f"{word} is not a known run; expected {expected}; {hint or f'{reader.address} has no runs'}"
