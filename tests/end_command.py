"""A command for on_end of conf/ that writes down its arguments and its variables."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SCRIPT = """
import json, os, sys
variables = {key: value for key, value in os.environ.items() if key.startswith("RETINANET_")}
with open(sys.argv[1], "a") as file:
    file.write(json.dumps({"arguments": sys.argv[2:], "variables": variables}) + "\\n")
"""


def telling(file: Path, *arguments: str) -> list[str]:
    """The command; its notes go to the file."""
    return [sys.executable, "-S", "-E", "-c", SCRIPT, str(file), *arguments]


def told_in(file: Path) -> list[dict[str, Any]]:
    """The notes: one for each time that it ran."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
