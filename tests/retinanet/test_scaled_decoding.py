"""Laws of scaled decoding: which pictures, nearly the same pixels, the same boxes, and one picture for all epochs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from retinanet.data.dataset import EvaluationBatches, TrainingBatches, load
from retinanet.data.pictures import decode
from retinanet.data.splits import Split
from retinanet.data.transforms import Transforms

SCALED = Transforms(short_side=60, long_side=100, horizontal_flip=0.0, scaled_decoding=True)


def smooth(height: int, width: int) -> Image.Image:
    """A picture with structures of some 16 px."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95, **options)
    return buffer.getvalue()


def split_of(folder: Path, size: tuple[int, int], suffix: str = "jpg", **options: Any) -> Split:
    """One picture with a square of 64 px at (128, 160), whose edges are those of blocks of 8 px."""
    height, width = size
    picture = Image.new("RGB", (width, height), (40, 40, 40))
    picture.paste((220, 220, 220), (128, 160, 192, 224))
    picture.save(folder / f"a.{suffix}")
    return Split(
        {
            "info": {"root": str(folder)},
            "images": [{"id": 3, "file_name": f"a.{suffix}", "height": height, "width": width}],
            "annotations": [{"id": 1, "image_id": 3, "category_id": 1, "bbox": [128, 160, 64, 64]}],
            "categories": [{"id": 1, "name": "square"}],
        },
        **options,
    )


# ---- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((60, 80), {}, 1),  # seen whole
        ((112, 160), {}, 1),  # not quite twice as large
        ((120, 160), {}, 2),
        ((240, 320), {}, 4),
        ((480, 640), {}, 8),
        ((960, 1280), {}, 8),  # libjpeg has no smaller scale
        ((244, 324), {}, 4),
        ((242, 326), {}, 2),  # 4 does not divide them
        ((241, 320), {}, 1),
        ((240, 1600), {}, 8),  # the long side decides: 100 of 1600
        ((240, 320), {"scale_jitter": [0.5, 2.0]}, 2),  # seen at up to 120 px
        ((240, 320), {"random_crop": 0.5}, 2),
        ((240, 320), {"short_side": [30, 60]}, 4),
        ((240, 320), {"scaled_decoding": False}, 1),
    ],
)
def test_picture_is_decoded_as_small_as_the_network_may_ever_see_it(
    size: tuple[int, int], options: dict[str, Any], expected: int
) -> None:
    transforms = Transforms(**{"short_side": 60, "long_side": 100, "scaled_decoding": True, **options})
    assert transforms.reduction(size) == expected


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    jitter=st.floats(0.3, 3.0),
    crop=st.floats(0.2, 1.0),
    seed=st.integers(0, 99),
)
def test_no_draw_enlarges_a_picture_that_was_decoded_smaller(
    height: int, width: int, jitter: float, crop: float, seed: int
) -> None:
    transforms = Transforms(
        short_side=[200, 300], long_side=500, random_crop=crop, scale_jitter=[0.3, jitter], scaled_decoding=True
    )
    reduction = transforms.reduction((height, width))
    assert height % reduction == width % reduction == 0
    geometry = transforms.geometry((height, width), transforms.draw(seed))
    if reduction > 1:  # half a pixel for what rounding adds
        assert geometry.size[0] <= geometry.height / reduction + 1
        assert geometry.size[1] <= geometry.width / reduction + 1


# ---- pixels and boxes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("orientation", [1, 6])
def test_smaller_picture_shows_the_same(reduction: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = jpeg(smooth(320, 480), exif=exif)
    whole, small = decode(content), decode(content, reduction)
    assert [side * reduction for side in small.shape[1:]] == list(whole.shape[1:])
    means = torch.nn.functional.avg_pool2d(whole.float(), reduction)
    assert (means - small.float()).abs().mean() < 1.5


def test_other_formats_are_decoded_whole(tmp_path: Path) -> None:
    split = split_of(tmp_path, (320, 480), "png")
    assert split.picture(0, 4).shape == (3, 320, 480)
    image, boxes, _ = load(split, 0, SCALED, SCALED.for_evaluation)
    assert image.shape == (3, 60, 90)
    assert boxes.tolist() == [[24, 30, 36, 42]]


@pytest.mark.parametrize("crop", [1.0, 0.6])
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_boxes_stay_on_their_objects(crop: float, scale: float, tmp_path: Path) -> None:
    """The box against the bright pixels, at every crop that is drawn."""
    split = split_of(tmp_path, (640, 800))
    transforms = Transforms(
        short_side=100,
        long_side=200,
        random_crop=crop,
        scale_jitter=[0.5, scale],
        scaled_decoding=True,
        min_visible=0.99,
    )
    assert transforms.reduction((640, 800)) in (2, 4)
    seen = 0
    for epoch in range(30):
        image, boxes, _ = load(split, 0, transforms, transforms.draw(0, epoch, 3))
        for box in boxes.tolist():
            rows, columns = torch.where(image.float().mean(0) > 130)
            bright = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box == pytest.approx([float(side) for side in bright], abs=1.01)
            seen += 1
    assert seen > 5


def test_batches_differ_by_little(tmp_path: Path) -> None:
    split = split_of(tmp_path, (640, 800))
    plain = Transforms(short_side=60, long_side=100, horizontal_flip=0.0)
    for kind in (
        lambda own: TrainingBatches(split, own, batch_size=1, seed=0, epoch=0)[0],
        lambda own: EvaluationBatches(split, own)[0],
    ):
        whole, small = kind(plain), kind(SCALED)
        assert torch.equal(whole.boxes, small.boxes)
        assert torch.equal(whole.image_sizes, small.image_sizes)
        difference = (whole.images.int() - small.images.int()).abs().float()
        assert difference.max() > 0 and difference.mean() < 1


def test_cache_holds_the_smaller_picture_and_reads_another_size_anew(tmp_path: Path) -> None:
    split = split_of(tmp_path, (640, 800), keep_bytes=10**9)
    assert split.picture(0, 8) is split.picture(0, 8)
    assert split.picture(0, 8).shape == (3, 80, 100)
    assert split.picture(0).shape == (3, 640, 800)
    assert split.picture(0) is split.picture(0)
