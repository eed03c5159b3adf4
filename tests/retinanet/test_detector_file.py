from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retinanet.inference.detector_file import load_detector, save_detector
from retinanet.inference.initial import read_initial

DESCRIPTION: dict[str, Any] = {
    "model": {"norm": "group"},
    "categories": [{"id": 3, "name": "cat"}],
    "run": {"AP": None},
}


class Boom:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_detector_comes_back_as_it_was_saved(tmp_path: Path, generator: torch.Generator) -> None:
    state = {
        "a": torch.randn(3, 4, generator=generator).T,
        "b": torch.tensor(7),
        "c": torch.zeros(2, requires_grad=True),
    }
    path = tmp_path / "models/model.pt"
    save_detector(path, state, DESCRIPTION)
    weights, description = load_detector(path)
    assert description == DESCRIPTION
    assert weights.keys() == state.keys() and all(torch.equal(weights[key], state[key]) for key in state)
    assert not any(value.requires_grad for value in weights.values())


def test_saving_leaves_one_file_and_replaces_the_old_one(tmp_path: Path) -> None:
    for number in (1, 2):
        save_detector(tmp_path / "model.pt", {"a": torch.tensor(number)}, {})
        assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
        assert load_detector(tmp_path / "model.pt")[0]["a"] == number


def test_a_write_that_fails_leaves_the_old_file_and_no_half_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_detector(tmp_path / "model.pt", {"a": torch.tensor(1)}, {})

    def fill_the_disk(content: object, path: Path) -> None:
        path.write_bytes(b"half a fi")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        save_detector(tmp_path / "model.pt", {"a": torch.tensor(2)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    assert load_detector(tmp_path / "model.pt")[0]["a"] == 1


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path, touched = tmp_path / "model.pt", tmp_path / "touched"
    if zipped:
        torch.save({"format": 1, "weights": {}, "description": Boom(touched)}, path)
    else:
        path.write_bytes(pickle.dumps({"format": 1, "weights": Boom(touched)}, protocol=2))
    with pytest.raises(
        ValueError, match=r"model\.pt cannot be read as weights \(.*[Uu]nsupported.*\); expected a file"
    ):
        load_detector(path)
    with pytest.raises(ValueError, match=r"model\.pt cannot be read as weights"):
        read_initial(path, name="model.pt")
    assert not touched.exists()


def whole_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"format": 1, "weights": {"a": torch.zeros(100)}, "description": {}}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02", whole_file()[:-200], whole_file()[:100]])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pt cannot be read as weights"):
        load_detector(tmp_path / "model.pt")


def test_a_missing_detector_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.pt does not exist; run the train stage first"):
        load_detector(tmp_path / "model.pt")


@pytest.mark.parametrize("content", [{"format": 0}, {"a": torch.zeros(1)}, [1, 2], torch.zeros(3)])
def test_a_file_with_something_else_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt holds no detector of this version \(format 1\)"):
        load_detector(tmp_path / "model.pt")
