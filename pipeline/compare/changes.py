"""Differences between two runs: parameters, data, code, and the environment in which they ran."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.compare.revisions import git
from pipeline.compare.runs import Origin
from pipeline.tracking.provenance import CODE

Change = tuple[str | None, str | None]
"""Values in A and in B; None if the run has none."""


def differing(a: Mapping[str, str], b: Mapping[str, str]) -> dict[str, Change]:
    """Entries whose values differ, or that only one run has."""
    return {name: (a.get(name), b.get(name)) for name in sorted({*a, *b}) if a.get(name) != b.get(name)}


def describe_changes(a: Origin, b: Origin) -> dict[str, Any]:
    """Changed parameters and environment by name; sentences on data and code."""
    environment = (
        differing(a.environment, b.environment) if a.environment and b.environment else None
    )  # None: not known
    return {
        "params": differing(a.params, b.params) if a.params and b.params else None,
        "data": compare_data(a.train_data, b.train_data),
        "code": compare_code(a, b),
        "environment": environment,
    }


def compare_data(a: str | None, b: str | None) -> str:
    """State whether both runs were trained on the same prepared split."""
    if a is None or b is None:
        return "unknown: no digest of the train split"
    return f"the same train split ({a[:12]})" if a == b else f"train split {a[:12]} -> {b[:12]}"


def compare_code(a: Origin, b: Origin) -> str:
    """Differences in code by `git diff --stat`, if both commits are in this repository."""
    sentences = [compare_commits(a.commit, b.commit)]
    for name, origin in (("A", a), ("B", b)):
        if origin.changes:
            sentences.append(f"{name} had uncommitted changes:\n{origin.changes}")
    return "\n".join(sentences)


def compare_commits(a: str | None, b: str | None) -> str:
    """Differences in code between two commits."""
    if a is None or b is None:
        return "unknown: a run without a commit"
    if a == b:
        return f"the same commit ({a[:8]})"
    step = f"{a[:8]} -> {b[:8]}"
    missing = [commit[:8] for commit in (a, b) if git("cat-file", "-e", f"{commit}^{{commit}}") is None]
    if missing:
        return f"{step}; this repository does not have {' and '.join(missing)} (git fetch)"
    stat = git("diff", "--stat", a, b, "--", *(f":/{path}" for path in CODE))
    return f"{step}\n{stat}" if stat else f"{step}, with no difference in {', '.join(CODE)}"
