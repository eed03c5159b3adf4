"""Laws of `evaluate --detections`: another detector's file is judged as ours, beside the stage's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.evaluate.__main__ import main
from pipeline.evaluate.outputs import CURVE, DETECTIONS, MISTAKES, PAGE, PICTURES, REPORT, SHEET, SPEED
from pipeline.reports.results import read_results
from pipeline.storage.outs import read_json

THEIRS = Path("theirs.json")


@pytest.mark.usefixtures("project")
def test_file_of_another_detector_is_judged(capsys: pytest.CaptureFixture[str]) -> None:
    truth = read_json(Path("data/prepared/test.json"))
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    rows = [
        {"image_id": names[box["image_id"]], "category_id": box["category_id"], "bbox": box["bbox"], "score": 0.9}
        for box in truth["annotations"]
    ]
    THEIRS.write_text(json.dumps(rows))
    main(["--detections", str(THEIRS)])
    printed = capsys.readouterr().out
    assert f"theirs.json: {len(rows)} detections on" in printed
    assert "test: AP 1.000" in printed and "at the best F1 on test: precision 1.000" in printed
    folder = Path("reports/theirs")
    report = json.loads((folder / REPORT).read_text())
    assert (report["AP"], report["F1"], report["errors"]["missed"]["count"]) == (1.0, 1.0, 0)
    assert len(read_results(folder / DETECTIONS)) == len(rows)
    assert all((folder / path).is_file() for path in (CURVE, MISTAKES, *PICTURES) if path != SHEET)
    page = (folder / PAGE).read_text()
    assert "The detections of theirs.json, evaluated on" in page and page.count("data:image/jpeg") > 5
    assert f"--detections theirs.json --output {folder}" in page and "dvc " not in page
    assert not any(path.exists() for path in (REPORT, DETECTIONS, PAGE, SPEED))

    Path(truth["info"]["root"]).rename("elsewhere")
    main(["--detections", str(THEIRS)])
    page = (folder / PAGE).read_text()
    assert "data:image/jpeg" not in page and "Pictures that cannot be read on this machine are left out" in page

    named = Path("yolo.v2.json")
    named.write_text(json.dumps(rows))
    main(["--detections", str(named)])
    assert (Path("reports/yolo.v2") / REPORT).is_file()  # beside that of yolo.v1.json

    THEIRS.write_text(json.dumps([rows[0] | {"image_id": "elsewhere.png"}]))
    with pytest.raises(ValueError, match=r"row 1 of theirs\.json: image 'elsewhere\.png' is not in the split"):
        main(["--detections", str(THEIRS), "--output", "other"])
    assert not Path("other").exists()
    with pytest.raises(ValueError, match="--output is only for --detections"):
        main(["--output", "other"])
