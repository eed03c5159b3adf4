"""Read a YAML file and validate it as a section, with messages that say what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.reader import ReaderError

from pipeline.params.credentials import credentials_in
from pipeline.params.section import Section

SectionType = TypeVar("SectionType", bound=Section)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; run from the folder of dvc.yaml") from None
    return parse_yaml(text, source=str(path))


def parse_yaml(text: str, *, source: str) -> dict[str, Any]:
    """Parse the mapping in a YAML text as DVC does: YAML 1.2, with the same parser.

    Raises:
        ValueError: naming source, line and column, for what is no YAML, a key that stands twice, or no mapping.
    """
    try:
        content = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError) as error:  # ValueError: an invalid value for its tag or form, e.g. 2001-13-01
        raise ValueError(explain_yaml(error, text, source=source)) from None
    if not isinstance(content, dict):
        raise ValueError(f"{source} holds {type(content).__name__}, expected a mapping of sections")
    return content


def parse_plain_yaml(text: str, *, source: str, deepest: int) -> dict[str, Any]:
    """Parse the mapping in a YAML text from anywhere.

    Refuse aliases, of which a few lines stand for gigabytes, and depth, in which the parser's time is quadratic.
    """
    depth = 0
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if isinstance(event, AliasEvent):
                raise ValueError(f"{source} contains a YAML alias (*name); write the value out")
            if depth > deepest:
                raise ValueError(f"{source} is nested more than {deepest} levels deep; remove what is not needed")
        return parse_yaml(text, source=source)
    except YAMLError as error:
        raise ValueError(explain_yaml(error, text, source=source)) from None
    except (TypeError, KeyError, IndexError, AttributeError, AssertionError, OverflowError) as error:  # its own bugs
        raise ValueError(f"{source} cannot be read as YAML ({type(error).__name__}: {error})") from None


def explain_yaml(error: Exception, text: str, *, source: str) -> str:
    """Return one sentence for an error of the parser, with line and column if known."""
    where, reason = "", str(error).partition("\n")[0]
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        where = f" at line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
        reason = ", ".join(part for part in (error.context, error.problem) if part)
    if isinstance(error, DuplicateKeyError):  # its own message repeats both values
        key = str(error.problem).partition(" with value ")[0].removeprefix("found duplicate key ")
        reason = f"the key {key} occurs twice; keep one of the two"
    if isinstance(error, ReaderError):
        before = text[: error.position]
        where = f" at line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"
        reason = f"the character {ord(text[error.position]):#04x} is not allowed"
    return f"{source} is not valid YAML{where}: {reason}"


def validate(section: type[SectionType], content: Mapping[str, Any], path: Path) -> SectionType:
    """Validate a mapping against its section and freeze it; raise all complaints in one ValueError."""
    secrets = list(credentials_in(content))  # first, because the other complaints repeat values
    if secrets:
        raise ValueError(f"{path}: " + "\n  ".join(secrets))
    try:
        checked = section.model_validate(content)
    except ValidationError as error:
        # Wrong keys come before missing ones: a misspelt key is both.
        errors = sorted(error.errors(), key=lambda details: details["type"] == "missing")
        complaints = [describe(section, details) for details in errors]
        raise ValueError(f"{path}: " + "\n  ".join(one_per_key(complaints))) from None
    complaints = list(all_complaints(checked))
    if complaints:
        raise ValueError(f"{path}: " + "\n  ".join(complaints))
    return checked


def one_per_key(complaints: list[str]) -> list[str]:
    """Keep the most specific sentence per location: a union complains for each member, and for a list and its entry."""
    by_key: dict[str, list[str]] = {}
    for complaint in complaints:
        by_key.setdefault(complaint.partition(" ")[0], []).append(complaint)
    return [
        join_members(members)
        for key, members in by_key.items()
        if not any(other.startswith(f"{key}.") for other in by_key)
    ]


def join_members(complaints: list[str]) -> str:
    """Join the expectations of all members of a union: `x is 0: input should be 'stop', or at least 1`."""
    first, expected = complaints[0], "input should "
    if "; " in first or expected not in first:
        return first  # the more specific one
    others = [complaint.partition(expected)[2] for complaint in complaints[1:] if expected in complaint]
    return ", or ".join([first, *dict.fromkeys(others)])


def all_complaints(section: Section, prefix: str = "") -> Iterator[str]:
    """Return the complaints of a section and its subsections, with dotted paths."""
    yield from (prefix + complaint for complaint in section.check())
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from all_complaints(value, f"{prefix}{name}.")


def describe(section: type[BaseModel], details: Any) -> str:
    """Return one sentence for an error of pydantic: dotted path, value, expectation."""
    location = [str(part) for part in details["loc"]]
    keys = path_of_keys(section, location)
    dotted, value = ".".join(keys), details["input"]
    if details["type"] == "extra_forbidden":
        outer = ".".join(keys[:-1])
        return f"{dotted} is not a parameter{nearest(keys[-1], known_keys(section, keys[:-1]), outer=outer)}"
    if details["type"] == "missing":
        return f"{dotted} is missing; every key of the shipped params.yaml must be present"
    hint = ""
    if details["type"] == "literal_error" and isinstance(value, str):
        hint = nearest(str(value), [str(choice) for choice in literal_choices(section, keys)])
    return f"{dotted} is {value!r}: {details['msg'][0].lower()}{details['msg'][1:]}{hint}"


def nearest(word: str, valid: list[str], *, outer: str = "") -> str:
    """Return a suggestion of the nearest valid word; `outer` is the dotted path before it."""
    spelling = {choice.lower(): choice for choice in valid}
    close = difflib.get_close_matches(word.lower(), spelling, n=1, cutoff=0.5)
    prefix = f"{outer}." if outer else ""
    if close:
        return f"; did you mean {prefix}{spelling[close[0]]}?"
    return f"; valid here: {', '.join(prefix + choice for choice in valid)}"


def path_of_keys(section: type[BaseModel], location: list[str]) -> list[str]:
    """Return pydantic's location without the names of union members."""
    keys: list[str] = []
    fields = section.model_fields
    for position, part in enumerate(location):
        last = position == len(location) - 1
        if part in fields:
            keys.append(part)
            inner = inner_section(fields[part].annotation)
            fields = inner.model_fields if inner else {}
        elif part.isdigit() or (last and fields):
            keys.append(part)
    return keys


def inner_section(annotation: Any) -> type[BaseModel] | None:
    """Return the section class of a field, if it is one."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def known_keys(section: type[BaseModel], keys: list[str]) -> list[str]:
    """Return the valid keys at a location."""
    for key in keys:
        section = inner_section(section.model_fields[key].annotation) or section
    return list(section.model_fields)


def literal_choices(section: type[BaseModel], keys: list[str]) -> list[object]:
    """Return the valid values of a field with a fixed choice."""
    for key in keys[:-1]:
        section = inner_section(section.model_fields[key].annotation) or section
    annotation = section.model_fields[keys[-1]].annotation
    return [
        choice for part in (annotation, *get_args(annotation)) for choice in get_args(part) if isinstance(choice, str)
    ]


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
