"""Laws of the folder of predict's results: a name for each, no file of the user overwritten, none detected on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pipeline.predict.__main__ import main
from pipeline.predict.inputs import find_pictures

IMAGES = Path("data/prepared/images/test")


def names(*arguments: str) -> list[str]:
    return [source.name for source in find_pictures(arguments)]


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10)).save(path)


# ---- names -----------------------------------------------------------------------------------------------------------


def test_frames_of_a_video_do_not_share_a_folder_with_pictures(tmp_path: Path) -> None:
    """film.mp4 has labels/film/000000.txt, as has the frame that somebody has saved as film/000000.jpg."""
    save(tmp_path / "film/000000.jpg")
    (tmp_path / "film.mp4").touch()
    (tmp_path / "other.mp4").touch()
    assert names(str(tmp_path)) == ["film/000000", "film_2", "other"]


def test_name_of_a_result_is_one_that_a_file_can_have() -> None:
    # 300 letters, 150 of two bytes each, and a zero byte.
    urls = [f"https://host/{name}.jpg" for name in ("a" * 300, "%C3%A4" * 150, "b%00c", "a" * 301)]
    assert names(*urls) == ["a" * 200, "\N{LATIN SMALL LETTER A WITH DIAERESIS}" * 100, "b_c", "a" * 200 + "_2"]


# ---- the folder ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untrained")
def test_folder_with_files_of_the_user_is_refused() -> None:
    """A data set of YOLO has a folder labels, too, and the pictures may be in a folder pictures."""
    for name in ("mine/pictures/a.jpg", "mine/labels/a.txt", "mine/data.yaml"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes((IMAGES / "000001.png").read_bytes())
    before = {path: path.read_bytes() for path in Path("mine").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="--output mine is not empty, and predict has not made it; give a new folder"):
        main(["mine/pictures", "--output", "mine", "--format", "pictures", "yolo"])
    assert {path: path.read_bytes() for path in Path("mine").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("output", ["file", "file/deep"])
@pytest.mark.usefixtures("untrained")
def test_output_that_is_no_folder_is_one_sentence(output: str) -> None:
    Path("file").touch()
    with pytest.raises(ValueError, match=rf"--output {output} cannot be used \(.+\); it must be a folder"):
        main([str(IMAGES), "--output", output])


@pytest.mark.usefixtures("untrained")
def test_results_are_replaced_and_are_no_pictures_of_the_next_run() -> None:
    save(Path("in/a.png"))
    for _ in range(2):
        main(["in", "--output", "in/predictions"])
        content = json.loads(Path("in/predictions/coco.json").read_text())
        assert [image["file_name"] for image in content["images"]] == ["in/a.png"]
    assert names("in/predictions") == ["pictures/a"]  # unless somebody asks for them
    Path("in/predictions/.predict").unlink()  # as an earlier version left it
    main(["in/a.png", "--output", "in/predictions"])
