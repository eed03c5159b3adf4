"""Laws of the cluster's model: what is counted is right, and more of anything good never harms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.cluster_model import (
    BUCKET_BYTES,
    Cluster,
    all_reduce_s,
    compute_s,
    efficiency,
    exposed_s,
    fill_buckets,
)
from bench.workload import Part, Workload, count_workload
from pipeline.params import load_params

PRESET = Path(__file__).resolve().parents[2] / "presets/coco_r50_1x.yaml"
# Two parts that each fill a bucket, 1 TFLOP forward and 2 backward: on 1 TFLOP/s and with one image 1 s and 2 s.
PARAMETERS = BUCKET_BYTES // 4
WORKLOAD = Workload("two parts", 10**12, 2 * 10**12, [Part(PARAMETERS, 0.75), Part(PARAMETERS, 0.25)])
SLOW = Cluster(8, 100, tflops=1.0, images=1)

clusters = st.builds(
    Cluster,
    gpus=st.sampled_from([2, 8, 16, 64, 512]),
    gbits=st.floats(0.1, 1000),
    tflops=st.floats(1, 2000),
    images=st.integers(1, 32),
    accumulation=st.integers(1, 8),
    hierarchical=st.booleans(),
    gradient_bytes=st.sampled_from([2, 4]),
)


@pytest.fixture(scope="module")
def resnet50() -> Workload:
    return count_workload(load_params(PRESET), "resnet50")


# ---- what is counted -------------------------------------------------------------------------------------------------


def test_gradients_of_resnet50_are_its_trained_parameters_by_hand(resnet50: Workload) -> None:
    def bottlenecks(width: int, coming: int, blocks: int) -> int:  # 1x1, 3x3, 1x1 to 4 x width; norms are frozen
        first = coming * width + 9 * width * width + width * 4 * width + coming * 4 * width  # with the projection
        others = 4 * width * width + 9 * width * width + width * 4 * width
        return first + (blocks - 1) * others

    backbone = bottlenecks(128, 256, 4) + bottlenecks(256, 512, 6) + bottlenecks(512, 1024, 3)  # stem and C2 are frozen
    laterals = (512 + 1024 + 2048) * 256 + 3 * 256
    outputs = 4 * (9 * 256 * 256 + 256) + 9 * 2048 * 256 + 256  # P3, P4, P5, P7; P6 sees C5
    towers = 2 * 4 * (9 * 256 * 256 + 256)
    heads = 9 * 256 * (9 * 80 + 9 * 4) + 9 * 80 + 9 * 4
    assert resnet50.parameters == backbone + laterals + outputs + towers + heads == 37_693_172


def test_backward_of_trained_layers_costs_twice_their_forward(resnet50: Workload) -> None:
    # Frozen stem and C2 have no backward pass: it lies between that of the rest and twice the whole forward pass.
    assert 1.5 * resnet50.forward_flops < resnet50.backward_flops < 2 * resnet50.forward_flops
    assert sum(part.backward_share for part in resnet50.parts) == pytest.approx(1)


def test_buckets_hold_every_gradient_once_and_in_order(resnet50: Workload) -> None:
    buckets = fill_buckets(resnet50.parts)
    assert sum(size for _, size in buckets) == 4 * resnet50.parameters
    assert [ready for ready, _ in buckets] == sorted(ready for ready, _ in buckets)
    assert buckets[-1][0] == pytest.approx(1)


# ---- numbers by hand -------------------------------------------------------------------------------------------------


def test_ring_of_two_nodes_by_hand() -> None:
    # 16 GPUs, 8 Gb/s = 1 GB/s: 2 * 15/16 * 1.6 GB = 3 GB take 3 s; 2 * (2 * 10 us + 14 * 2 us) = 96 us of latency.
    assert all_reduce_s(1.6e9, Cluster(16, 8)) == pytest.approx(3 + 96e-6)


def test_sum_inside_the_nodes_first_by_hand() -> None:
    # Inside 2 * 7/8 * 1.2 GB over 300 GB/s = 7 ms, outside 2 * 1.2 GB over 1 GB/s; 2 * (1 * 10 us + 7 * 2 us) = 48 us.
    assert all_reduce_s(1.2e9, Cluster(16, 8, hierarchical=True)) == pytest.approx(2.4 + 0.007 + 48e-6)


def test_backward_hides_all_buckets_but_the_last() -> None:
    # The first is ready after 1.5 s of 2 s and arrives before the end; the second is ready at the end: all of it shows.
    assert compute_s(WORKLOAD, SLOW) == pytest.approx((1, 2))
    assert exposed_s(WORKLOAD, SLOW) == pytest.approx(all_reduce_s(BUCKET_BYTES, SLOW))


def test_bucket_waits_for_the_one_before_it() -> None:
    # So slow a link that the first is still on its way when the second is ready: from 1.5 s on both, one by one.
    cluster = replace(SLOW, gpus=16, gbits=0.1)
    assert exposed_s(WORKLOAD, cluster) == pytest.approx(1.5 + 2 * all_reduce_s(BUCKET_BYTES, cluster) - 2)


# ---- laws ------------------------------------------------------------------------------------------------------------


@given(clusters)
def test_one_gpu_has_efficiency_one(cluster: Cluster) -> None:
    assert efficiency(WORKLOAD, replace(cluster, gpus=1)) == 1


@given(clusters, st.floats(1, 100))
def test_more_bandwidth_never_lowers_efficiency(cluster: Cluster, factor: float) -> None:
    faster = replace(cluster, gbits=factor * cluster.gbits)
    assert efficiency(WORKLOAD, faster) >= efficiency(WORKLOAD, cluster)


@given(clusters)
def test_more_gpus_are_never_more_efficient(cluster: Cluster) -> None:
    eight, many, most = (efficiency(WORKLOAD, replace(cluster, gpus=n)) for n in (8, 64, 512))
    assert 1 >= eight >= many >= most > 0


@given(clusters)
@settings(max_examples=50)
def test_more_images_accumulation_and_smaller_gradients_never_harm(cluster: Cluster) -> None:
    before = efficiency(WORKLOAD, cluster)
    better = [{"images": 2 * cluster.images}, {"accumulation": 2 * cluster.accumulation}, {"gradient_bytes": 2}]
    assert all(efficiency(WORKLOAD, replace(cluster, **change)) >= before - 1e-12 for change in better)


@given(clusters)
@settings(max_examples=50)
def test_faster_gpu_waits_for_a_larger_share(cluster: Cluster) -> None:
    assert efficiency(WORKLOAD, replace(cluster, tflops=2 * cluster.tflops)) <= efficiency(WORKLOAD, cluster) + 1e-12
