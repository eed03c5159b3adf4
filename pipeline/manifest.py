"""Stage manifest: the current state of what lies outside the project, the data set's files and the initial weights.

DVC runs it every time; prepare depends on data/manifest.json and train on data/weights.json, so both run again only
when those have changed. So DVC itself never looks at data.root or model.weights, which may be URLs of a kind that it
does not know.
"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from pipeline.cli.command import Command
from pipeline.formats import declared_files
from pipeline.formats.digests import Digests
from pipeline.formats.looking import AUTO, resolve
from pipeline.formats.root import Root
from pipeline.formats.sources import describe, has_sources
from pipeline.params import Params, load_params
from pipeline.params.data import Data
from pipeline.params.paths import storage_location
from pipeline.params.runtime import load_runtime
from pipeline.runs.identity import digest_file
from pipeline.runs.weights import find_weights
from pipeline.storage.outs import write_json
from pipeline.tracking.registry import fetch_weights

MANIFEST = Path("data/manifest.json")
WEIGHTS = Path("data/weights.json")
DIGESTS = Path("data/digests.json")

DESCRIPTION = """\
Check whether the annotation files and image folders under data.root have changed, without reading unchanged files:
local files by their digests, others by the size and the time or tag that their server reports.

Find the file of model.weights, and download it if need be.

reads    params.yaml (data, model.weights), the files under data.root, the initial weights
writes   data/manifest.json, on which prepare depends
         data/weights.json: the digest of the initial weights, on which train depends
         data/digests.json: digests of local files, so that a file is read once
"""


def work(options: Namespace) -> None:
    """Run the stage in the folder of params.yaml."""
    params = load_params()
    data = params.data
    note_weights(params)
    if data.format == "shapes":
        write_json(MANIFEST, {"root": None, "sources": {}})
        return print("shapes are drawn; there are no files to check")
    before = json.loads(MANIFEST.read_text(encoding="utf-8")) if MANIFEST.exists() else {}
    content = build_manifest(data, before)
    if content != before:
        write_json(MANIFEST, content)
    print(summary(data.root, content, before))


def note_weights(params: Params) -> None:
    """Write the digest of the initial weights, unless it is as before.

    Weights that are missing on this machine keep the digest in git: a model trained from them stays valid.

    Raises:
        ValueError: when they cannot be found or downloaded, and other weights were noted before.
    """
    before = json.loads(WEIGHTS.read_text(encoding="utf-8")) if WEIGHTS.exists() else {}
    name, digest = params.model.weights, None
    if name is not None:
        try:
            path = find_weights(params.model, storage=storage_location(load_runtime()), fetch_model=fetch_weights)
        except ValueError as error:
            if before.get("weights") != name:
                raise
            return print(f"{error}; {WEIGHTS} was not changed")
        digest = None if path is None else digest_file(path)
    content = {"weights": name, "sha256": digest}
    if content != before:
        write_json(WEIGHTS, content)


def build_manifest(data: Data, before: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of the current data set.

    A folder that is missing on this machine keeps the manifest in git: its prepared files stay valid, and
    can be pulled and trained on without the raw data.

    Raises:
        ValueError: when there is no such folder, or a server does not answer.
    """
    root = Root(data.root)
    if root.is_local and not root.exists():
        return keep_previous(root, data, before)
    name, files, _ = resolve(data)
    digests = Digests(DIGESTS)
    sources = describe(root, name, files, digests, data.tables)
    if root.is_local:
        digests.keep()
    return {"root": data.root, "sources": sources}


def keep_previous(root: Root, data: Data, before: dict[str, Any]) -> dict[str, Any]:
    """Return the previous manifest, if it has the same sources; which ones `auto` would find is not known here."""
    sources = before.get("sources", {})
    is_same = data.format == AUTO or has_sources(root, data.format, declared_files(data), sources, data.tables)
    if before.get("root") != data.root or not is_same:
        raise ValueError(
            f"data.root: there is no folder {data.root} here; set it to the folder or URL of the data set, or fetch "
            f"the data with `dvc pull {data.root}`"
        )
    return before


def summary(url: str, content: dict[str, Any], before: dict[str, Any]) -> str:
    """Format one line on changes, and one on files that are not checked."""
    root, sources, old = Root(url), content["sources"], before.get("sources", {})
    if root.is_local and not root.exists():
        return f"{url} is not on this machine; {MANIFEST} was not changed"
    changed = sorted(path for path in sources if sources[path] != old.get(path))
    files = sum(entry.get("files", 1) for entry in sources.values())
    line = f"{url}: {files} files, " + (f"changed: {', '.join(changed)}" if changed else "none has changed")
    if root.can_list:
        return line
    return (
        f"{line}; {root.protocol} cannot list folders, so only annotation files are checked: if an image has "
        "changed under the same name, run `dvc repro -f prepare`"
    )


COMMAND = Command("manifest", DESCRIPTION, work)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
