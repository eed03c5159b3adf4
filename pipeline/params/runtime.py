"""Where a run takes place: conf/*.yaml. Nothing in here changes a result at equal precision."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.reading import read_yaml, validate
from pipeline.params.section import Count, CountOrZero, NotNegative, Positive, Section


class Place(Section):
    """A file of conf/."""

    address: str
    "`local` starts a Ray here; else a cluster's address. RAY_ADDRESS wins."
    workers: Count | Annotated[list[Count], Field(min_length=2, max_length=2)]
    "So many; or the fewest and the most: it goes on with fewer when nodes leave, and takes up new ones."
    cpus_per_worker: Count
    "Also the threads of a worker."
    gpus_per_worker: NotNegative
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"]
    "Of the convolutions in training; evaluation is always fp32. auto: bf16 where it is native, else fp32."
    images_per_step: Count | None
    "Images that a worker holds at once; null: all of its share of a batch."
    loader_processes: CountOrZero
    cache_images: bool
    "Decoded pictures stay in the workers' memory, as many as fit half of what the node has left."
    channels_last: bool
    recompute: bool
    "Activations are computed again in the backward pass instead of being kept."
    compile: bool
    backend: Literal["gloo", "nccl"]
    storage: str
    "Folder or URL of checkpoints and results."
    data_root: str | None
    checkpoint_every: Count | None
    "Optimiser steps between checkpoints within an epoch; null: only at its end."
    resume: Literal["auto", "always", "never"]
    "From the last checkpoint: of the same run; also of one that other code began; or from the start."
    max_failures: Annotated[int, Field(ge=0)]
    start_timeout_s: Positive
    hang_timeout_s: Positive
    "A worker that gives no sign of life for so long is taken for dead."
    trials_at_once: Count | None
    "Of a sweep; null: as many as the resources hold."
    verbose: bool
    "Workers' output is shown by the command that runs them; else only Ray's logs on their nodes have it."

    def check(self) -> list[str]:
        """NCCL and TF32 need GPUs, and a loader process forgets its pictures with every epoch."""
        complaints = []
        if self.backend == "nccl" and self.gpus_per_worker == 0:
            complaints.append("backend is nccl, but gpus_per_worker is 0; use gloo")
        if self.precision == "tf32" and self.gpus_per_worker == 0:
            complaints.append("precision is tf32, which a GPU computes, but gpus_per_worker is 0; use fp32")
        if self.cache_images and self.loader_processes > 0:
            complaints.append(f"cache_images is true, which needs loader_processes 0, not {self.loader_processes}")
        if self.fewest > self.most:
            complaints.append(f"workers is [{self.fewest}, {self.most}]; expected the fewest first, then the most")
        return complaints

    @property
    def fewest(self) -> int:
        """Workers without which a run does not begin."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        """Workers that a run can make use of."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


def place_path(default: str = "conf/local.yaml") -> Path:
    """The file that PIPELINE_CONF names."""
    return Path(os.environ.get("PIPELINE_CONF", default)).expanduser()


def load_place(path: Path | None = None) -> Place:
    """The file of that path, by default the one that PIPELINE_CONF names, conf/local.yaml without.

    Raises:
        ValueError: naming the file, the key, what came and what was expected.
    """
    path = place_path() if path is None else path
    if not path.exists():
        known = ", ".join(str(file) for file in sorted(Path("conf").glob("*.yaml")))
        raise ValueError(f"PIPELINE_CONF is {path}, which does not exist; there are {known}")
    return validate(Place, read_yaml(path), path)
