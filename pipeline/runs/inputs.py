"""Input files of a worker besides images: the prepared splits and the pretrained weights, available on every node.

On one machine workers read the files themselves. For a cluster the driver copies each file to the storage, which every
node must reach for the checkpoints anyway, under its digest, so that later runs reuse it. A node downloads it once, to
the user's cache. Nothing goes through Ray: neither its object store nor the configuration of each worker has to hold
450 MB of COCO, and a node that joins later finds the files too.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import fsspec
from filelock import FileLock
from fsspec.callbacks import TqdmCallback

from pipeline.runs.identity import digest_file
from pipeline.storage import stores
from pipeline.storage.outs import write_atomic

CACHE = "~/.cache/retinanet-pipeline"
"""Folder of the user on each node for downloads."""

SPLITS = {name: Path(f"data/prepared/{name}.json") for name in ("train", "val")}
ANCHORS = Path("anchors.json")
"""Inputs of a training, written by the stages prepare and anchor_stats."""


def publish(path: Path, storage: str) -> str:
    """Upload a file to the storage under its digest, unless it is there already.

    Returns:
        Its path or URL.

    Raises:
        ValueError: naming the storage, when it cannot be written.
    """
    location = f"{storage.rstrip('/')}/inputs/{digest_file(path)}{path.suffix}"
    progress = TqdmCallback(tqdm_kwargs={"desc": f"{path.name} to the storage", "unit": "B", "disable": None})
    try:
        system, target = fsspec.url_to_fs(location, auto_mkdir=True)
        if system.exists(target) and system.size(target) == path.stat().st_size:
            return location
        temporary = f"{target}.{socket.gethostname()}-{os.getpid()}"
        system.put_file(str(path), temporary, callback=progress)
        system.mv(temporary, target)
    except OSError as error:
        raise ValueError(stores.complaint(storage, error)) from error
    return location


def fetch(location: str) -> Path:
    """Return a local file for a path or a URL; a URL is downloaded once, to the cache.

    Raises:
        ValueError: naming file and node, when it cannot be read here.
    """
    node = socket.gethostname()
    if "://" not in location:
        if not Path(location).is_file():
            raise ValueError(
                f"{location} does not exist on node {node}; set storage in conf/ to a folder that every node sees, or "
                "to a URL, e.g. s3://bucket/runs"
            )
        return Path(location)
    kept = Path(CACHE).expanduser() / "inputs" / location.rpartition("/")[2]
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(kept.with_name(f"{kept.name}.lock")):  # all workers of a node start at the same time
        if not kept.exists():
            write_atomic(kept, lambda temporary: download(location, temporary, node))
    return kept


def download(location: str, path: Path, node: str) -> None:
    """Download a URL; see fetch."""
    try:
        system, source = fsspec.url_to_fs(location)
        system.get_file(source, str(path))
    except OSError as error:
        raise ValueError(f"node {node}: {stores.complaint(location, error)}") from error
    if digest_file(path) != Path(location).stem:
        raise ValueError(f"{location} does not match its digest; remove it, and run train again")


def check_pictures(root: str) -> None:
    """Check that this node sees the image folder.

    Raises:
        ValueError: naming folder and node.
    """
    if "://" not in root and not Path(root).is_dir():
        raise ValueError(
            f"the image folder {root} does not exist on node {socket.gethostname()}; set data_root in conf/ to a "
            "folder that every node sees, or to a URL, e.g. s3://bucket/pictures"
        )
