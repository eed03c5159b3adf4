"""From a YAML file to a checked section, with errors that a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.params.section import Section

SectionType = TypeVar("SectionType", bound=Section)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; run from the folder of dvc.yaml") from None
    return parse_yaml(text, source=str(path))


def parse_yaml(text: str, *, source: str) -> dict[str, Any]:
    """The mapping that a YAML text holds; an error names its source."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{source} holds {type(content).__name__}, expected a mapping of sections")
    return content


def validate(section: type[SectionType], content: Mapping[str, Any], path: Path) -> SectionType:
    """Check a mapping against its section and freeze it; every complaint in one ValueError."""
    try:
        checked = section.model_validate(content)
    except ValidationError as error:
        # What is there but wrong comes before what is missing: a misspelt key is both.
        errors = sorted(error.errors(), key=lambda details: details["type"] == "missing")
        complaints = [describe(section, details) for details in errors]
        raise ValueError(f"{path}: " + "\n  ".join(one_per_place(complaints))) from None
    complaints = list(all_complaints(checked))
    if complaints:
        raise ValueError(f"{path}: " + "\n  ".join(complaints))
    return checked


def one_per_place(complaints: list[str]) -> list[str]:
    """One sentence per place, the most exact: a union complains for each member, of a list and of the entry in it."""
    by_place: dict[str, list[str]] = {}
    for complaint in complaints:
        by_place.setdefault(complaint.partition(" ")[0], []).append(complaint)
    return [
        join_members(members)
        for place, members in by_place.items()
        if not any(other.startswith(f"{place}.") for other in by_place)
    ]


def join_members(complaints: list[str]) -> str:
    """What each member of a union expects, in one sentence: `x is 0: input should be 'stop', or at least 1`."""
    first, expected = complaints[0], "input should "
    if "; " in first or expected not in first:
        return first  # it knows better
    others = [complaint.partition(expected)[2] for complaint in complaints[1:] if expected in complaint]
    return ", or ".join([first, *dict.fromkeys(others)])


def all_complaints(section: Section, prefix: str = "") -> Iterator[str]:
    """The complaints of a section and of those inside it, with dotted paths."""
    yield from (prefix + complaint for complaint in section.check())
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from all_complaints(value, f"{prefix}{name}.")


def describe(section: type[BaseModel], details: Any) -> str:
    """One sentence for one error of pydantic: the dotted path, what came, what was expected."""
    location = [str(part) for part in details["loc"]]
    keys = path_of_keys(section, location)
    dotted, value = ".".join(keys), details["input"]
    if details["type"] == "extra_forbidden":
        outer = ".".join(keys[:-1])
        return f"{dotted} is not a parameter{nearest(keys[-1], known_keys(section, keys[:-1]), outer=outer)}"
    if details["type"] == "missing":
        return f"{dotted} is missing; every key of the shipped params.yaml must be there"
    hint = f"; to YAML this is text, write {spell_number(value)}" if looks_like_number(value) else ""
    if details["type"] == "literal_error" and isinstance(value, str):
        hint = nearest(str(value), [str(choice) for choice in literal_choices(section, keys)])
    return f"{dotted} is {value!r}: {details['msg'][0].lower()}{details['msg'][1:]}{hint}"


def looks_like_number(value: object) -> bool:
    """True for text that Python, unlike YAML 1.1, reads as a number."""
    try:
        float(value)  # type: ignore[arg-type]  # whatever float refuses is no number
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)


def spell_number(text: str) -> str:
    """A number as YAML 1.1 reads it: 1e-3 as 0.001, 1e-5 as 1.0e-05."""
    spelt = text if text.strip().isdigit() else repr(float(text))
    return spelt if "e" not in spelt or "." in spelt else spelt.replace("e", ".0e")


def nearest(word: str, valid: list[str], *, outer: str = "") -> str:
    """A hint at the valid word that is nearest to what came; `outer` is the dotted path before it."""
    spelling = {choice.lower(): choice for choice in valid}
    close = difflib.get_close_matches(word.lower(), spelling, n=1, cutoff=0.5)
    prefix = f"{outer}." if outer else ""
    if close:
        return f"; did you mean {prefix}{spelling[close[0]]}?"
    return f"; valid here: {', '.join(prefix + choice for choice in valid)}"


def path_of_keys(section: type[BaseModel], location: list[str]) -> list[str]:
    """A location of pydantic without the names of union members that it mixes in."""
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
    """The section that a field holds, if it holds one."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def known_keys(section: type[BaseModel], keys: list[str]) -> list[str]:
    """The keys that are valid at a place."""
    for key in keys:
        section = inner_section(section.model_fields[key].annotation) or section
    return list(section.model_fields)


def literal_choices(section: type[BaseModel], keys: list[str]) -> list[object]:
    """The values that a field with a fixed choice takes."""
    for key in keys[:-1]:
        section = inner_section(section.model_fields[key].annotation) or section
    annotation = section.model_fields[keys[-1]].annotation
    return [
        choice for part in (annotation, *get_args(annotation)) for choice in get_args(part) if isinstance(choice, str)
    ]


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
