"""JSON schemas of params.yaml and conf/*.yaml for editors: `python -m pipeline.params.schema` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from pipeline.params import Params
from pipeline.params.runtime import RuntimeConfig

SCHEMAS: Mapping[Path, type[BaseModel]] = {
    Path("params.schema.json"): Params,
    Path("conf.schema.json"): RuntimeConfig,
}


class WithoutTitles(GenerateJsonSchema):
    """Pydantic's generator, without a title that repeats the name of each field."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Leave the titles of fields out."""
        return False


def build_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Types, ranges, choices and descriptions of all keys, from the declarations."""
    return {"$schema": WithoutTitles.schema_dialect, **model.model_json_schema(schema_generator=WithoutTitles)}


def format_schema(model: type[BaseModel]) -> str:
    """Return the content of a schema file."""
    return json.dumps(build_schema(model), indent=2) + "\n"


if __name__ == "__main__":
    for path, model in SCHEMAS.items():
        path.write_text(format_schema(model), encoding="utf-8")
