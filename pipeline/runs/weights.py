"""The file of a training's initial weights on this machine: found, or downloaded once.

The driver does this before any worker starts. The file's content names the run, and a cluster gets it through the
storage (pipeline.runs.inputs), so no worker and no other node downloads anything from elsewhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import fsspec

from pipeline.params.detector import Model
from pipeline.params.paths import is_url, resolve_input
from pipeline.runs.checksums import CHECKSUMS
from pipeline.runs.downloads import download_once, file_for
from pipeline.runs.identity import ARCHIVE, BEST, ENDED, RunFolder, digest_file
from pipeline.runs.inputs import CACHE
from pipeline.runs.predecessor import checkpoints_of, list_folder, time_of
from pipeline.storage.outs import write_atomic
from pipeline.storage.stores import complaint

PYTORCH = "https://download.pytorch.org/models/"
COCO = {
    "coco": f"{PYTORCH}retinanet_resnet50_fpn_v2_coco-5905b1c5.pth",
    "coco_v1": f"{PYTORCH}retinanet_resnet50_fpn_coco-eeacb38b.pth",
}
"""torchvision's RetinaNets, trained on COCO."""

# The first version of each, for which the paper's learning rate was tuned.
IMAGENET = {
    "resnet18": f"{PYTORCH}resnet18-f37072fd.pth",
    "resnet34": f"{PYTORCH}resnet34-b627a593.pth",
    "resnet50": f"{PYTORCH}resnet50-0676ba61.pth",
    "resnet101": f"{PYTORCH}resnet101-63fe2227.pth",
    "resnet152": f"{PYTORCH}resnet152-394f9c45.pth",
    "resnext50_32x4d": f"{PYTORCH}resnext50_32x4d-7cdf4587.pth",
}
"""torchvision's ResNets, trained on ImageNet."""

MLFLOW = ("models:/", "runs:/")
RUN = "run:"
EXPECTED = (
    "coco, coco_v1, imagenet, a file, a URL, an MLflow model (models:/NAME@ALIAS, runs:/ID/NAME) or a run of this "
    "project (run:DIGEST)"
)

FetchModel = Callable[[str, Path], Path]
"""Returns the weights file of an MLflow model by its URI, below a folder: pipeline.tracking.registry.fetch_weights."""


def source_of(model: Model) -> str | None:
    """Return where model.weights come from: the URL of published ones, an absolute path, or what the user wrote.

    Raises:
        ValueError: for a file that is missing.
    """
    weights = model.weights
    if weights is None or weights.startswith((*MLFLOW, RUN)):
        return weights
    if weights in COCO or weights == "imagenet":
        return COCO[weights] if weights in COCO else IMAGENET[model.backbone]
    location = resolve_input(weights, name="model.weights")
    if not is_url(location) and not Path(location).is_file():
        raise ValueError(f"model.weights is {weights!r}: no such file; expected {EXPECTED}")
    return location


def find_weights(model: Model, *, storage: str, fetch_model: FetchModel) -> Path | None:
    """Return the local file of model.weights, None without weights; whatever is elsewhere is downloaded once.

    Args:
        storage: folder or URL of this project's runs.

    Raises:
        ValueError: naming what is missing, and where to put it.
    """
    source = source_of(model)
    if source is None:
        return None
    if source.startswith(MLFLOW):
        return fetch_model(source, cache_folder())
    if source.startswith(RUN):
        return fetch_run(source.removeprefix(RUN), storage)
    if not is_url(source):
        return Path(source)
    published = source in COCO.values() or source in IMAGENET.values()
    path = hub_folder() / source.rpartition("/")[2] if published else file_for(source, cache_folder())
    return download_once(source, path, name=str(model.weights))


def hub_folder() -> Path:
    """Return the folder of torch.hub's downloads, without importing torch: what torchvision has fetched is there."""
    home = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
    return Path(home).expanduser() / "hub/checkpoints"


def cache_folder() -> Path:
    """Return the user's folder of other downloaded weights."""
    return Path(CACHE).expanduser() / "weights"


def fetch_run(name: str, storage: str) -> Path:
    """Return the best detector of a finished run, copied from the storage once.

    Args:
        name: of the run's folder, as `reports/train.json` has it, or its first characters.

    Raises:
        ValueError: when there is no such run, it has not finished, or its detector is damaged.
    """
    folder = RunFolder(storage, find_run(name, storage))
    if folder.read(ENDED) is None:
        raise ValueError(f"model.weights is {RUN}{name}, but this run has not finished; run its training to the end")
    newest_first = sorted(checkpoints_of(folder), key=time_of, reverse=True)
    for place in (ARCHIVE, *(path.rpartition("/")[2] for path in newest_first)):
        digest = json.loads(folder.read(f"{place}/{CHECKSUMS}") or "{}").get(BEST)
        if digest is not None:
            return copy_detector(f"{folder.url}/{place}/{BEST}", digest)
    raise ValueError(f"model.weights is {RUN}{name}, but {folder.url} holds no detector; train it again")


def find_run(name: str, storage: str) -> str:
    """Return the full name of the one run in the storage that begins so."""
    runs = sorted(path.rpartition("/")[2] for path in list_folder(storage) if "-" in path.rpartition("/")[2])
    found = [run for run in runs if name and run.startswith(name)]
    if len(found) != 1:
        which = f"{len(found)} runs begin so: {', '.join(found[:3])}" if found else "there is no such run"
        known = f"; {storage} has {', '.join(runs[:5])}{', ..' if len(runs) > 5 else ''}" if runs and not found else ""
        raise ValueError(
            f"model.weights is {RUN}{name}: {which}{known}; give the name of a run as reports/train.json has it"
        )
    return found[0]


def copy_detector(location: str, digest: str) -> Path:
    """Copy a detector from the storage to the cache, under its digest."""
    kept = cache_folder() / f"{digest}.pt"

    def copy(temporary: Path) -> None:
        try:
            system, source = fsspec.url_to_fs(location)
            system.get_file(source, str(temporary))
        except OSError as error:
            raise ValueError(complaint(location, error)) from error
        if digest_file(temporary) != digest:
            raise ValueError(f"model.weights: {location} does not match its checksum; train that run again")

    if not kept.exists():
        write_atomic(kept, copy)
    return kept
