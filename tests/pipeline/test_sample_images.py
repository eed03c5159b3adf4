"""Laws of the pictures that are watched: always the same, drawn once, and never the end of a training."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from pipeline.reports.sample_images import KEY, SampleImages, choose_sample_images
from pipeline.tracking import NoopRun
from tests.small_world import SmallWorld


class Told(NoopRun):
    def __init__(self) -> None:
        self.pictures: list[tuple[str, bytes, int]] = []

    def log_picture(self, key: str, picture: Path | bytes, step: int) -> None:
        assert isinstance(picture, bytes)
        self.pictures.append((key, picture, step))


def test_watched_images_are_spread_over_the_split() -> None:
    content = {"images": [{"id": 10 * n} for n in range(100)]}
    assert choose_sample_images(content, 4) == [0, 330, 660, 990]
    assert choose_sample_images(content) == choose_sample_images(content)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_small_split_is_watched_whole(count: int) -> None:
    assert choose_sample_images({"images": [{"id": n} for n in range(count)]}) == list(range(count))


def test_sheet_is_drawn_once_for_the_epoch_that_ends(small_world: SmallWorld) -> None:
    samples, run = SampleImages(small_world.val, root=str(small_world.root), score_threshold=0.3), Told()
    samples.log(run, epoch=1)  # not evaluated
    ids = choose_sample_images(small_world.content(), 2)
    samples.keep({ids[0]: [[[1.0, 2.0, 30.0, 40.0]], [0.9], [0]], ids[1]: [[], [], []]}, epoch=2)
    samples.log(run, epoch=2)
    samples.log(run, epoch=3)  # not evaluated either
    ((key, sheet, step),) = run.pictures
    assert (key, step) == (KEY, 2)
    assert Image.open(io.BytesIO(sheet)).format == "PNG"


def test_epochs_that_end_faster_than_they_are_drawn_each_have_their_sheet(small_world: SmallWorld) -> None:
    samples, run = SampleImages(small_world.val, root=str(small_world.root), score_threshold=0.3), Told()
    (first,) = choose_sample_images(small_world.content(), 1)
    samples.keep({first: [[[1.0, 2.0, 30.0, 40.0]], [0.9], [0]]}, epoch=1)
    samples.keep({first: [[], [], []]}, epoch=2)
    samples.log(run, epoch=1)
    samples.log(run, epoch=2)
    assert [step for _, _, step in run.pictures] == [1, 2]
    assert run.pictures[0][1] != run.pictures[1][1]


def test_pictures_that_only_the_workers_can_read_are_told(
    small_world: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples, run = SampleImages(small_world.val, root=str(tmp_path / "elsewhere"), score_threshold=0.3), Told()
    samples.keep({choose_sample_images(small_world.content(), 1)[0]: [[], [], []]}, epoch=1)
    samples.log(run, epoch=1)
    assert run.pictures == []
    assert "the watched images of epoch 1 were not drawn: " in capsys.readouterr().out
