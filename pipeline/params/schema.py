"""The JSON schema of params.yaml, by which editors complete and check it: `python -m pipeline.params.schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from pipeline.params import Params

SCHEMA = Path("params.schema.json")


class WithoutTitles(GenerateJsonSchema):
    """Pydantic's generator, without a title that repeats the name of each field."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Leave the titles of fields out."""
        return False


def build_schema() -> dict[str, Any]:
    """The schema: types, ranges and choices of every key, with the descriptions that the declarations give."""
    return {"$schema": WithoutTitles.schema_dialect, **Params.model_json_schema(schema_generator=WithoutTitles)}


def spell_schema() -> str:
    """The text of the file."""
    return json.dumps(build_schema(), indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(spell_schema(), encoding="utf-8")
