"""What a worker reads besides pictures: the prepared files and the backbone's weights, found on every node.

On one machine they are the files themselves. For a cluster the driver puts a copy of each into the storage, which
every node must reach anyway for the checkpoints, named by its digest: the runs that follow find it there. A node
fetches it from a URL once, into the cache of its user. Nothing of it goes through Ray, so that neither its object
store nor the configuration of each worker holds 450 MB of COCO, and a node that joins later finds it too.
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
from pipeline.storage.outs import write_whole

CACHE = "~/.cache/retinanet-pipeline"
"""Of the user on each node: what came from URLs."""

BUILT_IN = (None, "imagenet")
"""Values of model.weights that name no file."""


def publish(path: Path, storage: str) -> str:
    """Put a file into the storage under its digest, unless it is there.

    Returns:
        Where it is: a path or a URL.

    Raises:
        ValueError: naming the storage, when it takes nothing.
    """
    location = f"{storage.rstrip('/')}/inputs/{digest_file(path)}{path.suffix}"
    temporary = f"{location}.{socket.gethostname()}-{os.getpid()}"
    progress = TqdmCallback(tqdm_kwargs={"desc": f"{path.name} to the storage", "unit": "B", "disable": None})
    try:
        system, target = fsspec.url_to_fs(location, auto_mkdir=True)
        if system.exists(target) and system.size(target) == path.stat().st_size:
            return location
        system.put_file(str(path), system._strip_protocol(temporary), callback=progress)
        system.mv(system._strip_protocol(temporary), target)
    except OSError as error:
        raise ValueError(stores.complaint(storage, error)) from error
    return location


def fetch(location: str) -> Path:
    """The file at a path or a URL, as a file of this node; from a URL once, into the cache.

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
    with FileLock(kept.with_name(f"{kept.name}.lock")):  # the workers of a node come at once
        if not kept.exists():
            write_whole(kept, lambda temporary: download(location, temporary, node))
    return kept


def download(location: str, path: Path, node: str) -> None:
    """Copy what lies at a URL; see fetch."""
    try:
        system, source = fsspec.url_to_fs(location)
        system.get_file(source, str(path))
    except OSError as error:
        raise ValueError(f"node {node}: {stores.complaint(location, error)}") from error
    if digest_file(path) != Path(location).stem:
        raise ValueError(f"{location} is not what was put there; remove it, and run train again")


def check_pictures(root: str) -> None:
    """Refuse a folder of pictures that this node does not see.

    Raises:
        ValueError: naming folder and node.
    """
    if "://" not in root and not Path(root).is_dir():
        raise ValueError(
            f"the pictures' folder {root} does not exist on node {socket.gethostname()}; set data_root in conf/ to a "
            "folder that every node sees, or to a URL, e.g. s3://bucket/pictures"
        )
