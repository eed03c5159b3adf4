"""The passes of a step as a CUDA graph: one launch instead of more than a thousand (torch's notes on CUDA graphs).

A graph repeats its kernels with the addresses, shapes and numbers of its recording. So whatever differs between batches
has to be in its inputs, and their shapes have to be equal. Gradients are its outputs, and the optimiser stays outside:
its rate, the clipping and the skipping of steps are decided in Python, and it is a few kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from retinanet.data.dataset import pinned
from retinanet.losses.fixed_shapes import FixedShapes

WARM_UP = 3  # steps before the recording, in which cuDNN chooses its algorithms and Triton compiles

Passes = Callable[[], Tensor]


class StepGraph:
    """Runs the passes of the first steps, then records them once and replays the recording.

    Inputs of other shapes begin anew; on a CPU nothing is recorded.

    Attributes:
        shapes: to which assignments are padded.
        inputs: on the device, whose values are those of the last step.
        replays: steps that were replayed.
    """

    def __init__(self, network: nn.Module) -> None:
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.device = self.parameters[0].device
        self.shapes = FixedShapes()
        self.replays = 0
        # torch advises to warm up on the stream of the recording, so that no library has to start while it is made.
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.inputs: list[Tensor] = []
        self._steps = 0
        self._replay: Passes | None = None

    def __call__(self, passes: Callable[[Sequence[Tensor]], Tensor], inputs: Sequence[Tensor]) -> Tensor:
        """Compute the gradients of a step, which has none before.

        Args:
            passes: from the inputs on the device to the losses, with backward; it reads nothing else that differs
                between steps, and waits for nothing.
            inputs: on the CPU or the device.

        Returns:
            The losses; the gradients belong to the graph, and the next step overwrites them.
        """
        if [tensor.shape for tensor in inputs] != [tensor.shape for tensor in self.inputs]:
            self.inputs = [torch.empty_like(tensor, device=self.device) for tensor in inputs]
            self._steps, self._replay = 0, None
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(pinned(given) if self.device.type == "cuda" else given, non_blocking=True)
        self._steps += 1
        if self._steps <= WARM_UP or not is_recorded_on(self.device):
            return run_on_stream(lambda: passes(self.inputs), self._stream)
        if self._replay is None:
            self._replay = record(lambda: passes(self.inputs), self.parameters, self._stream)
        self.replays += 1
        return self._replay().clone()


def is_recorded_on(device: torch.device) -> bool:
    """Whether the passes are recorded on a device."""
    return device.type == "cuda"


def record(passes: Passes, parameters: Sequence[nn.Parameter], stream: torch.cuda.Stream | None) -> Passes:
    """Record the passes without running them; returns what runs them and sets the gradients of the parameters."""
    graph = torch.cuda.CUDAGraph()
    # Other threads pin the next batches meanwhile, which the default mode refuses.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        losses = passes()
    gradients = [parameter.grad for parameter in parameters]

    def replay() -> Tensor:
        graph.replay()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return losses

    return replay


def run_on_stream(passes: Passes, stream: torch.cuda.Stream | None) -> Tensor:
    """Run the passes on another stream than the current one, in order with it; None: on the current one."""
    if stream is None:
        return passes()
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        losses = passes()
    current.wait_stream(stream)
    return losses
