"""Laws of the choice of nodes: type of GPU, labels and variables reach Ray's workers and trials, or are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.air.execution.resources.request

from pipeline.cluster import Resources, training, worker_environment
from pipeline.cluster.placement import is_selected, is_suitable, offered
from pipeline.cluster.start import check_resources
from pipeline.params.runtime import RuntimeConfig, load_runtime
from pipeline.sweep.tuning import most_at_once, trial_place

ROOT = Path(__file__).parents[2]
LABELS = {"ray.io/market-type": "!spot", "zone": "in(a, b)"}


def node(cpus: float, gpus: float, *, kind: str = "", alive: bool = True, **labels: str) -> dict[str, Any]:
    types = {f"accelerator_type:{kind}": 1.0} if kind else {}
    return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus, **types}, "Labels": labels}


NODES = [
    node(8, 0),
    node(16, 4, kind="H100", zone="a"),
    node(16, 4, kind="H100", zone="b"),
    node(16, 8, kind="A100", zone="b"),
    node(16, 8, kind="H100", zone="a", alive=False),
]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: NODES)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 56.0, "GPU": 16.0})


def asked(workers: int, **more: Any) -> Resources:
    options: dict[str, Any] = {"backend": "nccl", "max_failures": 0, "start_timeout_s": 1, **more}
    return Resources(workers, 4, 1, **options)


# ---- which nodes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "value", "selected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", None, False),
        ("!a", "a", False),
        ("!a", "b", True),
        ("!a", None, True),
        ("in(a, b)", "b", True),
        ("in(a,b)", "b", True),
        ("in(a, b)", "c", False),
        ("in(a, b)", None, False),
        ("!in(a, b)", "b", False),
        ("!in(a, b)", "c", True),
        ("inner", "inner", True),
    ],
)
def test_labels_are_selected_as_by_ray(selector: str, value: str | None, selected: bool) -> None:
    assert is_selected(selector, value) == selected


def test_all_labels_and_the_type_must_be_there() -> None:
    h100 = node(16, 4, kind="H100", zone="a", pool="big")
    assert is_suitable(h100, "H100", {"zone": "a", "pool": "big"})
    assert not is_suitable(h100, "H100", {"zone": "a", "pool": "small"})
    assert not is_suitable(h100, "A100", {"zone": "a"})
    assert is_suitable({"Resources": {}, "Labels": None}, None, {})


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("kind", "labels", "cpus", "gpus"),
    [(None, {}, 56, 16), ("H100", {}, 32, 8), ("H100", {"zone": "a"}, 16, 4), (None, {"zone": "b"}, 32, 12)],
)
def test_only_living_suitable_nodes_count(kind: str | None, labels: dict[str, str], cpus: float, gpus: float) -> None:
    there = offered(kind, labels)
    assert (there["CPU"], there["GPU"]) == (cpus, gpus)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        (
            asked(2, accelerator_type="L4"),
            "no node of the cluster has accelerator_type L4 (types there: A100, H100); change conf/ or add such nodes",
        ),
        (
            asked(2, accelerator_type="A100", labels={"zone": "a"}),
            "no node of the cluster has accelerator_type A100 and label zone: a (types there: A100, H100; zone there: "
            "a, b); change conf/ or add such nodes",
        ),
        (
            asked(2, labels={"pool": "big"}),
            "no node of the cluster has label pool: big (pool there: none); change conf/ or add such nodes",
        ),
        (
            asked(5, accelerator_type="H100", labels={"zone": "a"}),
            "5 workers with 4 CPU each need 20, but the nodes with accelerator_type H100 and label zone: a have 16; "
            "lower workers in conf/ or add nodes",
        ),
    ],
)
def test_choice_that_no_node_meets_is_a_sentence(resources: Resources, sentence: str) -> None:
    with pytest.raises(ValueError, match=r"cluster|nodes") as caught:
        check_resources(resources)
    assert str(caught.value) == sentence


@pytest.mark.usefixtures("cluster")
def test_choice_that_nodes_meet_is_accepted() -> None:
    check_resources(asked(4, accelerator_type="H100", labels={"zone": "a"}))
    check_resources(asked(8, accelerator_type="H100"))


# ---- what Ray gets ---------------------------------------------------------------------------------------------------


class GivenError(Exception):
    """Ends the training where Ray would begin it."""


def test_training_hands_type_labels_and_variables_to_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def trainer(fit: Any, **arguments: Any) -> None:
        given.update(arguments)
        raise GivenError

    monkeypatch.setattr(training, "Trainer", trainer)
    monkeypatch.setattr(training, "create_event_queue", lambda: None)
    monkeypatch.setattr(training, "driver_node", lambda: None)
    resources = asked(
        2, accelerator_type="H100", labels=LABELS, environment={"NCCL_DEBUG": "INFO", "OMP_NUM_THREADS": "2"}
    )
    for each in (resources, replace(resources, accelerator_type=None, labels={}, environment={})):
        with pytest.raises(GivenError):
            training.run_trainer(print, {}, resources=each, name="d1", storage=str(tmp_path), on_event=print)
        scaling = given["scaling_config"]
        assert scaling.accelerator_type == each.accelerator_type
        assert scaling.label_selector == (LABELS if each.labels else None)
        variables = given["run_config"].worker_runtime_env["env_vars"]
        assert variables == worker_environment(4, 1) | each.environment
    assert variables["OMP_NUM_THREADS"] == "4"


def test_trial_of_one_worker_is_placed_as_a_training_is(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Any, Any]] = []
    monkeypatch.setattr(
        ray.air.execution.resources.request,
        "placement_group",
        lambda bundles, *arguments, **options: given.append((bundles, options.get("bundle_label_selector"))),
    )
    resources = asked(1, accelerator_type="H100", labels=LABELS)
    for each in (resources, asked(1)):
        trial_place(each).to_placement_group()
    # What ray.train.ScalingConfig makes of an accelerator_type, too.
    assert given[0] == ([{"CPU": 4, "GPU": 1, "accelerator_type:H100": 0.001}], [LABELS])
    assert given[1] == ([{"CPU": 4, "GPU": 1}], None)


@pytest.mark.usefixtures("cluster")
def test_trials_at_once_are_those_that_fit_the_chosen_nodes() -> None:
    assert most_at_once(asked(1)) == 14  # 56 CPUs / 4
    assert most_at_once(asked(1, accelerator_type="H100")) == 8
    assert most_at_once(asked(1, accelerator_type="H100", labels={"zone": "a"})) == 4


# ---- conf/ -----------------------------------------------------------------------------------------------------------


def with_conf(**changes: Any) -> list[str]:
    content = load_runtime(ROOT / "conf/gpu.yaml").model_dump() | changes
    return RuntimeConfig.model_validate(content).check()


def test_keys_of_conf_reach_the_request() -> None:
    keys = {"accelerator_type": "H100", "labels": LABELS, "environment": {"NCCL_DEBUG": "INFO"}, "dashboard": True}
    runtime = RuntimeConfig.model_validate(load_runtime(ROOT / "conf/gpu.yaml").model_dump() | keys)
    resources = Resources.of(runtime)
    assert {name: getattr(resources, name) for name in keys} == keys
    assert runtime.check() == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"accelerator_type": "H100", "gpus_per_worker": 0, "backend": "gloo"},
            "accelerator_type is H100, but gpus_per_worker is 0; use null",
        ),
        (
            {"labels": {"zone": "a"}, "workers": [2, 4]},
            "labels choose nodes, but workers is [2, 4], and Ray counts nodes of an elastic run without a look at "
            "labels; use one number",
        ),
        ({"labels": {"zone": "in()"}}, "labels.zone is 'in()'; expected a label and a, !a, in(a, b) or !in(a, b)"),
        ({"labels": {"-zone": "a"}}, "labels.-zone is 'a'; expected a label and a, !a, in(a, b) or !in(a, b)"),
        (
            {"environment": {"AWS_SECRET_ACCESS_KEY": "abc"}},
            "environment.AWS_SECRET_ACCESS_KEY names a secret, which every run would store and show; set it in the "
            "environment of every node instead",
        ),
    ],
)
def test_what_ray_or_a_reader_would_stumble_over_is_refused(changes: dict[str, Any], sentence: str) -> None:
    assert with_conf(**changes) == [sentence]


def test_selectors_of_conf_are_those_of_ray() -> None:
    from ray._private.label_utils import validate_label_selector

    for selector in ("a", "!a", "in(a, b)", "!in(a,b)", "in()", "!!a", "a b", "-a", "in(a", "1.2_b-c"):
        is_rays = validate_label_selector({"ray.io/zone": selector}) is None
        assert (with_conf(labels={"ray.io/zone": selector}) == []) == is_rays, selector
