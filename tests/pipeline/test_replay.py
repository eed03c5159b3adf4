"""Laws of a step that train has kept: it is read back from its file alone, and only such a file is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pipeline.cluster import Resources
from pipeline.fit import not_finite
from pipeline.fit.batches import Batches
from pipeline.fit.building import build_state
from pipeline.fit.config import WorkerConfig
from pipeline.fit.loop import load_splits
from pipeline.params import load_params
from pipeline.params.runtime import load_runtime
from pipeline.replay.__main__ import main
from pipeline.replay.run import KEYS, load_step, replay
from pipeline.sweep.records import configure
from pipeline.sweep.trial import TrialBase, trial_config
from pipeline.worker_config import worker_config
from retinanet.training.progress import LossNotFiniteError
from tests.alone import alone
from tests.flaky import FlakyStore, full_disk


@pytest.fixture
def kept(project: Path) -> tuple[str, Path]:
    """The sentence of a training whose second step was not finite, and the file that it names."""
    sentence = explain(worker_config(load_params(), load_runtime(), digest="d1", run=str(project / "runs/d1")))
    return sentence, Path(sentence.rpartition(" ")[2])


def explain(config: WorkerConfig) -> str:
    """The sentence of a training whose second step is not finite."""
    worker = alone()
    batches = Batches(config, load_splits(config.data)[0], worker)
    state = build_state(config, worker, total_steps=9)
    with torch.no_grad():
        state.network.box_head.output.bias.fill_(math.nan)
    error = LossNotFiniteError(state, epoch=0, step=1, losses=[0.5, math.nan], steps_ago=0)
    return not_finite.explain_loss(error, batches, state, config, worker)


def test_sentence_names_step_losses_images_and_a_file(kept: tuple[str, Path]) -> None:
    sentence, path = kept
    assert sentence.startswith("loss is not finite at step 1: loss_cls 0.5, loss_box nan, images [")
    assert path.name == "not_finite_d1_epoch1_step2_worker0.pt"
    assert len(load_step(str(path))["batch"]["image_ids"]) == 8


def test_kept_step_shows_which_image_and_what_was_broken_before(
    kept: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = kept
    rows = replay(load_step(str(path)))
    assert [row["image"] for row in rows] == load_step(str(path))["batch"]["image_ids"]
    assert all(math.isfinite(row["loss_cls"]) for row in rows)
    assert all(math.isnan(row["loss_box"]) == (row["boxes"] > 0) for row in rows)
    main([str(path)])
    told = capsys.readouterr().out
    assert "1 weights were not finite before the step: box_head.output.bias" in told


def test_trials_of_a_sweep_that_fail_at_the_same_step_keep_a_file_each(project: Path) -> None:
    """Their folder is that of the sweep."""
    params = load_params()
    worker = worker_config(params, load_runtime(), digest="s1", run=str(project / "runs/sweeps/s1"))
    base = TrialBase(params, worker, "runs/sweeps/s1", Resources.of(load_runtime()))
    configurations = [configure({"loss.gamma": gamma}, seed=1, number=0) for gamma in (1.0, 2.5)]
    sentences = [explain(trial_config(configuration, base)) for configuration in configurations]
    kept = [load_step(sentence.rpartition(" ")[2]) for sentence in sentences]
    assert [step["params"]["loss"]["gamma"] for step in kept] == [1.0, 2.5]


def test_storage_that_takes_no_file_does_not_hide_the_loss(project: Path) -> None:
    FlakyStore.reset(every=1, error=full_disk())
    config = worker_config(load_params(), load_runtime(), digest="d1", run="flaky://runs/d1")
    sentence = explain(config)
    assert sentence.startswith("loss is not finite at step 1: loss_cls 0.5, loss_box nan, images [")
    assert "The batch could not be stored: flaky://runs/d1/not_finite_d1" in sentence
    assert "(No space left on device)" in sentence


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing\.pt does not exist; the error message of train"):
        load_step(str(tmp_path / "missing.pt"))
    (tmp_path / "broken.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match="cannot be read"):
        load_step(str(tmp_path / "broken.pt"))
    torch.save({"training_state": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="is not a step saved by train"):
        load_step(str(tmp_path / "other.pt"))
    older = dict.fromkeys(KEYS) | {"batch": {"images": torch.zeros(1, 3, 8, 8), "boxes": [torch.zeros(0, 4)]}}
    torch.save(older, tmp_path / "older.pt")
    with pytest.raises(ValueError, match="was saved by another version of this code"):
        load_step(str(tmp_path / "older.pt"))
