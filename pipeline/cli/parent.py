"""A stage of DVC stops with the DVC that started it.

SIGTERM to `dvc repro` (systemd, `docker stop`, `scancel`) ends DVC at once, and only DVC: without this the stage would
go on, unseen. The stage watches its ancestors up to DVC, also through a shell in between, and sends itself SIGTERM when
one of them has gone. A command that DVC has not started outlives its parent, as `nohup` and `&` promise.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from itertools import pairwise

SECONDS_BETWEEN_CHECKS = 0.5
# DVC runs a stage by the user's shell; most replace themselves by the command, some (fish, older dash) wait for it.
SHELLS = {"ash", "bash", "dash", "fish", "ksh", "sh", "tcsh", "zsh"}


def stop_with_dvc(name: str) -> None:
    """In a stage that DVC runs: watch DVC from now on, in a thread."""
    if "DVC_STAGE" in os.environ:
        threading.Thread(target=watch, args=(name, find_ancestors()), daemon=True).start()


def find_ancestors() -> list[int]:
    """The processes from this one up to the first that is no shell: DVC. Only this one where DVC has gone already."""
    import psutil  # 20 ms, and only here

    chain = [os.getpid()]
    with suppress(psutil.Error, OSError):
        process = psutil.Process().parent()
        # A process whose parent has ended is given to init or the like, which has another session; DVC has ours.
        while process is not None and os.getsid(process.pid) == os.getsid(0):
            chain.append(process.pid)
            if process.name() not in SHELLS:
                return chain
            process = process.parent()
    return chain[:1]


def watch(name: str, ancestors: list[int]) -> None:
    """Send this process SIGTERM once an ancestor has gone."""
    while are_alive(ancestors):
        time.sleep(SECONDS_BETWEEN_CHECKS)
    with suppress(OSError):  # who read it may have gone too
        print(f"{name}: the dvc process that runs this stage has ended; stopping", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def are_alive(ancestors: list[int]) -> bool:
    """Whether each of these processes is still the child of the next."""
    import psutil

    try:
        return len(ancestors) > 1 and all(psutil.Process(one).ppid() == above for one, above in pairwise(ancestors))
    except psutil.Error:
        return False
