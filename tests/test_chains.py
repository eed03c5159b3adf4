"""What the imports between rooms add up to: who stands between two commands, and how long a chain becomes."""

from __future__ import annotations

from functools import cache

from tests.test_house import COMMANDS, PACKAGES, STAGES, demand_none, graph, is_within, room_path

# A sweep skips settings whose anchors cover too little ground truth, and diagnose looks for boxes without anchors; this
# stage computes the coverage.
SHARED = {("pipeline.sweep", "pipeline.anchor_stats"), ("pipeline.diagnose", "pipeline.anchor_stats")}
MAX_CHAIN = {"retinanet": 3, "pipeline": 7}  # rooms, each of which imports the next


def test_commands_import_no_stage_and_no_other_command() -> None:
    entries = {f"pipeline.{name}" for name in (*STAGES, *COMMANDS)}
    demand_none(
        f"{room_path(room)} imports {other}; what both need belongs into a room below them"
        for room, others in sorted(graph().items())
        if room != "pipeline.__main__"  # calls all others
        for other in sorted(others & entries)
        if (room, other) not in SHARED
    )


def test_no_chain_of_imports_between_rooms_is_longer_than_those_of_today() -> None:
    chains = {package: max((chain(r) for r in graph() if is_within(r, package)), key=len) for package in PACKAGES}
    demand_none(
        f"{' > '.join(rooms)} has {len(rooms)} rooms, at most {MAX_CHAIN[package]}"
        for package, rooms in chains.items()
        if len(rooms) > MAX_CHAIN[package]
    )


@cache
def chain(room: str) -> tuple[str, ...]:
    """The longest chain of imports that starts at a room."""
    return room, *max((chain(other) for other in graph().get(room, set()) - set(PACKAGES)), key=len, default=())
