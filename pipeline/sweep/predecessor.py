"""Resume a sweep that was started with other code, if conf/ says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.runs.fingerprint import format_changes
from pipeline.runs.predecessor import names_like
from pipeline.runs.sweep_folder import SweepFolder


def choose_sweep(sweeps: str, name: str, code: Mapping[str, str], *, resume_earlier: bool) -> str:
    """Return the sweep of that name, else with `resume_earlier` the newest with the same parameters and data.

    Prints which sweep it resumes or ignores.

    Args:
        sweeps: folder or URL of all sweeps.
        code: from pipeline.runs.fingerprint.describe_code.
    """
    if SweepFolder(f"{sweeps}/{name}").read("sweep.json") is not None:
        return name
    plans = {other: SweepFolder(f"{sweeps}/{other}").read_json("sweep.json") for other in names_like(sweeps, name)}
    begun = {other: plan for other, plan in plans.items() if plan is not None}
    if not begun:
        return name
    newest = max(begun, key=lambda other: begun[other]["begun"])
    changes = format_changes(begun[newest].get("code", {}), code)
    if resume_earlier:
        print(f"sweep {newest} has the same parameters and data: resuming it (resume: always in conf/)", flush=True)
        return newest
    print(
        f"sweep {name} starts at its first trial: sweep {newest} has the same parameters and data, but its code "
        f"differs ({changes}); to resume it, stop this and set resume: always in conf/",
        flush=True,
    )
    return name


def note_code(plan: Mapping[str, Any], code: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of sweep.json, with the current code; warn if some trials ran with other code."""
    first = plan.get("code", dict(code))
    changes = format_changes(first, code)
    all_changes = sorted({*plan.get("other_code", []), *([changes] if changes else [])})
    if all_changes:
        print(
            f"warning: the trials of this sweep ran different versions of the code; changed: {'; '.join(all_changes)}",
            flush=True,
        )
    return {**plan, "code": first, "other_code": all_changes}
