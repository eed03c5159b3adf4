"""The lease of a run in a bucket, held by two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.buckets import BUCKET, make_bucket, variables_of
from tests.servers import running_s3

REPOSITORY = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from pipeline.runs import lease
lease.HEARTBEAT_S, lease.TTL_S, lease.SETTLE_S = 0.5, 4.0, 0.2
lock = Path(sys.argv[2])
lock.touch()
try:
    with lease.hold_lease(sys.argv[1], "d1", lock=lock):
        print("held", flush=True)
        sys.stdin.readline()
except ValueError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[tuple[str, dict[str, str], Any]]:
    """A storage in a bucket, the variables of its users, and a client."""
    with running_s3(tmp_path) as address:
        client = make_bucket(address)
        variables = {**os.environ, **variables_of(address), "PYTHONPATH": str(REPOSITORY)}
        yield f"s3://{BUCKET}/runs", variables, client


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # boto3 asks the clock in a way that Python deprecates
def test_of_two_drivers_on_a_bucket_the_second_is_refused_and_takes_over_when_the_first_is_killed(
    bucket: tuple[str, dict[str, str], Any], tmp_path: Path
) -> None:
    storage, variables, _ = bucket

    def start(lock: str) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-c", HOLD, storage, str(tmp_path / lock)]
        return subprocess.Popen(command, env=variables, text=True, **pipes)

    first = start("first.lock")
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    out, err = start("second.lock").communicate(timeout=60)
    assert f"run d1 is held by process {first.pid} on " in err and "which renews its lease" in err
    assert f"was held by process {first.pid} on " in out and "held\n" not in out.splitlines(keepends=True)
    first.kill()
    first.communicate()
    out, err = start("second.lock").communicate("\n", timeout=60)
    assert err == ""
    waited, taken, held = out.splitlines()
    assert waited.startswith(f"run d1 was held by process {first.pid} on ")
    assert taken.startswith(f"not renewed in 4 s: taking over the lease of process {first.pid} on ")
    assert held == "held"
