"""Laws of a training whose pictures and checkpoints lie in a bucket: killed as a whole, it goes on from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.buckets import BUCKET, keys_in, make_bucket, move_to_bucket, variables_of
from tests.pipeline.test_train_killed import OUTS, rows_of_csv
from tests.running import Stage, ends_well, kill_tree
from tests.servers import running_s3
from tests.training import LONG, lengthen

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # boto3 asks the clock in a way that Python deprecates
]


def test_training_from_a_bucket_that_was_killed_goes_on_to_the_same_end(
    undisturbed: Path, project: Path, stage_variables: dict[str, str], tmp_path: Path
) -> None:
    lengthen(project)
    with running_s3(tmp_path) as store:
        client: Any = make_bucket(store)
        move_to_bucket(project, client)
        # A Ray of its own, which dies with the driver; the path of a socket has at most 107 bytes.
        variables = stage_variables | variables_of(store) | {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": "/tmp"}
        variables |= {"HOME": str(tmp_path / "home")}
        variables.pop("RAY_ADDRESS", None)
        first = Stage(project, variables)
        try:
            first.wait_for(f"epoch 1/{LONG}")
        finally:
            kill_tree(first.process)
            first.end()
        assert not any((project / name).exists() for name in OUTS)
        lines = ends_well(Stage(project, variables))
        keys = keys_in(client, "runs/")
    (resumed,) = (line for line in lines if line.startswith("resuming from epoch "))
    assert 1 <= int(resumed.rpartition(" ")[2]) < LONG
    assert [key for key in keys if key.endswith("/detector.pt")]
    assert not list(project.glob("runs/*/checkpoint_*"))
    assert not (project / "s3:").exists() and not (project / BUCKET).exists()
    assert rows_of_csv(project) == rows_of_csv(undisturbed)
    assert (project / "reports/train.json").read_bytes() == (undisturbed / "reports/train.json").read_bytes()
    assert all((project / name).exists() for name in OUTS)
    ours, theirs = (torch.load(folder / "models/model.pt", weights_only=True) for folder in (project, undisturbed))
    assert all(torch.equal(weight, theirs["weights"][name]) for name, weight in ours["weights"].items())
