"""What a cluster's network lets through: predicted efficiency of training on 8 to 512 GPUs, from bytes and FLOPs.

    python -m bench.cluster_model                             # the tables of docs/scaling.md
    python -m bench.cluster_model --tflops 100 --gbits 10 50  # another GPU, another network

Counted: the gradients of a backbone with the paper's heads (float32), and the operations of a forward and backward pass
(torch's FlopCounterMode on meta tensors). Assumed, each with its option: how fast a GPU does them, bandwidth and
latency of the links. Not in the model: reading pictures, the optimiser, and workers that wait for the slowest.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.workload import Part, Workload, count_workload
from pipeline.params import load_params
from retinanet.network.backbone import BACKBONES

REPOSITORY = Path(__file__).resolve().parents[1]
BUCKET_BYTES = 25 * 2**20  # DistributedDataParallel's own, bucket_cap_mb
# What 300 images/s on each GPU take: the published rate of the MLPerf Training v4.0 run on 8 H200, with fused kernels;
# ResNeXt-50, 800 x 800, 264 classes, stem and C2 frozen: 1.31 TFLOP an image. Slower code waits less for the network.
RECORD_TFLOPS = 400.0


@dataclass(frozen=True)
class Cluster:
    """GPUs, what lies between them, and how they are used.

    Attributes:
        gbits: of a link of a node, one way; the GPUs of a node share its links.
        tflops: that a GPU sustains.
        images: of a GPU at once; accumulation takes so many of these for one step.
        hop_us, nvlink_hop_us: latency from a GPU to the next, in another node or in its own.
        hierarchical: sum inside the nodes first, then over a tree of nodes; else one ring through all GPUs.
        gradient_bytes: 4 for float32, 2 where a hook compresses to bfloat16.
    """

    gpus: int
    gbits: float
    tflops: float = RECORD_TFLOPS
    images: int = 2
    accumulation: int = 1
    gpus_per_node: int = 8
    links_per_node: int = 1
    nvlink_gbytes: float = 300.0
    hop_us: float = 10.0
    nvlink_hop_us: float = 2.0
    hierarchical: bool = False
    gradient_bytes: int = 4

    @property
    def nodes(self) -> int:
        """A node is filled before the next is begun."""
        return math.ceil(self.gpus / self.gpus_per_node)


# ---- the model -------------------------------------------------------------------------------------------------------


def efficiency(workload: Workload, cluster: Cluster) -> float:
    """The time of a step on one GPU over that on all, each GPU with the same images."""
    alone = cluster.accumulation * sum(compute_s(workload, cluster))
    return alone / (alone + normaliser_s(cluster) + exposed_s(workload, cluster))


def compute_s(workload: Workload, cluster: Cluster) -> tuple[float, float]:
    """Seconds of the forward and of the backward pass of a GPU's images."""
    per_flop = cluster.images / (cluster.tflops * 1e12)
    return workload.forward_flops * per_flop, workload.backward_flops * per_flop


def normaliser_s(cluster: Cluster) -> float:
    """The sum of one number over all GPUs, before the forward pass: latency alone, over a tree."""
    return latency_s(replace(cluster, hierarchical=True))


def exposed_s(workload: Workload, cluster: Cluster) -> float:
    """What of the all-reduce the backward pass does not hide.

    DistributedDataParallel fills buckets in the order of the backward pass. A bucket travels when it is full and the
    one before it has arrived; with accumulation, only beside the backward pass of the last images.
    """
    backward = compute_s(workload, cluster)[1]
    arrived = 0.0
    for ready_share, size in fill_buckets(workload.parts):
        arrived = max(arrived, ready_share * backward) + all_reduce_s(size * cluster.gradient_bytes / 4, cluster)
    return max(0.0, arrived - backward)


def fill_buckets(parts: Iterable[Part]) -> list[tuple[float, int]]:
    """Each bucket's time, as a share of the backward pass, and its bytes in float32."""
    buckets, done, waiting = [], 0.0, 0
    for part in parts:
        done, waiting = done + part.backward_share, waiting + 4 * part.parameters
        while waiting >= BUCKET_BYTES:
            buckets.append((done, BUCKET_BYTES))
            waiting -= BUCKET_BYTES
    return [*buckets, (1.0, waiting)] if waiting else buckets


def all_reduce_s(size: float, cluster: Cluster) -> float:
    """Seconds to sum so many bytes over all GPUs, nothing beside it.

    A ring passes 2 (n - 1) / n of the bytes over every link, also where it is slowest. The hierarchical sum does so in
    each node, and takes the bytes once up and once down the tree of nodes.
    """
    n, nodes = cluster.gpus, cluster.nodes
    nvlink = cluster.nvlink_gbytes * 1e9
    link = min(cluster.links_per_node * cluster.gbits * 1e9 / 8, nvlink)
    local = min(n, cluster.gpus_per_node)
    if nodes > 1 and cluster.hierarchical:
        seconds = 2 * (local - 1) / local * size / nvlink + 2 * size / link
    else:
        seconds = 2 * (n - 1) / n * size / (link if nodes > 1 else nvlink)
    return seconds + latency_s(cluster)


def latency_s(cluster: Cluster) -> float:
    """Of one all-reduce: the hops that a number makes, there and back."""
    local = min(cluster.gpus, cluster.gpus_per_node)
    if cluster.nodes == 1:
        hops, local_hops = 0, local - 1
    elif cluster.hierarchical:
        hops, local_hops = math.ceil(math.log2(cluster.nodes)), local - 1
    else:
        hops, local_hops = cluster.nodes, cluster.gpus - cluster.nodes
    return 2e-6 * (hops * cluster.hop_us + local_hops * cluster.nvlink_hop_us)


# ---- tables ----------------------------------------------------------------------------------------------------------

CHANGES: dict[str, dict[str, Any]] = {
    "as it stands": {},
    "gradients travel as bfloat16": {"gradient_bytes": 2},
    "inside the nodes first": {"hierarchical": True},
    "accumulation over 4": {"accumulation": 4},
    "16 images on each GPU": {"images": 16},
    "a link for each of a node's 8 GPUs": {"links_per_node": 8},
    "bfloat16, inside the nodes first": {"gradient_bytes": 2, "hierarchical": True},
    "bfloat16, inside first, 16 images": {"gradient_bytes": 2, "hierarchical": True, "images": 16},
    "bfloat16, inside first, 8 links": {"gradient_bytes": 2, "hierarchical": True, "links_per_node": 8},
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", type=Path, default=REPOSITORY / "presets/coco_r50_1x.yaml")
    parser.add_argument("--tflops", type=float, default=RECORD_TFLOPS, help="ASSUMED: what a GPU sustains")
    parser.add_argument("--gbits", type=float, nargs="+", default=[25, 100, 200, 400], help="of a node's link")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--images", type=int, nargs="+", default=[2, 16], help="on each GPU")
    parser.add_argument("--hop-us", type=float, default=Cluster.hop_us, help="ASSUMED: latency between nodes")
    parser.add_argument("--nvlink-gbytes", type=float, default=Cluster.nvlink_gbytes, help="ASSUMED: inside a node")
    options = parser.parse_args()
    try:
        params = load_params(options.preset)
    except ValueError as error:
        raise SystemExit(f"cluster_model: {error}") from None
    workloads = [count_workload(params, name) for name in BACKBONES]
    own = next(workload for workload in workloads if workload.backbone == params.model.backbone)
    basis = Cluster(
        1, options.gbits[0], tflops=options.tflops, hop_us=options.hop_us, nvlink_gbytes=options.nvlink_gbytes
    )
    print(workload_table(workloads, basis, options.images))
    print(all_reduce_table(own, basis, options.gbits, options.gpus))
    print(efficiency_table(own, basis, options.gbits, options.gpus, options.images))
    many, most = replace(basis, gpus=64), replace(basis, gpus=512)
    speeds = [basis.tflops / divisor for divisor in (1, 2, 4, 8)]
    by_speed = [(f"{speed:g} TFLOP/s", own, replace(many, tflops=speed)) for speed in speeds]
    by_backbone = [(load.backbone, load, many) for load in workloads]
    by_change = [(name, own, replace(most, **change)) for name, change in CHANGES.items()]
    case = f"{basis.images} images on each of"
    print(bandwidth_table(f"{own.backbone}, {case} 64 GPUs", by_speed, options.gbits))
    print(bandwidth_table(f"{case} 64 GPUs", by_backbone, options.gbits))
    print(bandwidth_table(f"{own.backbone}, {case} 512 GPUs", by_change, options.gbits))


def workload_table(workloads: Sequence[Workload], basis: Cluster, images: Sequence[int]) -> str:
    """What each backbone sends and computes."""
    steps = [f"step of {count} images" for count in images]
    rows = []
    for load in workloads:
        times = [1e3 * sum(compute_s(load, replace(basis, images=count))) for count in images]
        flops = (load.forward_flops + load.backward_flops) / 1e12
        size = f"{load.parameters / 1e6:.1f} M", f"{4 * load.parameters / 1e6:.0f} MB"
        rows.append([load.backbone, *size, f"{flops:.2f}", *(f"{time:.1f} ms" for time in times)])
    return markdown(["backbone", "trained", "gradients", "TFLOP per image", *steps], rows)


def all_reduce_table(load: Workload, basis: Cluster, gbits: Sequence[float], gpus: Sequence[int]) -> str:
    """Milliseconds of the whole gradient at once, as a ring and inside the nodes first."""
    rows = []
    for bandwidth in gbits:
        rings = [replace(basis, gpus=n, gbits=bandwidth) for n in gpus]
        pairs = [(ring, replace(ring, hierarchical=True)) for ring in rings]
        cells = [" / ".join(f"{1e3 * all_reduce_s(4 * load.parameters, c):.1f}" for c in pair) for pair in pairs]
        rows.append([f"{bandwidth:g} Gb/s", *cells])
    return markdown([f"all-reduce of {load.backbone}, ms", *(f"{n} GPUs" for n in gpus)], rows)


def efficiency_table(
    load: Workload, basis: Cluster, gbits: Sequence[float], gpus: Sequence[int], images: Sequence[int]
) -> str:
    """Of the preset's own network."""
    rows = []
    for count in images:
        for bandwidth in gbits:
            clusters = [replace(basis, gpus=n, gbits=bandwidth, images=count) for n in gpus]
            rows.append([str(count), f"{bandwidth:g} Gb/s", *(f"{efficiency(load, c):.2f}" for c in clusters)])
    return markdown([f"{load.backbone}, images per GPU", "link", *(f"{n} GPUs" for n in gpus)], rows)


def bandwidth_table(title: str, cases: Iterable[tuple[str, Workload, Cluster]], gbits: Sequence[float]) -> str:
    """The efficiency of each named case, a column per bandwidth."""
    rows = [
        [name, *(f"{efficiency(load, replace(cluster, gbits=bandwidth)):.2f}" for bandwidth in gbits)]
        for name, load, cluster in cases
    ]
    return markdown([title, *(f"{bandwidth:g} Gb/s" for bandwidth in gbits)], rows)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table and an empty line."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:], ""])


if __name__ == "__main__":
    main()
