"""Laws of a step that train has kept: it is read back from its file alone, and only such a file is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pipeline.fit import mishaps
from pipeline.fit.batches import Batches
from pipeline.fit.building import build_learner
from pipeline.fit.work import load_splits
from pipeline.params import load_params
from pipeline.params.place import load_place
from pipeline.replay.__main__ import main
from pipeline.replay.run import KEYS, read_kept, replay
from pipeline.train.run import worker_config
from retinanet.engine import LossNotFiniteError
from tests.alone import alone


@pytest.fixture
def kept(project: Path) -> tuple[str, Path]:
    """The sentence of a training whose second step was not finite, and the file that it names."""
    config = worker_config(load_params(), load_place(), digest="d1", run=str(project / "runs/d1"))
    worker = alone()
    batches = Batches(config, load_splits(config)[0], worker)
    learner = build_learner(config, worker, total_steps=9)
    with torch.no_grad():
        learner.network.box_head.output.bias.fill_(math.nan)
    error = LossNotFiniteError(learner, epoch=0, step=1, losses=[0.5, math.nan], since=0)
    sentence = mishaps.explain_loss(error, batches, learner, config, worker)
    return sentence, Path(sentence.rpartition(" ")[2])


def test_sentence_names_step_losses_images_and_a_file(kept: tuple[str, Path]) -> None:
    sentence, path = kept
    assert sentence.startswith("loss is not finite at step 1: loss_cls 0.5, loss_box nan, images [")
    assert path.name == "not_finite_epoch1_step2_worker0.pt"
    assert len(read_kept(str(path))["batch"]["image_ids"]) == 8


def test_kept_step_shows_which_image_and_what_was_broken_before(
    kept: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = kept
    rows = replay(read_kept(str(path)))
    assert [row["image"] for row in rows] == read_kept(str(path))["batch"]["image_ids"]
    assert all(math.isfinite(row["loss_cls"]) for row in rows)
    assert all(math.isnan(row["loss_box"]) == (row["boxes"] > 0) for row in rows)
    main([str(path)])
    told = capsys.readouterr().out
    assert "1 weights were not finite before it: box_head.output.bias" in told


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing\.pt does not exist; the message of train"):
        read_kept(str(tmp_path / "missing.pt"))
    (tmp_path / "broken.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match="cannot be read"):
        read_kept(str(tmp_path / "broken.pt"))
    torch.save({"learner": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="is no step that train has kept"):
        read_kept(str(tmp_path / "other.pt"))
    older = dict.fromkeys(KEYS) | {"batch": {"images": torch.zeros(1, 3, 8, 8), "boxes": [torch.zeros(0, 4)]}}
    torch.save(older, tmp_path / "older.pt")
    with pytest.raises(ValueError, match="was kept by another version of this code"):
        read_kept(str(tmp_path / "older.pt"))
