"""Where the service runs and listens, from the options of the command and conf/."""

from __future__ import annotations

import os
import socket
from argparse import Namespace
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

from pipeline.cluster import Resources, is_elsewhere
from pipeline.cluster.processors import count_cpus
from pipeline.params.paths import storage_location
from pipeline.params.runtime import load_runtime, runtime_path


class Place(NamedTuple):
    """Where a service runs and listens.

    Attributes:
        address: of Ray, as in conf/.
        storage: folder or URL from which the nodes of a cluster read the model; None: it is read on this machine.
        resources: of a replica, and their number.
    """

    address: str
    storage: str | None
    resources: Resources
    host: str
    port: int


def choose_place(options: Namespace) -> Place:
    """The resources of conf/ for each replica; without conf/, all of this machine.

    Raises:
        ValueError: when the port is taken on this machine; on a cluster without conf/, which says where its nodes
            find the model.
    """
    place = place_of(options)
    if not is_elsewhere(place.address):
        check_port(place.host, place.port)
    return place


def place_of(options: Namespace) -> Place:
    """As choose_place, without a look at the port."""
    if runtime_path().exists() or "PIPELINE_CONF" in os.environ:
        runtime = load_runtime()
        resources = replace(Resources.of(runtime), workers=options.replicas)
        storage = storage_location(runtime) if is_elsewhere(runtime.address) else None
        return Place(runtime.address, storage, resources, options.host, options.port)
    if is_elsewhere("local"):
        raise ValueError(
            f"RAY_ADDRESS is {os.environ['RAY_ADDRESS']}, a cluster, whose nodes find the model in storage of "
            f"{runtime_path()}, but there is no such file; run in the folder of an experiment"
        )
    return Place("local", None, this_machine(options.replicas), options.host, options.port)


def check_port(host: str, port: int) -> None:
    """Check that nobody listens on a port of this machine.

    Raises:
        ValueError: when somebody does, or the host is none of its addresses.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with closing(socket.socket(family, kind, protocol)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        reason = str(error) if error.strerror is None else error.strerror
        raise ValueError(
            f"the service cannot listen on {host}:{port} ({reason}); give another --port or --host"
        ) from None


def this_machine(replicas: int) -> Resources:
    """Its cores, divided among the replicas, and one GPU for each where there is one."""
    import torch

    return Resources(
        workers=replicas,
        cpus_per_worker=max(1, count_cpus() // replicas),
        gpus_per_worker=1 if torch.cuda.is_available() else 0,
        backend="gloo",
        max_failures=0,
        start_timeout_s=60.0,
    )
