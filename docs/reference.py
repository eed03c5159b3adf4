"""The reference page: every parameter of params.yaml and every key of conf/, made from their declarations.

The hooks of MkDocs (mkdocs.yml) are here too; `python -m docs.reference` prints the page. Types and ranges come from
pipeline/params, descriptions from there or, where a field has none, from the comment in the shipped file.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ruamel.yaml import YAML

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[1]
RUNTIME = ("local", "gpu", "cluster", "slurm", "sweep")
"""The files of conf/, in the order of the table's columns."""
AT_THE_TOP = ("CONTRIBUTING.md", "CHANGELOG.md")
"""Documents outside docs/ that are pages as well."""
LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
NAMES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}


class Parameter(NamedTuple):
    """One row of the page."""

    path: str
    kind: str
    description: str


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "reference.md", content=build_page()))
    for name in AT_THE_TOP:
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name.lower(), content=text))
    return files


def on_post_page(output: str, page: Any, config: MkDocsConfig) -> str:
    """Refuse a page that loads a script, a style or a picture from another host."""
    from mkdocs.exceptions import PluginError

    foreign = re.findall(r"<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^\s\">]+", output)
    if foreign:
        raise PluginError(f"{page.file.src_uri} loads {foreign[0]}; keep all files of the site in the site")
    return output


def build_page() -> str:
    """The whole page as Markdown."""
    params, conf = schemas()
    shipped = read_commented(ROOT / "params.yaml")
    files = {name: read_commented(ROOT / f"conf/{name}.yaml") for name in RUNTIME}
    sections = [
        "# Reference",
        "Every key must be present in `params.yaml` and in each file of `conf/`; an unknown key is an error. "
        "This page is made from `pipeline/params`, `params.yaml`, `dvc.yaml` and `conf/` (`make docs`).",
        "## params.yaml",
        "Everything that can change a result. Default: the shipped `params.yaml`.",
    ]
    for name, schema in params["properties"].items():
        heading = f"### {name}\n\n{resolve(schema, params).get('description', '')}{stages_of(name)}".rstrip()
        rows = list(parameters(params, schema, name, shipped))
        cells = [[f"`{row.path}`", row.kind, f"`{default_of(shipped, row.path)}`", row.description] for row in rows]
        sections += [heading, table(["parameter", "value", "default", "meaning"], cells)]
    rows = list(parameters(conf, conf, "", files["local"]))
    cells = [[f"`{row.path}`", row.kind, *values(files, row.path), row.description] for row in rows]
    sections += [
        "## conf/*.yaml",
        "Where an experiment runs: the environment variable `PIPELINE_CONF` names the file, `conf/local.yaml` is the "
        "default. No key changes a result at equal `precision`.",
        table(["key", "value", *RUNTIME, "meaning"], cells),
    ]
    return "\n\n".join(sections) + "\n"


def schemas() -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON schemas of params.yaml and of a file of conf/."""
    sys.path.insert(0, str(ROOT))
    try:
        from pipeline.params import Params
        from pipeline.params.runtime import RuntimeConfig
    finally:
        sys.path.pop(0)
    return Params.model_json_schema(), RuntimeConfig.model_json_schema()


def parameters(root: Mapping[str, Any], schema: Mapping[str, Any], path: str, shipped: Any) -> Iterator[Parameter]:
    """The leaves of a schema with their dotted paths; a section that may be null, or something else, also itself."""
    inner = section_in(schema, root)
    if inner is None or ("anyOf" in schema and "." in path):
        yield Parameter(path, kind_of(schema, root), schema.get("description") or comment_of(shipped, path))
    if inner is None:
        return
    for key, value in inner["properties"].items():
        yield from parameters(root, value, f"{path}.{key}" if path else key, shipped)


def section_in(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema of the section that a field holds, None for a value."""
    for candidate in (schema, *schema.get("anyOf", [])):
        resolved = resolve(candidate, root)
        if "properties" in resolved:
            return resolved
    return None


def resolve(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema, or the one that its $ref names."""
    name = schema.get("$ref", "").rpartition("/")[2]
    found: Mapping[str, Any] = root["$defs"][name] if name else schema
    return found


def kind_of(schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """Type, choices and range of a value, in words."""
    schema = resolve(schema, root)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind_of(member, root) for member in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{choice}`" for choice in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return list_kind(schema, root)
    if schema.get("type") == "object":
        return "mapping"
    limits = " and ".join(f"{sign} {schema[limit]:g}" for limit, sign in LIMITS.items() if limit in schema)
    return f"{NAMES.get(schema.get('type', ''), 'any')} {limits}".rstrip()


def list_kind(schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """A list with its length and what it holds."""
    fewest, most = schema.get("minItems"), schema.get("maxItems")
    length = f" of {fewest}" if fewest and fewest == most else ""
    return f"list{length} ({kind_of(schema.get('items', {}), root)})"


def read_commented(path: Path) -> Any:
    """A YAML file as mappings that know their comments."""
    return YAML().load(path.read_text(encoding="utf-8"))


def place_of(shipped: Any, path: str) -> tuple[Any, str]:
    """The mapping that holds a dotted path, and the key in it; ({}, key) where the file has null on the way."""
    *outer, key = path.split(".")
    for name in outer:
        shipped = (shipped or {}).get(name)
    return shipped or {}, key


def default_of(shipped: Any, path: str) -> str:
    """The shipped value, as JSON, which is YAML too; long ones are cut."""
    mapping, key = place_of(shipped, path)
    value = json.dumps(mapping.get(key))
    return value if len(value) <= 60 else f"{value[:57]}..."


def comment_of(shipped: Any, path: str) -> str:
    """The comment that ends the line of a dotted path."""
    mapping, key = place_of(shipped, path)
    tokens = mapping.ca.items.get(key, [None] * 3) if mapping else [None] * 3
    lines = [token.value for token in tokens[2:3] if token is not None and token.value.startswith("#")]
    return lines[0].splitlines()[0].lstrip("# ") if lines else ""


def stages_of(section: str) -> str:
    """A sentence with the stages of dvc.yaml that depend on a section."""
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    names = {
        name: [entry for entry in stage.get("params", []) if entry == section or str(entry).startswith(f"{section}.")]
        for name, stage in stages.items()
    }
    read = [f"`{name}`" for name, entries in names.items() if entries]
    return f" A change runs these stages again: {', '.join(read)}." if read else " No stage of `dvc.yaml` reads it."


def values(files: Mapping[str, Any], path: str) -> list[str]:
    """The value in each file of conf/."""
    return [f"`{default_of(content, path)}`" for content in files.values()]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    print(build_page(), end="")
