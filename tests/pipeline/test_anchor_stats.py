"""Laws of the stage anchor_stats, on a world small enough to work out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from pipeline.anchor_stats import run as stage
from pipeline.anchor_stats.__main__ import main
from pipeline.anchor_stats.run import ANCHORS, PLOT, REPORT, TRAIN
from retinanet.anchors.grid import Grid, build_grid

REPOSITORY = Path(__file__).parents[2]
# One square anchor per cell: 16 px on P3 (stride 8), and sides that nothing here comes near to on P4..P7.
ONE_SIZE = {"offset": 0.5, "sizes": [[16.0], [1000.0], [1000.0], [1000.0], [1000.0]], "aspect_ratios": [1.0]}
CATEGORIES = [{"id": 3, "name": "rod"}, {"id": 7, "name": "disc"}]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the stage draws no picture: that takes longer than all the rest."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "plot_anchors", lambda coverage, path: path.touch())
    return tmp_path


def write_params(seed: int = 1, **changes: dict[str, Any]) -> None:
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["seed"] = seed
    params["transforms"] |= {"short_side": 64, "long_side": 64}
    params["matcher"] = {"foreground_iou": 0.5, "background_iou": 0.4, "low_quality": "truth"}
    for section, values in changes.items():
        params[section] |= values
    Path("params.yaml").write_text(yaml.safe_dump(params))


def write_split(images: list[tuple[int, int]], boxes: list[tuple[int, int, list[float]]]) -> None:
    """Images of (width, height) with ids from 1; boxes of (image id, category id, xywh)."""
    content = {
        "info": {"root": "data/raw", "split": "train"},
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": width, "height": height}
            for n, (width, height) in enumerate(images, start=1)
        ],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "bbox": bbox, "area": 1.0, "iscrowd": 0}
            for n, (image, category, bbox) in enumerate(boxes)
        ],
        "categories": CATEGORIES,
    }
    TRAIN.parent.mkdir(parents=True, exist_ok=True)
    TRAIN.write_text(json.dumps(content))


def run() -> dict[str, Any]:
    main([])
    report: dict[str, Any] = json.loads(REPORT.read_text())
    return report


@pytest.mark.usefixtures("folder")
def test_two_boxes_worked_by_hand() -> None:
    write_params(anchors=ONE_SIZE)
    # P3 has centres at 4, 12, .. 60 px, so its anchors span [4, 20], [12, 28] and so on in both directions.
    # The rod [4, 4, 20, 20] is an anchor: IoU 1. Its neighbours one cell away overlap 8 x 16 of 384: 1/3.
    # The disc [24, 24, 56, 56] has an area of 1024 (medium: at least 32^2) and holds anchors of 256: IoU 1/4; those
    # with a corner inside are [28, 44], [36, 52] (and [20, 36]: less): 2 x 2 anchors tie and are all owned.
    write_split([(64, 64)], [(1, 3, [4, 4, 16, 16]), (1, 7, [24, 24, 32, 32])])
    report = run()
    assert report["thresholds"] == {"foreground": 0.5, "background": 0.4}
    assert report["all"] == {
        "truths": 2,
        "images": 1,
        "recall_foreground": 0.5,
        "recall_background": 0.5,
        "recall_40": 0.5,
        "recall_50": 0.5,
        "recall_60": 0.5,
        "recall_70": 0.5,
        "best_iou_mean": 0.625,  # (1 + 1/4) / 2
        "best_iou_min": 0.25,
        "best_iou_p10": 0.325,  # a tenth of the way from 1/4 to 1
        "best_iou_median": 0.625,
        "best_iou_p90": 0.925,
        "foreground_anchors_mean": 2.5,  # (1 + 4) / 2
        "foreground_anchors_p10": 1.3,
        "foreground_anchors_median": 2.5,
        "foreground_anchors_p90": 3.7,
        "foreground_per_level": {"P3": 5, "P4": 0, "P5": 0, "P6": 0, "P7": 0},
        "without_foreground": 0,
        "without_foreground_by_low_quality": {"truth": 0, "anchor": 0, "none": 1},
        "images_without_foreground": 0,
    }
    # Of the 8 x 8 anchors of P3 no other reaches .4; P4 has 4 x 4, P5 2 x 2, P6 and P7 one each.
    assert report["levels"]["P3"] == {
        "foreground": 5,
        "ignored": 0,
        "background": 59,
        "foreground_share": 0.078125,  # 5 / 64
        "ignored_share": 0.0,
        "background_share": 0.921875,
    }
    assert [row["background"] for row in report["levels"].values()] == [59, 16, 4, 1, 1]
    assert report["images"] == {"all": 1, "without_boxes": 0, "without_foreground": 0}
    assert report["by_class"]["rod"]["best_iou_mean"] == 1.0
    assert report["by_class"]["disc"]["foreground_anchors_mean"] == 4.0
    assert {name: row["truths"] for name, row in report["by_size"].items()} == {"small": 1, "medium": 1, "large": 0}


@pytest.mark.usefixtures("folder")
def test_truth_without_foreground_is_counted() -> None:
    write_params(anchors=ONE_SIZE, matcher={"low_quality": "none"})
    write_split([(64, 64)], [(1, 3, [4, 4, 16, 16]), (1, 7, [24, 24, 32, 32])])
    report = run()
    assert report["all"]["without_foreground"] == 1
    assert report["by_class"]["disc"] == {
        **report["by_class"]["disc"],
        "without_foreground": 1,
        "foreground_anchors_mean": 0.0,
        "recall_foreground": 0.0,
    }
    assert report["by_class"]["rod"]["without_foreground"] == 0


@pytest.mark.usefixtures("folder")
def test_truths_are_measured_at_training_scale() -> None:
    write_params(anchors=ONE_SIZE)
    # 256 x 128 px become 64 x 32, a quarter: the box [16, 16, 80, 80] becomes the anchor [4, 4, 20, 20].
    write_split([(256, 128)], [(1, 3, [16, 16, 64, 64])])
    report = run()
    assert report["all"]["best_iou_mean"] == 1.0
    assert report["by_size"]["small"]["truths"] == 1  # 4096 px in the file would be medium


@pytest.mark.usefixtures("folder")
def test_truths_are_measured_at_the_scale_of_tiles() -> None:
    write_params(anchors=ONE_SIZE, transforms={"tiles": {"size": 64, "overlap": 0.25, "min_visible": 0.25}})
    # Tiles at x = 0, 48, 96 and y = 0 of 160 x 64 px are not resized: the box of the first tile is an anchor,
    # [100, 4, 116, 20] is [52, 4, 68, 20] in the second, whose 12 of 16 px are kept, and an anchor in the third.
    write_split([(160, 64)], [(1, 3, [4, 4, 16, 16]), (1, 3, [100, 4, 16, 16])])
    report = run()
    assert report["all"]["truths"] == 3
    # The part [52, 4, 64, 20] has 12 x 16 of the anchor [52, 4, 68, 20].
    assert [report["all"][f"best_iou_{name}"] for name in ("min", "median", "p90")] == [0.75, 1.0, 1.0]


@pytest.mark.usefixtures("folder")
def test_recalls_have_thresholds_of_their_own_and_ignored_anchors_count() -> None:
    write_params(anchors=ONE_SIZE, matcher={"foreground_iou": 0.9, "background_iou": 0.3})
    # [6, 22] x [4, 20] is 2 px beside the anchor [4, 20]^2: 14 * 16 of 512 - 224, .778. The next in x, [12, 28], shares
    # 10 * 16 of 512 - 160, .4545; those above and below either share half of that height: 14 * 8 of 512 - 112, .28.
    write_split([(64, 64)], [(1, 3, [6, 4, 16, 16])])
    report = run()
    row = report["all"]
    assert [row[f"recall_{iou}"] for iou in (40, 50, 60, 70)] == [1.0, 1.0, 1.0, 1.0]
    assert (row["recall_foreground"], row["recall_background"]) == (0.0, 1.0)
    assert (report["levels"]["P3"]["foreground"], report["levels"]["P3"]["ignored"]) == (1, 1)


@pytest.mark.usefixtures("folder")
def test_images_without_foreground_are_counted_overall_and_by_class() -> None:
    write_params(anchors=ONE_SIZE, matcher={"low_quality": "none"})
    rod, disc = (3, [4, 4, 16, 16]), (7, [24, 24, 32, 32])  # an anchor, and one that no anchor reaches
    write_split([(64, 64)] * 4, [(1, *rod), (1, *disc), (2, *disc), (3, *rod)])
    report = run()
    assert report["images"] == {"all": 4, "without_boxes": 1, "without_foreground": 1}
    assert {name: row["images_without_foreground"] for name, row in report["by_class"].items()} == {"rod": 0, "disc": 2}
    assert {name: row["images"] for name, row in report["by_class"].items()} == {"rod": 2, "disc": 2}


@pytest.mark.usefixtures("folder")
def test_image_without_boxes_adds_background_only() -> None:
    write_params(anchors=ONE_SIZE)
    write_split([(64, 64)], [(1, 3, [4, 4, 16, 16])])
    alone = run()
    write_split([(64, 64), (64, 64)], [(1, 3, [4, 4, 16, 16])])
    both = run()
    assert [both[name] for name in ("all", "by_size", "by_class")] == [
        alone[name] for name in ("all", "by_size", "by_class")
    ]
    assert both["images"] == {"all": 2, "without_boxes": 1, "without_foreground": 0}
    assert both["levels"]["P3"]["background"] == alone["levels"]["P3"]["background"] + 64


@pytest.mark.usefixtures("folder")
def test_canvas_limits_the_training_scale() -> None:
    # 128 x 64 px would become 64 x 32; a canvas 32 px wide halves that, and the box becomes [4, 4, 20, 12].
    write_params(anchors=ONE_SIZE, transforms={"canvas": [64, 32]})
    write_split([(128, 64)], [(1, 3, [16, 16, 64, 32])])
    report = run()
    assert report["by_size"]["small"]["truths"] == 1
    assert report["levels"]["P3"]["background"] + report["levels"]["P3"]["foreground"] == 32  # of the canvas
    assert report["all"]["best_iou_mean"] == pytest.approx(0.5)  # with the anchor [4, 4, 20, 20]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("images", [[], [(64, 64)]])
def test_split_without_truths_has_a_report(images: list[tuple[int, int]], capsys: pytest.CaptureFixture[str]) -> None:
    write_params()
    write_split(images, [])
    report = run()
    assert report["all"] == {"truths": 0}
    assert report["by_class"] == {"rod": {"truths": 0}, "disc": {"truths": 0}}
    assert report["images"] == {"all": len(images), "without_boxes": len(images), "without_foreground": 0}
    # Head, all, sizes, classes; head, levels; images.
    assert len(capsys.readouterr().out.splitlines()) == 1 + 1 + 3 + 2 + 1 + 5 + 1


@pytest.mark.usefixtures("folder")
def test_anchors_that_train_reads_are_those_of_params() -> None:
    anchors: dict[str, Any] = {"base_scale": 2.5, "scales_per_octave": 2, "aspect_ratios": [0.5, 1.0]}
    write_params(anchors=anchors | {"sizes": None, "offset": 0.25})
    write_split([(64, 64)], [])
    main([])
    written = Grid.from_dict(json.loads(ANCHORS.read_text()))
    assert written == build_grid(**anchors, offset=0.25)


@pytest.mark.parametrize("boxes", [[], [(1, 3, [4, 4, 16, 13]), (1, 7, [24, 24, 32, 17])]])
def test_same_input_gives_the_same_bytes(
    boxes: list[tuple[int, int, list[float]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_params()
    write_split([(64, 48)], boxes)
    outs = (ANCHORS, REPORT, PLOT)
    main([])
    first = [path.read_bytes() for path in outs]
    main([])
    assert [path.read_bytes() for path in outs] == first
    with Image.open(PLOT) as picture:
        assert picture.size == (1170, 414)


@pytest.mark.usefixtures("folder")
def test_fitted_anchors_are_what_train_reads_and_follow_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    write_params(anchors={"mode": "fitted"})
    tall: list[float] = [4, 4, 8, 40]
    write_split([(64, 64)], [(1, 3, tall)])
    main([])
    fitted = Grid.from_dict(json.loads(ANCHORS.read_text()))
    assert fitted.anchors_per_cell == 9
    assert max(fitted.aspect_ratios) > 4  # 40 / 8 is 5
    assert "fitted anchors: " in capsys.readouterr().out
    write_params(anchors={"mode": "fitted"}, seed=99)
    main([])
    assert Grid.from_dict(json.loads(ANCHORS.read_text())) == fitted  # runs with other seeds share their anchors
    write_split([(64, 64)], [(1, 3, [4, 4, 40, 8])])
    main([])
    assert min(Grid.from_dict(json.loads(ANCHORS.read_text())).aspect_ratios) < 0.25


@pytest.mark.usefixtures("folder")
def test_nothing_to_fit_is_told_and_leaves_no_anchors() -> None:
    write_params(anchors={"mode": "fitted"})
    write_split([(64, 64)], [])
    with pytest.raises(ValueError, match=r"has no boxes, so there is nothing .* set anchors\.mode to fixed"):
        main([])
    assert not ANCHORS.exists()


@pytest.mark.usefixtures("folder")
def test_missing_split_is_told() -> None:
    write_params()
    with pytest.raises(ValueError, match=r"data/prepared/train\.json does not exist; run the preceding stage"):
        main([])
