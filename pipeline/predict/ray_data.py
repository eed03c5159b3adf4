"""Ray Data: shards of pictures in, their Parquet files out. The only module that imports ray.data.

Ray Data keeps a pool of actors busy on a cluster whose nodes come and go: a lost actor is replaced and its shard done
again. A shard that is done comes to the driver, which alone writes; so nodes need no access to the results, and none
that was given up can write.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import ray
import ray.data
from ray.exceptions import RayActorError, RayError

from pipeline.cluster import Resources


class Shard(NamedTuple):
    """The pictures of a shard, by location."""

    number: int
    locations: list[str]


class Done(NamedTuple):
    """A shard that is done.

    Attributes:
        content: its Parquet file.
    """

    number: int
    content: bytes


Work = Callable[[Sequence[str]], bytes]
"""From the locations of a shard to its Parquet file."""


def map_shards(prepare: Callable[[], Work], shards: Sequence[Shard], resources: Resources) -> Iterator[Done]:
    """Do every shard on the connected Ray and yield them as they come.

    Args:
        prepare: runs once in every actor, and returns what does a shard there.

    Raises:
        ValueError: a user's mistake that an actor has found; more than max_failures actors have died on a shard.
        RuntimeError: with the traceback, for any other error in an actor; or with the reason of Ray.
    """
    be_quiet(verbose=resources.verbose)
    rows = [{"shard": shard.number, "locations": shard.locations} for shard in shards]
    most = min(resources.most, len(shards))
    attempts = ray.remote(num_cpus=0, max_restarts=-1)(Attempts).remote()
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        ShardActor,
        fn_constructor_args=(prepare, attempts, 1 + resources.max_failures),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=most),
        num_cpus=resources.cpus_per_worker,
        num_gpus=resources.gpus_per_worker,
        accelerator_type=resources.accelerator_type,
        label_selector=dict(resources.labels) or None,
        runtime_env={"env_vars": resources.variables},
    )
    try:
        for row in dataset.iter_rows():
            if row["mistake"] is not None:
                raise ValueError(row["mistake"])
            if row["traceback"] is not None:
                raise RuntimeError(row["traceback"])
            yield Done(row["shard"], row["content"])
    except RayError as error:
        reason = str(error).strip().partition("\n")[0]
        raise RuntimeError(f"Ray Data: {reason}; what is done stays, and the same command goes on") from error


def be_quiet(*, verbose: bool) -> None:
    """Leave the progress to the command, and the lines of Ray Data to its log, unless conf/ wants them."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = verbose
    logging.getLogger("ray.data").setLevel("INFO" if verbose else "CRITICAL")


class Attempts:
    """An actor that counts how often a shard was begun."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def begin(self, shard: int) -> int:
        """One more; returns which it is, from 1."""
        self.counts[shard] += 1
        return self.counts[shard]


class ShardActor:
    """What Ray Data runs in an actor: it prepares before its first shard, and returns its errors as rows.

    Args:
        attempts: handle of Attempts. Ray Data repeats the shard of an actor that died without end, and a picture may
            be what kills it.
        most_attempts: at one shard.
    """

    def __init__(self, prepare: Callable[[], Work], attempts: Any, most_attempts: int) -> None:
        self.prepare, self.attempts, self.most_attempts = prepare, attempts, most_attempts
        self.work: Work | None = None

    def __call__(self, batch: Any) -> dict[str, list[Any]]:
        """Do one shard."""
        (row,) = batch.to_pylist()
        done: dict[str, Any] = {"shard": row["shard"], "content": b"", "mistake": None, "traceback": None}
        try:
            self.demand_attempt(row["shard"], row["locations"])
            if self.work is None:
                self.work = self.prepare()
            done["content"] = self.work(row["locations"])
        except ValueError as error:
            done["mistake"] = str(error)
        except Exception:  # noqa: BLE001 - the driver raises it
            done["traceback"] = f"in process {os.getpid()}:\n{traceback.format_exc()}"
        return {key: [value] for key, value in done.items()}

    def demand_attempt(self, shard: int, locations: Sequence[str]) -> None:
        """Raise ValueError where too many workers have died on this shard."""
        attempt = 1
        with suppress(RayActorError):  # its node is gone: it starts again, and counts from 1
            attempt = ray.get(self.attempts.begin.remote(shard))
        if attempt > self.most_attempts:
            raise ValueError(
                f"{attempt - 1} workers died on the pictures from {locations[0]} to {locations[-1]} (max_failures in "
                "conf/ allows no more): one of them may take too much memory; give the list without it"
            )
