"""Law of every format: whatever its files hold, the outcome is valid boxes of images of the root, or one sentence."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli.command import is_sentence
from pipeline.formats import Split, format_report, read_splits, summarise
from pipeline.formats.digests import Digests
from pipeline.formats.looking import look
from pipeline.formats.root import Root
from pipeline.formats.sources import describe
from tests.pipeline.formats.writers import WRITERS, Picture, Written, png

Result = TypeVar("Result")

PICTURES = [
    Picture("a.png", (20, 10), [("rod", (1.5, 2.0, 4.0, 6.0)), ("disc", (0.0, 0.0, 20.0, 10.0))]),
    Picture("b.png", (16, 12), [("rod", (3.0, 3.0, 9.0, 9.0))]),
]
SECRET = png(Picture("secret.png", (30, 10), []))
MORE_COCO: list[dict[str, Any]] = [
    {"id": 8, "image_id": 0, "category_id": 0, "segmentation": [[4, 1, 9, 5.5, 6, 7]], "area": 3.5},
    {"id": 9, "image_id": 1, "category_id": 1, "segmentation": {"size": [4, 4], "counts": "52114"}, "iscrowd": 1},
    {"id": 9, "image_id": 1, "category_id": 1, "segmentation": {"size": [4, 4], "counts": [5, 2, 1, 3, 5]}},
]
MORE_LABELME = [
    {"label": "disc", "points": [[5, 5], [8, 1]], "shape_type": "circle", "difficult": True},
    {"label": "disc", "points": [[5, 5], [8, 1], [3, 1]], "shape_type": "polygon"},
    {"label": "disc", "points": [[5, 5], [8, 1]], "shape_type": "mask", "mask": "iVBOR"},
    {"label": "disc", "points": [[5, 5], [8, 1]], "shape_type": "line"},
]
MORE_CVAT = (
    '<polygon label="rod" points="4.00,1.00;9.00,5.50;6.00,7.00"/><ellipse label="rod" cx="9" cy="5" rx="3" ry="2"/>'
    '<box label="rod" xtl="6" ytl="4" xbr="14" ybr="6" rotation="30.00"/><polyline label="rod" points="1,1;2,2"/>'
    '<mask label="rod" rle="0, 3, 1, 2" left="3" top="2" width="3" height="2"/>'
)
# Texts that mean something to one of the formats, to a path, or to a parser of numbers.
TOKENS = (
    *(
        "..",
        "../../secret.png",
        "/secret.png",
        "C:\\secret.png",
        "http://x/a.png",
        "a::b",
        "%2e%2e/secret.png",
        "a" * 300,
    ),
    *(
        "-1",
        "0",
        "2",
        "1e999",
        "-1e308",
        "nan",
        "inf",
        "1_0",
        "9" * 400,
        "0x10",
        "true",
        "null",
        "1e-320",
        "2147483648",
    ),
    *('""', '"rod"', "[]", "{}", "[[]]", '[{"a": 1}]', '"\\ud800"', '"\\u0000"', '"polygon"', '"circle"', "\\u2028"),
    *(
        "<image/>",
        "<track/>",
        "<object>",
        "</object>",
        "&lt;",
        "&e;",
        "<!-- ",
        "<![CDATA[",
        "*a",
        "&a",
        "!!python/none",
    ),
    *("\0", "\n", "\r", "\t", " ", "'", '"', ":", ",", ";", "-", "\u20ac", "\udc80"),
)
VALUES = re.compile(rb'"[^"]*"|(?<=>)[^<>]+(?=<)|-?\d[\d.e]*')


class Mutation(NamedTuple):
    """A change of one file: its kind, a place (the number of a byte or of a value), a length, and what is put there."""

    kind: str
    place: int
    length: int
    put: bytes

    def of(self, data: bytes) -> bytes:
        values = list(VALUES.finditer(data))
        if self.kind in ("value", "quoted") and values:
            return self._of_value(data, values[self.place % len(values)])
        start = self.place % (len(data) + 1)
        return {
            "truncated": data[:start],
            "doubled": data + data,
            "cut": data[:start] + data[start + self.length :],
            "repeated": data[:start] + data[start : start + self.length] * 3 + data[start + self.length :],
        }.get(self.kind, data[:start] + self.put + data[start + self.length :])

    def _of_value(self, data: bytes, value: re.Match[bytes]) -> bytes:
        """A quoted value keeps its quotes if the kind is `quoted`."""
        quote = b'"' if self.kind == "quoted" and value[0].startswith(b'"') else b""
        return data[: value.start()] + quote + self.put + quote + data[value.end() :]


def richer(name: str, written: Written) -> Written:
    """A data set with more kinds of objects than boxes."""
    files = dict(written.files)
    if name == "coco":
        content = json.loads(files["train.json"])
        content["annotations"] += MORE_COCO
        files["train.json"] = json.dumps(content).encode()
    if name == "labelme":
        content = json.loads(files["train/a.json"])
        content["shapes"] += MORE_LABELME
        files["train/a.json"] = json.dumps(content).encode()
    if name == "cvat":
        files["annotations.xml"] = files["annotations.xml"].replace(b"</image>", MORE_CVAT.encode() + b"</image>", 1)
    if name == "yolo":
        files["labels/train/a.txt"] += b"1 .1 .2 .3 .2 .2 .6\n0 .2 .1 .4 .3 .3 .5 .1 .4\n"
    if name == "kitti":
        files["train/label_2/a.txt"] += b"DontCare -1 -1 -10 10.00 0.00 20.00 10.00 -1 -1 -1 -1000 -1000 -1000 -10\n"
    return written._replace(files=files)


BASES = {name: richer(name, write(PICTURES, ("disc", "rod"))) for name, (_, write) in WRITERS.items()}


def check_outcome(name: str, files: dict[str, bytes]) -> Split | str:
    """Read the files as `auto`, the manifest and prepare do; return the split, or the sentence."""
    with tempfile.TemporaryDirectory() as folder:
        placed = {"secret.png": SECRET} | {f"root/{path}": content for path, content in files.items()}
        for path, content in placed.items():
            place = Path(folder, path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        url = f"{folder}/root"
        for ask in (lambda: look(Root(url)), lambda: _describe(name, url)):
            _sentence_of(ask)
        return _check_read(name, url, files)


def _describe(name: str, url: str) -> None:
    describe(Root(url), WRITERS[name][0], BASES[name].splits, Digests(Path("nowhere")))


def _sentence_of(ask: Callable[[], Result]) -> Result | str:
    """The answer, or the sentence of an error, which must be one of ours."""
    try:
        return ask()
    except ValueError as raised:
        error = raised
    assert is_sentence(error)
    return str(error)


def _check_read(name: str, url: str, files: dict[str, bytes]) -> Split | str:
    answer = _sentence_of(lambda: read_splits(WRITERS[name][0], url, BASES[name].splits, difficult="crowd"))
    if isinstance(answer, str):
        return answer
    splits, notes = answer
    split = splits["train"]
    json.dumps(split.coco, allow_nan=False)
    format_report(summarise(splits, notes), shown=20, path="").encode()
    sizes = {image["id"]: (image["width"], image["height"]) for image in split.coco["images"]}
    assert {image["file_name"] for image in split.coco["images"]} <= set(files)
    assert hashlib.sha256(SECRET).hexdigest() not in {image["sha256"] for image in split.coco["images"]}
    for box in split.coco["annotations"]:
        x, y, w, h = box["bbox"]
        width, height = sizes[box["image_id"]]
        assert -1e-6 <= x < x + w <= width + 1e-6 and -1e-6 <= y < y + h <= height + 1e-6
    lost = [int(found[1]) for each in split.dropped if (found := re.search(r"its (\d+) boxes", each.reason))]
    own = sum(each.record != "image" for each in split.dropped)
    assert split.num_boxes == len(split.coco["annotations"]) + own + sum(lost)
    return split


def texts(name: str) -> list[str]:
    """The files of a format without its pictures."""
    return sorted(path for path in BASES[name].files if not path.endswith(".png"))


mutations = st.builds(
    Mutation,
    kind=st.sampled_from(["value", "value", "quoted", "quoted", "put", "cut", "truncated", "doubled", "repeated"]),
    place=st.integers(0, 4000),
    length=st.integers(0, 40),
    put=st.one_of(st.sampled_from(TOKENS).map(lambda text: text.encode(errors="surrogatepass")), st.binary(max_size=8)),
)


@pytest.mark.parametrize("name", WRITERS)
def test_whole_files_of_every_format_are_read_in_full(name: str) -> None:
    split = check_outcome(name, BASES[name].files)
    assert isinstance(split, Split)
    assert len(split.coco["images"]) == 2
    assert len(split.coco["annotations"]) >= 3


# Files that once ended in a traceback, or in a sentence about something else, and what they give now.
FAILED_ONCE = [
    # auto looked for the image of a name that is no JSON string
    ("coco", "train.json", b'"a.png"', b'"a\r.png"', "cannot be read as COCO JSON"),
    ("labelme", "train/a.json", b'"a.png"', b'"{\x17.png"', "cannot be read as JSON of LabelMe"),
    # half of a character: no file can have such a name, and no terminal prints it
    ("coco", "train.json", b'"a.png"', b'"\\ud800.png"', r"image 0 names '\\ud800\.png', which is not a relative path"),
    ("coco", "train.json", b'"name": "rod"', b'"name": "\\ud800"', r"class '\\ud800' has half a character in its name"),
    ("labelme", "train/a.json", b'"a.png"', b'"\\ud800.png"', r"names '.*\\ud800\.png', which is not a relative path"),
    ("labelme", "train/a.json", b'"rod"', b'"\xed\xb2\x80"', r"class '\\udc80' has half a character in its name"),
    # "cannot be used (File name too long); it must be a folder with free space"
    ("coco", "train.json", b'"a.png"', b'"' + b"a" * 300 + b'"', None),
    ("labelme", "train/a.json", b'"a.png"', b'"' + b"a" * 300 + b'"', None),
    ("voc", "Annotations/a.xml", b">a.png<", b">" + b"a" * 300 + b"<", None),
    # the events of a parser that stops
    ("cvat", "annotations.xml", b"<annotations>", b'<!DOCTYPE x [<!ENTITY e "">]><annotations>', "Entit"),
]


@pytest.mark.parametrize(("name", "path", "old", "new", "sentence"), FAILED_ONCE)
def test_file_that_once_failed(name: str, path: str, old: bytes, new: bytes, sentence: str | None) -> None:
    files = dict(BASES[name].files)
    assert old in files[path]
    outcome = check_outcome(name, files | {path: files[path].replace(old, new, 1)})
    assert isinstance(outcome, Split) if sentence is None else re.search(sentence, str(outcome))


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=50)
@given(data=st.data())
def test_mutated_files_give_valid_boxes_or_one_sentence(name: str, data: st.DataObject) -> None:
    files = dict(BASES[name].files)
    for _ in range(data.draw(st.integers(1, 2))):
        target = data.draw(st.sampled_from(texts(name)))
        files[target] = data.draw(mutations).of(files[target])
    check_outcome(name, files)
