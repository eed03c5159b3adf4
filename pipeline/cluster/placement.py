"""Nodes on which workers may run: by type of GPU and by Ray's label selectors; what they offer, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray

ACCELERATOR = "accelerator_type:"  # start of the resource that Ray gives to the nodes with a type of GPU


def offered(accelerator_type: str | None, labels: Mapping[str, str]) -> dict[str, float]:
    """Return the resources of the nodes on which workers may run, summed over the nodes."""
    if accelerator_type is None and not labels:
        everything: dict[str, float] = ray.cluster_resources()
        return everything
    total: dict[str, float] = {}
    for node in ray.nodes():
        if node["Alive"] and is_suitable(node, accelerator_type, labels):
            for kind, count in node["Resources"].items():
                total[kind] = total.get(kind, 0) + count
    return total


def is_suitable(node: Mapping[str, Any], accelerator_type: str | None, labels: Mapping[str, str]) -> bool:
    """Return whether a node of ray.nodes() has the type of GPU and all labels."""
    has_type = accelerator_type is None or f"{ACCELERATOR}{accelerator_type}" in node["Resources"]
    there = node.get("Labels") or {}
    return has_type and all(is_selected(selector, there.get(key)) for key, selector in labels.items())


def is_selected(selector: str, value: str | None) -> bool:
    """Return whether a label satisfies Ray's selector: `a`, `!a`, `in(a, b)` or `!in(a, b)`.

    Args:
        value: of the label; None where a node does not have it.
    """
    names = selector.removeprefix("!").removeprefix("in").strip("()") if "(" in selector else selector.removeprefix("!")
    return (value in [name.strip() for name in names.split(",")]) != selector.startswith("!")


def words(accelerator_type: str | None, labels: Mapping[str, str]) -> str:
    """Format what chooses the nodes, as conf/ has it."""
    chosen = [] if accelerator_type is None else [f"accelerator_type {accelerator_type}"]
    return " and ".join([*chosen, *(f"label {key}: {selector}" for key, selector in labels.items())])


def there_are(accelerator_type: str | None, labels: Mapping[str, str]) -> str:
    """List the types of GPU and the values of these labels that the living nodes have."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    types = {kind.removeprefix(ACCELERATOR) for node in nodes for kind in node["Resources"] if ACCELERATOR in kind}
    found = {} if accelerator_type is None else {"types": types}
    found |= {key: {(node.get("Labels") or {}).get(key) for node in nodes} - {None} for key in labels}
    return "; ".join(f"{key} there: {', '.join(sorted(values)) or 'none'}" for key, values in found.items())


def bundle(cpus: int, gpus: float, accelerator_type: str | None = None) -> dict[str, float]:
    """Return the resources of one worker, as Ray names them."""
    return (
        {"CPU": cpus}
        | ({"GPU": gpus} if gpus else {})
        | ({f"{ACCELERATOR}{accelerator_type}": 0.001} if accelerator_type else {})  # as Ray Train and ray.remote do
    )
