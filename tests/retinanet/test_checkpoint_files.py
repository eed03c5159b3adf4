"""Laws of reading checkpoints: what is admitted is read exactly, all else is refused by name, and no code runs."""

from __future__ import annotations

import argparse
import io
import pickle
import sys
import tempfile
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from retinanet.network.checkpoints.files import read_checkpoint
from retinanet.network.checkpoints.pickles import ADMITTED, Array, load_arrays

RAN: list[str] = []


def run_code(text: str = "ran") -> None:
    RAN.append(text)


class Malicious:
    """A pickle that calls a function when it is read."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return run_code, ("ran",)


def read_array(array: object, protocol: int = 2) -> np.ndarray[Any, Any] | None:
    read = load_arrays(pickle.dumps(array, protocol=protocol))
    assert isinstance(read, Array)
    return read.values


@given(
    hypothesis_numpy.arrays(
        st.sampled_from(["<f4", ">f4", "<f8", "<f2", "<i8", ">i4", "|u1", "|b1"]),
        hypothesis_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    ),
    st.integers(0, 4),
    st.booleans(),
)
def test_every_array_of_numbers_is_read_as_numpy_reads_it(
    array: np.ndarray[Any, Any], protocol: int, fortran: bool
) -> None:
    array = np.asfortranarray(array) if fortran else array
    if array.ndim == 0:
        array = array.reshape(1)
    read = read_array(array, protocol)
    assert read is not None and (read.shape, read.dtype) == (array.shape, array.dtype.newbyteorder("="))
    np.testing.assert_array_equal(read, array)


def test_a_pickle_as_of_detectron2s_zoo_gives_its_tensors(tmp_path: Path) -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = {"model": OrderedDict(a=weight, b=np.array([7, 8])), "__author__": "Detectron2", "matching": True}
    for protocol in (2, 4):
        (tmp_path / "model.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        file = read_checkpoint(tmp_path / "model.pkl")
        assert torch.equal(file.state["a"], torch.from_numpy(weight)) and file.state["b"].tolist() == [7, 8]
        assert file.beside["__author__"] == "Detectron2"


@pytest.mark.parametrize(
    "wrap", [lambda state: state, lambda state: {"model": state, "args": argparse.Namespace(lr=1)}]
)
def test_files_of_torch_are_read_with_and_without_options(tmp_path: Path, wrap: Any) -> None:
    torch.save(wrap({"module.a.weight": torch.arange(3.0)}), tmp_path / "model.pth")
    assert read_checkpoint(tmp_path / "model.pth").state["a.weight"].tolist() == [0, 1, 2]


def test_files_of_torch_before_zip_are_read(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3.0)}, tmp_path / "model.pth", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "model.pth").state["a"].tolist() == [0, 1, 2]


def test_a_training_of_mmengine_is_read_without_its_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class HistoryBuffer:
        """As mmengine's: arrays of losses, and methods by name."""

        def __init__(self) -> None:
            self._log_history, self.methods = np.array([1.0, 2.0]), {"mean": HistoryBuffer.mean}

        def mean(self) -> float:
            """Of the history."""
            return float(self._log_history.mean())

    name = "mmengine.logging.history_buffer"
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = name, "HistoryBuffer"
    HistoryBuffer.mean.__module__, HistoryBuffer.mean.__qualname__ = name, "HistoryBuffer.mean"
    module = types.ModuleType(name)
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    for part in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    monkeypatch.setitem(sys.modules, name, module)
    content = {
        "meta": {"epoch": 12, "dataset_meta": {"classes": ("a", "b")}, "seed": np.int64(3)},
        "state_dict": {"a": torch.arange(3.0)},
        "message_hub": {"log_scalars": {"train/loss": HistoryBuffer()}, "best": np.float64(0.5)},
    }
    torch.save(content, tmp_path / "epoch_12.pth")
    for part in ("mmengine", "mmengine.logging", name):
        monkeypatch.delitem(sys.modules, part)  # its reader has no mmengine
    file = read_checkpoint(tmp_path / "epoch_12.pth")
    assert file.state["a"].tolist() == [0, 1, 2]
    assert file.beside["meta"]["dataset_meta"]["classes"] == ("a", "b")


# --- what is refused


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_code_in_a_pickle_is_refused_by_name_and_never_runs(tmp_path: Path, protocol: int) -> None:
    pickled = pickle.dumps({"model": {"a": 1.0}, "more": [Malicious()]}, protocol=protocol)
    with pytest.raises(ValueError, match=r"it names tests\.retinanet\.test_checkpoint_files\.run_code, which is not"):
        load_arrays(pickled)
    (tmp_path / "model.pkl").write_bytes(pickled)
    with pytest.raises(ValueError, match=r"model\.pkl cannot be read as weights"):
        read_checkpoint(tmp_path / "model.pkl")
    assert RAN == []
    pickle.loads(pickled)  # it would have run
    assert RAN.pop() == "ran"


@pytest.mark.parametrize("zip_file", [True, False])
def test_code_in_a_file_of_torch_is_refused_by_name_and_never_runs(tmp_path: Path, zip_file: bool) -> None:
    content = {"model": {"a": torch.zeros(3)}, "more": Malicious()}
    torch.save(content, tmp_path / "model.pth", _use_new_zipfile_serialization=zip_file)
    with pytest.raises(
        ValueError, match=r"cannot be read as weights: .*test_checkpoint_files\.run_code.* torch\.save\("
    ):
        read_checkpoint(tmp_path / "model.pth")
    assert RAN == []


def test_a_whole_module_is_refused_with_the_line_that_helps(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"torch\.nn\.modules\.linear\.Linear.*save the state dictionary alone"):
        read_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "name", ["builtins eval", "os system", "posix system", "numpy load", "_codecs decode", "collections deque"]
)
def test_a_name_that_is_not_in_the_list_is_refused(name: str) -> None:
    module, _, function = name.partition(" ")
    program = b"\x80\x02c" + f"{module}\n{function}\n".encode() + b"X\x02\x00\x00\x001\n\x85R."
    with pytest.raises(ValueError, match=rf"it names {module}\.{function}, which is not admitted"):
        load_arrays(program)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([{}], dtype=object), "an array of type 'O8', expected numbers"),
        (np.array(["a"]), "an array of type 'U1', expected numbers"),
        (np.zeros(2, dtype=[("x", "f4")]), "an array of type 'V4', expected numbers"),
        (np.zeros(2, dtype=np.complex64), "an array of type 'c8', expected numbers"),
    ],
)
def test_arrays_of_anything_but_numbers_are_refused(array: np.ndarray[Any, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        load_arrays(pickle.dumps(array, protocol=2))


def test_an_array_with_other_bytes_than_its_shape_is_refused() -> None:
    pickled = pickle.dumps(np.zeros(3, dtype=np.float32), protocol=4)
    with pytest.raises(ValueError, match="an array whose bytes do not match its shape"):
        load_arrays(pickled.replace(b"K\x03\x85", b"K\x04\x85"))


OWN = b"ctests.retinanet.test_checkpoint_files\nrun_code\n"
PARTS = [b"(", b"N", b"K\x03", b"U\x01a", b"X\x01\x00\x00\x00b", b")", b"}", b"]", b"\x85", b"\x86", b"\x87", b"t"]
PARTS += [b"R", b"b", b"\x81", b"s", b"u", b"a", b"e", b"0", b"2", b"q\x00", b"h\x00", b"r\x01\x00\x00\x00", b"Q", OWN]
PARTS += [f"c{name.rpartition('.')[0]}\n{name.rpartition('.')[2]}\n".encode() for name in ADMITTED]
"""Instructions of a pickle: marks, values, calls, states, references, and names."""

GENUINE = pickle.dumps({"model": {"a": np.arange(4.0), "b": np.float32(1)}, "c": ["d", None, 1]}, protocol=2)


def complaint_of(read: Callable[[], object]) -> str | None:
    """What a reader complains of; any other error than ValueError fails the test."""
    try:
        read()
    except ValueError as error:
        return str(error)
    return None


@given(st.integers(0, len(GENUINE) - 1), st.binary(min_size=1, max_size=4))
def test_a_broken_pickle_is_read_or_refused_with_a_sentence(place: int, patch: bytes) -> None:
    broken = GENUINE[:place] + patch + GENUINE[place + len(patch) :]
    assert complaint_of(lambda: load_arrays(broken)) != ""


@given(st.lists(st.sampled_from(PARTS), max_size=30))
def test_any_program_is_read_or_refused_with_a_sentence(parts: list[bytes]) -> None:
    assert complaint_of(lambda: load_arrays(b"\x80\x02" + b"".join(parts) + b".")) != ""
    assert RAN == []


def test_a_number_of_an_object_beyond_the_file_is_refused() -> None:
    # LONG_BINPUT 2^32 - 1: Python would allocate 64 GB for it
    with pytest.raises(ValueError, match="it numbers an object 4294967295, but has 9 bytes"):
        load_arrays(b"\x80\x02Nr\xff\xff\xff\xff.")


@given(st.binary(max_size=200), st.integers(0, 600))
def test_a_broken_file_is_read_or_refused_with_its_name(patch: bytes, place: int) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(3.0)}, buffer)
    content = buffer.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pth"
        path.write_bytes(content[:place] + patch + content[place + len(patch) :])
        complaint = complaint_of(lambda: read_checkpoint(path))
    assert complaint is None or str(path) in complaint


@pytest.mark.parametrize("content", [torch.zeros(3), {}, {"model": {"a": 3}}, {"model": {}}, [1]])
def test_a_file_without_a_state_dictionary_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth.* state dictionary"):
        read_checkpoint(tmp_path / "model.pth")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ValueError, match=r"no\.pth does not exist; expected the checkpoint"):
        read_checkpoint(Path("no.pth"))
