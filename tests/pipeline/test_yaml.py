"""Laws of YAML: params.yaml and conf/ mean to the stages what they mean to DVC, and a mistake names line and column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import ParseError
from dvc.utils.serialize import parse_yaml as parse_as_dvc
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.params import load_params
from pipeline.params.reading import parse_yaml
from pipeline.params.runtime import load_runtime
from pipeline.sweep.__main__ import chosen_sweep

REPOSITORY = Path(__file__).parents[2]
SHIPPED = sorted([REPOSITORY / "params.yaml", *REPOSITORY.glob("conf/*.yaml"), *REPOSITORY.glob("presets/**/*.yaml")])

# Numbers of all notations, words that some YAML takes for booleans or null, and what marks other things than scalars.
NUMBERS = st.from_regex(
    r"[-+]?(0[xob]?)?[0-9_a-f]{0,4}(\.[0-9]{0,2})?([eE][-+]?[0-9]{0,2})?(:[0-9]{1,2})?", fullmatch=True
)
WORDS = st.sampled_from(
    [
        "yes",
        "no",
        "on",
        "off",
        "y",
        "n",
        "true",
        "false",
        "True",
        "FALSE",
        "tRue",
        "null",
        "~",
        ".inf",
        "-.Inf",
        ".nan",
        "=",
        "<<",
        "2001-12-14",
    ]
)
ANYTHING = st.text("0123456789+-._eExXobnyaf~:'\"#,[]{}&*!|>%@ \t\u00e9", max_size=8)


def meaning(parse: Callable[[], Any]) -> str:
    """What came out, with its type: 1, 1.0 and True differ, nan does not. Nothing is no params.yaml, nor is a list."""
    try:
        content = parse()
    except (ValueError, ParseError):
        return "refused"
    return repr(content) if isinstance(content, dict) and content else "refused"


@given(text=NUMBERS | WORDS | ANYTHING)
@example("010")
@example("1e-3")
@example("yes")
@example("1_000")
@example("1:30")
@example("0o17")
@example("a: 1")
def test_a_value_means_what_it_means_to_dvc(text: str) -> None:
    for document in (f"loss: {text}\n", f"loss:\n  {text}\n", f"loss: [{text}, 1]\n", f"{text}: 1\n"):
        ours = meaning(lambda document=document: parse_yaml(document, source="params.yaml"))
        assert ours == meaning(lambda document=document: parse_as_dvc(document, "params.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_shipped_files_mean_what_they_mean_to_dvc(path: Path) -> None:
    text = path.read_text()
    assert repr(parse_yaml(text, source=str(path))) == repr(parse_as_dvc(text, str(path)))


# YAML 1.2's core schema: a leading 0 is decimal, an exponent needs no point, and only true and false are booleans.
@pytest.mark.parametrize(
    ("text", "value"), [("010", 10), ("0o10", 8), ("1e-3", 0.001), ("yes", "yes"), ("on", "on"), ("true", True)]
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert repr(parse_yaml(f"a: {text}", source="params.yaml")) == repr({"a": value})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "loss:\n  gamma: 2.0\n  gamma: 1.5\n",
            'at line 3, column 3: the key "gamma" occurs twice; keep one of the two',
        ),
        ("a: [", "at line 1, column 5: while parsing a flow node, expected the node content, but found '<stream end>'"),
        ("a: 1\n b: 2", "at line 2, column 3: mapping values are not allowed here"),
        ("a: 1\nb: \x01", "at line 2, column 4: the character 0x01 is not allowed"),
        (
            "a: 1\n---\nb: 2",
            "at line 2, column 1: expected a single document in the stream, but found another document",
        ),
        ("a: !!python/name:os.system ''", "at line 1, column 4: could not determine a constructor for the tag"),
        ("a: 2001-13-01", ": month must be in 1..12"),
    ],
)
def test_mistake_is_one_sentence_with_line_and_column(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match="is not valid YAML") as caught:
        parse_yaml(text, source="params.yaml")
    told = str(caught.value)
    assert told.startswith(f"params.yaml is not valid YAML{'' if sentence.startswith(':') else ' '}{sentence}")
    assert "\n" not in told


def test_key_that_stands_twice_is_refused_in_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readers: dict[str, Callable[[Path], object]] = {
        "params.yaml": load_params,
        "conf/local.yaml": load_runtime,
        "presets/sweeps/gamma.yaml": lambda path: chosen_sweep(load_params(REPOSITORY / "params.yaml"), path),
    }
    for name, read in readers.items():
        path = tmp_path / Path(name).name
        path.write_text((REPOSITORY / name).read_text())
        read(path)
        twice = path.read_text().splitlines()
        path.write_text("\n".join([*twice, next(line for line in twice if line[:1].isalpha())]))
        with pytest.raises(
            ValueError, match=rf"{path.name} is not valid YAML at line {len(twice) + 1}, column 1: the key"
        ):
            read(path)


def test_error_does_not_repeat_the_values_of_a_key_that_stands_twice() -> None:
    with pytest.raises(ValueError, match="occurs twice") as caught:
        parse_yaml("storage: s3://KEY:hidden@bucket\nstorage: s3://KEY:secret@bucket\n", source="conf/local.yaml")
    assert "hidden" not in str(caught.value) and "secret" not in str(caught.value)
