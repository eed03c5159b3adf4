"""Runtime configuration: conf/*.yaml. Resources, precision, storage; at equal precision it changes no result."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.params.credentials import is_secret
from pipeline.params.end_command import check_command
from pipeline.params.reading import read_yaml, validate
from pipeline.params.section import Count, CountOrZero, NotNegative, Positive, Section

# As Ray and Kubernetes have them: an optional prefix, a name, and a value or several.
NAME = r"[a-zA-Z0-9](?:[\w.-]{0,61}[a-zA-Z0-9])?"
LABEL = re.compile(rf"(?:{NAME}/)?{NAME}")
SELECTOR = re.compile(rf"!?(?:{NAME}|in\({NAME}(?:, ?{NAME})*\))")


class RuntimeConfig(Section):
    """A file of conf/."""

    address: str
    "`local` starts Ray on this machine; otherwise the address of a cluster. RAY_ADDRESS takes precedence."
    workers: Count | Annotated[list[Count], Field(min_length=2, max_length=2)]
    "A number, or [fewest, most]: an elastic run that continues with fewer workers when nodes leave and adds new ones."
    cpus_per_worker: Count
    "Also the number of threads of a worker."
    gpus_per_worker: NotNegative
    accelerator_type: str | None
    "Type of GPU, as Ray names it (H100, A100-80G, L4): workers run on nodes with it alone; null: on any."
    labels: dict[str, str]
    "Workers run on nodes with these labels alone; a value may be `a`, `!a`, `in(a, b)` or `!in(a, b)`."
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"]
    "Precision of the convolutions in training; evaluation is always fp32. auto: bf16 where it is native, else fp32."
    images_per_step: Count | None
    "Micro-batch of a worker (gradient accumulation); null: its whole share of a batch."
    loader_processes: CountOrZero
    cache_images: bool
    "Keep decoded images in the workers' memory, as many as fit into half of the node's free memory."
    channels_last: bool
    recompute: bool
    "Activation checkpointing: recompute activations in the backward pass instead of storing them."
    compile: bool
    "torch.compile of the network, cut at the buckets in which gradients travel between workers."
    cuda_graphs: bool
    "Forward pass, loss and backward pass of a training step as one CUDA graph; needs GPUs and transforms.canvas."
    deterministic: bool
    "Deterministic algorithms: on a GPU, equal runs are equal to the bit instead of up to rounding, and slower."
    backend: Literal["gloo", "nccl"]
    storage: str
    "Folder or URL of checkpoints and results."
    data_root: str | None
    checkpoint_every: Count | None
    "Optimiser steps between checkpoints; null: one checkpoint at the end of every epoch."
    resume: Literal["auto", "always", "never"]
    "auto: from the last checkpoint of the same run; always: also if older code started it; never: from the start."
    max_failures: Annotated[int, Field(ge=0)]
    start_timeout_s: Positive
    hang_timeout_s: Positive
    "A worker without a heartbeat for this long counts as dead."
    max_hours: Positive | None
    "Hours after the start of the command at which it stops with a checkpoint, as on SIGTERM; null: no limit."
    on_end: str | list[str] | None
    "Command that train and sweep run when they end: a list of arguments, or a string that is split like a shell's. \
{status}, {run}, {AP}, {epoch}, {url} and {message} are replaced; null: none."
    trials_at_once: Count | None
    "Concurrent trials of a sweep; null: as many as the resources allow."
    environment: dict[str, str]
    "Environment variables of the workers, over the pipeline's own."
    dashboard: bool
    "Start Ray's dashboard with a local Ray; a cluster has its own. Its address is printed, and a tag in MLflow."
    verbose: bool
    "Show the workers' output in the driver; otherwise it is only in Ray's logs on their nodes."

    def check(self) -> list[str]:
        """NCCL, TF32 and CUDA graphs need GPUs; loader processes lose their cached pictures at the end of an epoch."""
        complaints = [*self.placement_complaints()]
        if self.backend == "nccl" and self.gpus_per_worker == 0:
            complaints.append("backend is nccl, but gpus_per_worker is 0; use gloo")
        if self.precision == "tf32" and self.gpus_per_worker == 0:
            complaints.append("precision is tf32, which a GPU computes, but gpus_per_worker is 0; use fp32")
        if self.cuda_graphs and self.gpus_per_worker == 0:
            complaints.append("cuda_graphs is true, but gpus_per_worker is 0; use false")
        if self.cache_images and self.loader_processes > 0:
            complaints.append(f"cache_images is true, which needs loader_processes 0, not {self.loader_processes}")
        if self.fewest > self.most:
            complaints.append(f"workers is [{self.fewest}, {self.most}]; expected the fewest first, then the most")
        if self.on_end is not None:
            complaints += check_command(self.on_end)
        return complaints

    def placement_complaints(self) -> Iterator[str]:
        """Yield what is wrong with accelerator_type, labels and environment."""
        if self.accelerator_type is not None and self.gpus_per_worker == 0:
            yield f"accelerator_type is {self.accelerator_type}, but gpus_per_worker is 0; use null"
        if self.labels and self.fewest != self.most:
            yield (
                f"labels choose nodes, but workers is {self.workers}, and Ray counts nodes of an elastic run without a "
                "look at labels; use one number"
            )
        for key, selector in self.labels.items():
            if not LABEL.fullmatch(key) or not SELECTOR.fullmatch(selector):
                yield f"labels.{key} is {selector!r}; expected a label and a, !a, in(a, b) or !in(a, b)"
        for name in self.environment:
            if is_secret(name):
                yield (
                    f"environment.{name} names a secret, which every run would store and show; set it in the "
                    "environment of every node instead"
                )

    def recorded(self) -> dict[str, Any]:
        """What is recorded with a run: all but on_end, because the address of a webhook is a secret."""
        return self.model_dump(exclude={"on_end"})

    @property
    def fewest(self) -> int:
        """Minimum number of workers: a run does not start with fewer."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        """Maximum number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


def address_of(address: str) -> str:
    """Return the address of Ray: RAY_ADDRESS if set, else this address."""
    return os.environ.get("RAY_ADDRESS") or address


def is_elsewhere(address: str) -> bool:
    """Return whether workers may run on machines that do not see our files."""
    return address_of(address) != "local"


def runtime_path(default: str = "conf/local.yaml") -> Path:
    """The file named by PIPELINE_CONF, or the default."""
    return Path(os.environ.get("PIPELINE_CONF", default)).expanduser()


def load_runtime(path: Path | None = None) -> RuntimeConfig:
    """Read and check a runtime configuration, by default the one named by PIPELINE_CONF, else conf/local.yaml.

    Raises:
        ValueError: naming the file, the key, what came and what was expected.
    """
    path = runtime_path() if path is None else path
    if not path.exists():
        known = ", ".join(str(file) for file in sorted(Path("conf").glob("*.yaml"))) or "none"
        named = ", which PIPELINE_CONF names," if "PIPELINE_CONF" in os.environ else ""
        raise ValueError(
            f"{path}{named} does not exist; available in conf/: {known} (commands run in the project's folder)"
        )
    return validate(RuntimeConfig, read_yaml(path), path)
