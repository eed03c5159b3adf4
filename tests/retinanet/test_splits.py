"""A prepared split: its records, and its pictures from files and URLs, kept, and named where they cannot be read."""

from __future__ import annotations

import functools
import http.server
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from retinanet.data.dataset import Batch, TrainingBatches
from retinanet.data.records import Records
from retinanet.data.splits import Split, load_split, part_of
from retinanet.data.transforms import Transforms
from tests.small_world import SIZES, SmallWorld, annotation


def first_batch(split: Split) -> Batch:
    transforms = Transforms(short_side=64, long_side=96, brightness=0.3)
    return TrainingBatches(split, transforms, batch_size=8, seed=1, epoch=0)[0]


# ---- the prepared file ----


def made_up(**changes: Any) -> dict[str, Any]:
    content = {
        "info": {"root": "raw", "split": "train"},
        "images": [
            {"id": image_id, "file_name": f"{image_id}.png", "width": 60, "height": 40} for image_id in (5, 2, 90)
        ],
        "categories": [{"id": 9, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 70, "name": "cow"}],
        "annotations": [
            annotation(1, 90, 70, [1, 2, 30, 20]),
            annotation(2, 5, 9, [0, 0, 60, 40]),
            annotation(3, 90, 2, [2.5, 3.5, 4, 5]),
            annotation(4, 90, 9, [0, 0, 60, 40], iscrowd=1),
        ],
    }
    return {**content, **changes}


def test_labels_are_the_positions_of_the_categories_whatever_their_ids() -> None:
    split = Split(made_up())
    assert split.class_names == ["cat", "dog", "cow"]
    assert [record.labels.tolist() for record in split.records] == [[0], [], [2, 1]]


def test_boxes_become_corners_and_crowds_do_not_train() -> None:
    records = Records(made_up())
    assert [record.image_id for record in records] == [5, 2, 90]
    assert records[2].boxes.tolist() == [[1, 2, 31, 22], [2.5, 3.5, 6.5, 8.5]]  # x + w, y + h; the crowd is left out
    assert records[0].size == (40, 60)


def test_part_has_its_images_in_the_order_of_the_file_with_all_their_boxes_and_the_same_labels() -> None:
    content = made_up()
    part = part_of(content, [90, 5])
    assert [image["id"] for image in part["images"]] == [5, 90]
    assert [box["id"] for box in part["annotations"]] == [1, 2, 3, 4]
    assert [record.labels.tolist() for record in Records(part)] == [[0], [2, 1]]
    assert part_of(content, [2])["annotations"] == part_of(content, [])["images"] == []
    assert content == made_up()


def test_an_image_without_boxes_has_none_of_the_right_shape() -> None:
    record = Records(made_up())[1]
    assert record.boxes.shape == (0, 4) and record.boxes.dtype == torch.float32
    assert record.labels.shape == (0,) and record.labels.dtype == torch.int64


def test_the_root_of_the_file_gives_way_to_another(small_world: SmallWorld) -> None:
    content = small_world.content()
    content["info"]["root"] = "nowhere"
    assert Split(content, root=f"{small_world.root}/").picture(1).shape == (3, *SIZES[1])


# ---- pictures ----


def test_a_picture_is_read_as_it_was_written(small_world: SmallWorld) -> None:
    pixels = np.array(Image.open(small_world.root / "pictures/4.png"))
    assert torch.equal(load_split(small_world.train).picture(4), torch.from_numpy(pixels).permute(2, 0, 1))


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "missing", "bomb"])
def test_a_picture_that_cannot_be_read_is_named(
    small_world: SmallWorld, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small_world.root / "pictures/2.png"
    content = path.read_bytes()
    path.write_bytes({"truncated": content[:900], "text": b"<html>404</html>", "empty": b""}.get(damage, content))
    if damage == "missing":
        path.unlink()
    if damage == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"pictures/2\.png cannot be read as an image \(.+\); run prepare again"):
        load_split(small_world.train).picture(2)


def test_a_picture_of_another_size_than_its_record_is_named(small_world: SmallWorld) -> None:
    Image.new("RGB", (50, 40)).save(small_world.root / "pictures/2.png")
    with pytest.raises(
        ValueError, match=r"pictures/2\.png is \(40, 50\) px .*, expected \(80, 64\) as in its record; run prepare"
    ):
        load_split(small_world.train).picture(2)


def test_decoded_pictures_are_kept_where_asked(small_world: SmallWorld) -> None:
    kept, fresh = (load_split(small_world.train, keep_bytes=keep) for keep in (10**6, 0))
    before = first_batch(kept).images
    assert torch.equal(first_batch(fresh).images, before)
    for path in small_world.root.rglob("*.png"):
        path.unlink()
    assert torch.equal(first_batch(kept).images, before)  # augmentation did not write into them
    with pytest.raises(ValueError, match="cannot be read"):
        first_batch(fresh)


def test_pictures_are_kept_in_the_files_order_while_they_fit(small_world: SmallWorld) -> None:
    # The first three are 64 x 64, 64 x 80 and 80 x 64 px of 3 bytes: 12,288 + 15,360 + 15,360 = 43,008.
    fits = {0: 0, 12_287: 0, 12_288: 1, 43_007: 2, 43_008: 3, 10**6: len(SIZES)}
    for keep_bytes, count in fits.items():
        split = load_split(small_world.train, keep_bytes=keep_bytes)
        assert split.num_kept == count
        assert split.kept_bytes == sum(3 * height * width for height, width in SIZES[:count])
        first, again = ([split.picture(i) for i in reversed(range(len(SIZES)))] for _ in range(2))
        assert [one is other for one, other in zip(first, again, strict=True)] == [
            i < count for i in reversed(range(len(SIZES)))
        ]
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


# ---- pictures at a URL ----


class CountingHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a word, and remembers what was asked for."""

    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        CountingHandler.asked[self.path] += 1
        super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def url(small_world: SmallWorld) -> Iterator[str]:
    CountingHandler.asked = Counter()
    handler = functools.partial(CountingHandler, directory=str(small_world.root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_pictures_come_from_a_url_once_and_then_from_the_cache(
    small_world: SmallWorld, url: str, tmp_path: Path
) -> None:
    local = load_split(small_world.train)
    for _ in range(2):  # two processes, say
        split = load_split(small_world.train, root=url, cache_folder=str(tmp_path / "cache"))
        assert all(torch.equal(split.picture(i), local.picture(i)) for i in range(len(SIZES)))
    assert CountingHandler.asked == {f"/pictures/{i}.png": 1 for i in range(len(SIZES))}


def test_without_a_cache_folder_a_url_is_read_every_time(small_world: SmallWorld, url: str) -> None:
    split = load_split(small_world.train, root=url)
    assert torch.equal(split.picture(0), split.picture(0))
    assert CountingHandler.asked["/pictures/0.png"] == 2


def test_what_is_not_at_a_url_is_named_and_not_kept(small_world: SmallWorld, url: str, tmp_path: Path) -> None:
    (small_world.root / "pictures/3.png").unlink()
    split = load_split(small_world.train, root=url, cache_folder=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:\d+/pictures/3\.png cannot be read"):
        split.picture(3)
    assert not list((tmp_path / "cache").iterdir())
