"""The command in on_end of conf/: its words and its placeholders, which are replaced within single arguments."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePath

PLACEHOLDER = re.compile(r"\{(\w+)\}")
NAMES = ("status", "run", "AP", "epoch", "url", "message")
"""What a placeholder may name; other braces, as of JSON, are text."""
SHELLS = ("ash", "bash", "dash", "fish", "ksh", "sh", "zsh")
SCRIPT = re.compile(r"-\w*c")  # the option of a shell before its script, also in `-ec`


def split_command(on_end: str | list[str]) -> list[str]:
    """The arguments of the command.

    Raises:
        ValueError: when a quote of a string is not closed.
    """
    return shlex.split(on_end) if isinstance(on_end, str) else list(on_end)


def fill(arguments: list[str], values: Mapping[str, str]) -> list[str]:
    """Replace the placeholders of each argument; what a value contains is not replaced again."""
    return [PLACEHOLDER.sub(lambda found: values[found[1]], argument) for argument in arguments]


def check_command(on_end: str | list[str]) -> Iterator[str]:
    """Return complaints about the command."""
    try:
        arguments = split_command(on_end)
    except ValueError as error:
        yield f"on_end is {on_end!r}: {str(error).lower()}; close it, or give a list of arguments"
        return
    if not arguments or not arguments[0]:
        yield "on_end is empty; give a command and its arguments, or null"
        return
    for name in dict.fromkeys(name for argument in arguments for name in PLACEHOLDER.findall(argument)):
        if name not in NAMES:
            close = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
            valid = ", ".join(f"{{{each}}}" for each in NAMES)
            hint = f"did you mean {{{close[0]}}}?" if close else f"valid here: {valid}"
            yield f"on_end has the unknown placeholder {{{name}}}; {hint}"
    if PLACEHOLDER.search(arguments[0]):
        yield f"on_end starts with {arguments[0]!r}; the name of the command must not hold a placeholder"
    if any(PLACEHOLDER.search(script) for script in scripts_of(arguments)):
        yield (
            "on_end has a placeholder in the script of a shell, which would run its value as code; use the variables "
            'instead, e.g. "$RETINANET_MESSAGE"'
        )


def scripts_of(arguments: list[str]) -> Iterator[str]:
    """Return the scripts that a shell among the arguments gets with -c."""
    shells = [index for index, argument in enumerate(arguments) if PurePath(argument).name in SHELLS]
    for index in range(shells[0] + 1 if shells else len(arguments), len(arguments) - 1):
        if SCRIPT.fullmatch(arguments[index]):
            yield arguments[index + 1]
