"""Two nodes of a Ray cluster on this machine; where root may, the far one has a network and a disk of its own.

The far node sees neither our packages nor a folder that is hidden from it, and reaches the near one by a cable of two
virtual interfaces. Elsewhere it is a second node with another home and folder, and sees what its user sees.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.running import kill_tree
from tests.servers import free_port, wait_for

REPOSITORY = Path(__file__).resolve().parents[1]
RAY = Path(sys.executable).with_name("ray")
# Its own mounts, then the command that follows the folders.
HIDE = 'while [ "$1" != -- ]; do mount -t tmpfs hidden "$1"; shift; done; shift; exec "$@"'


@dataclass(frozen=True)
class Cable:
    """Two ends: their addresses and interfaces, and the name of the network that the far one lies in."""

    near: str
    far: str
    near_interface: str = "lo"
    far_interface: str = "lo"
    network: str | None = None


@contextmanager
def laid_cable() -> Iterator[Cable]:
    """A cable into a network of its own; where that is not allowed, this machine's loopback."""
    number = os.getpid()
    name, network = f"ray{number % 10**6}", f"198.18.{number % 250}"  # addresses that are kept for such tests
    cable = Cable(f"{network}.1", f"{network}.2", f"{name}n", f"{name}f", name)
    steps = (
        f"ip netns add {name}",
        f"ip link add {cable.near_interface} type veth peer name {cable.far_interface} netns {name}",
        f"ip addr add {cable.near}/30 dev {cable.near_interface}",
        f"ip link set {cable.near_interface} up",
        f"ip -n {name} addr add {cable.far}/30 dev {cable.far_interface}",
        f"ip -n {name} link set {cable.far_interface} up",
        f"ip -n {name} link set lo up",
        "unshare --mount true",
    )
    tools = shutil.which("ip") and shutil.which("unshare")
    try:
        laid = bool(tools) and os.geteuid() == 0 and all(try_to(step) for step in steps)
        yield cable if laid else Cable("127.0.0.1", "127.0.0.1")
    finally:
        if tools:
            try_to(f"ip netns del {name}")
            try_to(f"ip link del {cable.near_interface}")


def try_to(command: str) -> bool:
    """Whether a command ends well."""
    return subprocess.run(command.split(), capture_output=True, check=False).returncode == 0


@contextmanager
def two_nodes(
    cable: Cable, folder: Path, *, variables: Mapping[str, str], hidden: Sequence[Path]
) -> Iterator[tuple[str, Path, Path]]:
    """A cluster of two nodes of 1 CPU.

    Args:
        folder: of the nodes' homes and logs.
        variables: for both.
        hidden: folders that the far node finds empty, beside our packages; without a network of its own it sees them.

    Returns:
        The cluster's address, the home of the near node and that of the far one.
    """
    port = free_port(cable.near)
    address = f"{cable.near}:{port}"
    near, far = folder / "near", folder / "far"
    with ExitStack() as stack:
        # The path of a socket has at most 107 bytes.
        own = [Path(stack.enter_context(temporary_folder())) for _ in range(2)]
        head = ["--head", f"--port={port}", f"--node-ip-address={cable.near}", "--include-dashboard=false"]
        process = stack.enter_context(
            running_node([], head, own[0], near, {**variables, "GLOO_SOCKET_IFNAME": cable.near_interface})
        )
        wait_for(port, process, near / "ray.log", host=cable.near)
        join = [f"--address={address}", f"--node-ip-address={cable.far}"]
        apart = apart_from([*hidden, own[0]], cable.network)
        stack.enter_context(
            running_node(apart, join, own[1], far, {**variables, "GLOO_SOCKET_IFNAME": cable.far_interface})
        )
        yield address, near, far


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder with a short path."""
    return tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True)


def apart_from(hidden: Sequence[Path], network: str | None) -> list[str]:
    """What stands before a command that shall live in a network of its own and find these folders empty."""
    if network is None:
        return []
    ours = [REPOSITORY / name for name in ("pipeline", "retinanet", "tests")]
    folders = [str(folder) for folder in (*ours, *hidden)]
    return ["ip", "netns", "exec", network, "unshare", "--mount", "sh", "-ec", HIDE, "sh", *folders, "--"]


@contextmanager
def running_node(
    before: Sequence[str], options: Sequence[str], temporary: Path, home: Path, variables: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """One node, in a home of its own, without our packages among what Python finds."""
    home.mkdir(parents=True)
    environment = {key: text for key, text in os.environ.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")}
    environment |= {"HOME": str(home), "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", **variables}
    # A machine that is busy with other tests starts Ray's processes slowly.
    environment |= {"RAY_raylet_start_wait_time_s": "120", "RAY_agent_register_timeout_ms": "120000"}
    common = ["--num-cpus=1", "--object-store-memory=200000000", f"--temp-dir={temporary}", "--disable-usage-stats"]
    command = [*before, str(RAY), "start", *options, *common, "--block"]
    with (home / "ray.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        kill_tree(process)
