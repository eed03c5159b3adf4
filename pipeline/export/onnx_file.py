"""A detector as an ONNX file, for onnxruntime and whatever else runs ONNX."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from pipeline.export.check import Run
from pipeline.export.graph import INPUTS, OUTPUTS, DetectionGraph
from pipeline.export.suppression import class_wise_nms, onnx_translation
from retinanet.inference.detector import Detector

OPSET = 20
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
DIMENSIONS = ("batch", "height", "width")


def demand_packages() -> None:
    """Refuse where a package is missing.

    Raises:
        ValueError: with the command that installs it.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"--onnx needs {', '.join(PACKAGES)}, but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} "
            f"not installed; run: python -m pip install {' '.join(missing)}"
        )


def write_onnx(detector: Detector, path: Path, metadata: Mapping[str, str]) -> None:
    """Write network and post-processing as an ONNX file of opset 20, with dynamic batch, height and width."""
    import onnxscript

    # Both operands are non-negative, where ONNX's division of integers is the floor; the translation of torch corrects
    # its sign.
    floor = {torch.ops.aten.floor_divide.default: lambda first, second: onnxscript.opset20.Div(first, second)}
    with silent():
        program = torch.onnx.export(
            exported(DetectionGraph(detector, class_wise_nms)),
            custom_translation_table=onnx_translation(onnxscript.opset20) | floor,
            opset_version=OPSET,
            dynamo=True,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            verbose=False,
        )
    assert program is not None
    tidy(program.model)
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)


def exported(graph: DetectionGraph) -> torch.export.ExportedProgram:
    """Trace a graph with dynamic batch, height and width."""
    dynamic = torch.export.Dim.DYNAMIC
    # Large enough that no level has a side of 1, which would be taken for a constant.
    example = torch.zeros(2, 256, 384, 3, dtype=torch.uint8), torch.tensor([[250, 380], [256, 376]])
    with torch.no_grad():
        return torch.export.export(
            graph.eval(),
            example,
            dynamic_shapes=({0: dynamic, 1: dynamic, 2: dynamic}, {0: dynamic}),
            strict=False,
        )


def tidy(model: Any) -> None:
    """Name the dynamic dimensions, and drop what torch writes beside each node: names and lines of our source."""
    images = model.graph.inputs[0]
    names = {str(images.shape[axis]): name for axis, name in enumerate(DIMENSIONS)}
    for value in (*model.graph.inputs, *model.graph.outputs):
        for axis, size in enumerate(value.shape):
            value.shape[axis] = names.get(str(size), size)
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            if not value.is_graph_output():
                value.shape = None  # they name torch's symbols, and are inferred anyway
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without what exporter and quantisation say about themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript", "")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def open_onnx(path: Path) -> Run:
    """A function that runs a file with onnxruntime, on the CPU with the threads of torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images, sizes: session.run(list(OUTPUTS), dict(zip(INPUTS, (images, sizes), strict=True)))


def count_nodes(path: Path) -> Counter[str]:
    """Number of nodes by operator."""
    import onnx

    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)
