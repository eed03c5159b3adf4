"""Set values in a YAML file of parameters; comments and layout stay."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq


def edit_yaml(text: str, settings: Mapping[str, Any]) -> str:
    """Return the text with these values, by dotted key; a section that was null becomes one with these keys."""
    yaml = _round_trip()
    content = yaml.load(text)
    for name, value in settings.items():
        *outer, last = name.split(".")
        section = content
        for part in outer:
            if section[part] is None:
                section[part] = {}
            section = section[part]
        section[last] = value
    return _dump(yaml, content)


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Return values by dotted key as a YAML text of their sections; lists are in one line."""
    content: dict[str, Any] = {}
    for name, value in settings.items():
        *outer, last = name.split(".")
        section = content
        for part in outer:
            section = section.setdefault(part, {})
        section[last] = _in_one_line(value)
    return _dump(_round_trip(), content)


def as_command(settings: Mapping[str, Any]) -> str:
    """The command that runs the experiment with these values, by dotted key, as Hydra, which DVC uses, reads them."""
    return " ".join(["dvc exp run", *(f"-S {shlex.quote(f'{key}={_as_hydra(settings[key])}')}" for key in settings)])


def _as_hydra(value: Any) -> str:
    """Hydra takes no quotes around the keys of a mapping, and needs none around a word."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_as_hydra(inner)}' for key, inner in value.items())}}}"
    return value if isinstance(value, str) and re.fullmatch(r"[\w./-]+", value) else json.dumps(value)


def _in_one_line(value: Any) -> Any:
    """A list with the style [a, b]; other values as they are."""
    if not isinstance(value, list | tuple):
        return value
    sequence = CommentedSeq(value)
    sequence.fa.set_flow_style()
    return sequence


def _round_trip() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(type(None), lambda own, _: own.represent_scalar("tag:yaml.org,2002:null", "null"))
    return yaml


def _dump(yaml: YAML, content: object) -> str:
    out = io.StringIO()
    yaml.dump(content, out)
    return out.getvalue()
