"""How float32 is convolved: torch's flags as a network finds them; what a GPU does with them only a GPU shows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from retinanet.data.dataset import EvaluationBatches
from retinanet.data.splits import Split, load_split
from retinanet.inference.postprocess import Postprocess
from retinanet.inference.predict import predict
from retinanet.network.model import recompute_activations
from retinanet.network.precision import convolving_float32, read_flags, write_flags
from retinanet.training.state import TrainingState
from tests.small_world import SmallWorld
from tests.tiny_training import CPU, GRID, MEAN, STD, TRANSFORMS, batches_from, build_state, tiny_network, train_step

IEEE, TF32 = ("ieee", "ieee"), ("tf32", "ieee")


@pytest.fixture
def split(small_world: SmallWorld) -> Split:
    return load_split(small_world.train)


@pytest.fixture(autouse=True)
def _flags_as_before() -> Iterator[None]:
    before = read_flags()
    yield
    write_flags(before)


def record_flags(network: nn.Module) -> dict[str, set[tuple[str, str]]]:
    """The flags that the forward and the backward pass of a network's pyramid meet, as they run."""
    met: dict[str, set[tuple[str, str]]] = {"forward": set(), "backward": set()}

    def forward(module: nn.Module, inputs: object, outputs: list[Tensor]) -> None:
        met["forward"].add(read_flags())
        if outputs[0].requires_grad:
            outputs[0].register_hook(lambda gradient: met["backward"].add(read_flags()))

    network.pyramid.register_forward_hook(forward)  # type: ignore[union-attr]
    return met


def detect_on(network: nn.Module, split: Split) -> list[object]:
    batches = [EvaluationBatches(split, TRANSFORMS)[0]]
    return list(predict(network, Postprocess(GRID, 3), batches, mean=MEAN, std=STD, device=CPU))


@pytest.mark.parametrize("around", ["tf32", "ieee"])
def test_detecting_convolves_in_ieee_float32_whatever_is_set(split: Split, around: str) -> None:
    network = tiny_network()
    met = record_flags(network)
    torch.backends.cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = around
    assert detect_on(network, split)
    assert met["forward"] == {IEEE}
    assert read_flags() == (around, around)


@pytest.mark.parametrize(("precision", "expected"), [("fp32", IEEE), ("tf32", TF32), ("bf16", IEEE), ("fp16", IEEE)])
def test_a_step_convolves_float32_as_its_precision_says_forward_and_backward(
    split: Split, precision: str, expected: tuple[str, str]
) -> None:
    state, before = build_state(precision=precision, images_per_step=2), read_flags()
    met = record_flags(state.network)
    step(state, split)
    assert met == {"forward": {expected}, "backward": {expected}}
    assert read_flags() == before


def test_activations_that_are_computed_again_are_computed_at_the_same_precision(split: Split) -> None:
    network = tiny_network()
    met = record_flags(network)
    network.backbone.stages[0].register_forward_hook(lambda *_: met["forward"].add(read_flags()))  # type: ignore[union-attr,index]
    recompute_activations(network)
    step(build_state(network, precision="tf32"), split)
    assert met == {"forward": {TF32}, "backward": {TF32}}


def test_validation_within_a_training_in_tf32_is_ieee_float32_and_the_training_goes_on_in_tf32(split: Split) -> None:
    state = build_state(precision="tf32")
    met = record_flags(state.network)
    seen = []
    for act in (step, lambda state, split: detect_on(state.inference_network, split), step):
        act(state, split)
        seen.append(set(met["forward"]))
        met["forward"].clear()
    assert seen == [{TF32}, {IEEE}, {TF32}]


def step(state: TrainingState, split: Split) -> None:
    train_step(state, next(batches_from(split)(0, 0)))


def test_flags_are_put_back_after_an_error() -> None:
    before = read_flags()
    with pytest.raises(RuntimeError, match="in the middle"), convolving_float32("ieee"):
        raise RuntimeError("in the middle")
    assert read_flags() == before


def test_the_innermost_wish_holds() -> None:
    write_flags(("none", "none"))
    with convolving_float32("tf32"):
        with convolving_float32("ieee"):
            assert read_flags() == IEEE
        assert read_flags() == TF32
    assert read_flags() == ("none", "none")


def test_one_of_several_threads_that_leaves_takes_nothing_from_the_others() -> None:
    # As in a server that detects in two threads: the first to come is the first to go.
    write_flags(("tf32", "tf32"))
    first, second = convolving_float32("ieee"), convolving_float32("ieee")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert read_flags() == IEEE
    second.__exit__(None, None, None)
    assert read_flags() == ("tf32", "tf32")


def test_float32_on_the_cpu_is_the_same_inside() -> None:
    generator = torch.Generator().manual_seed(1)
    images, weights = (torch.randn(shape, generator=generator) for shape in ((2, 3, 16, 16), (4, 3, 3, 3)))
    outside = nn.functional.conv2d(images, weights)
    with convolving_float32("tf32"):
        assert torch.equal(nn.functional.conv2d(images, weights), outside)
