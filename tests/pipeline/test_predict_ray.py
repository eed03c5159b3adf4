"""Laws of predict --ray: killed with kill -9, driver or node, it goes on; no picture is missing or there twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from bench.fragile import Nodes
from pipeline.detector.model import load_model
from pipeline.predict.detection import detect
from pipeline.predict.inputs import find_pictures
from pipeline.predict.table import to_table
from tests.running import kill_tree

pytestmark = pytest.mark.slow

# The command, whose workers rest before each shard: there is time to kill them.
SLOWLY = """
import sys
from pipeline.predict import on_ray
from pipeline.predict.__main__ import COMMAND

prepare = on_ray.prepare

def prepare_slow(config):
    import time
    work = prepare(config)
    return lambda locations: (time.sleep(1), work(locations))[1]

on_ray.prepare = prepare_slow
COMMAND.run()
"""
PATIENCE_S = 200


def wait_until(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not there():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def shards() -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path("out").glob("shard-*.parquet")}


@pytest.mark.usefixtures("untrained")
def test_killed_driver_and_killed_node_leave_no_picture_out_and_none_twice(
    tmp_path: Path, stage_variables: dict[str, str]
) -> None:
    paths = sorted(Path("data/prepared/images").rglob("*.png"))  # 40: with 3 rounds 120 names, 8 shards
    paths[7].write_bytes(b"no picture")
    names = []
    for number in range(3):
        Path(f"in/{number}").mkdir(parents=True)
        for path in paths:
            names.append(f"in/{number}/{path.parent.name}-{path.name}")
            os.link(path, names[-1])
    runtime = yaml.safe_load(Path("conf/local.yaml").read_text())
    runtime |= {"workers": 2, "storage": str(tmp_path / "storage")}
    Path("conf/local.yaml").write_text(yaml.safe_dump(runtime))
    command = [sys.executable, "-c", SLOWLY, "in", "--ray", "--score-threshold", "0.02", "--output", "out"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with ExitStack() as stack:
        nodes = Nodes(tmp_path / "nodes", stack)
        nodes.add()
        variables = stage_variables | {"RAY_ADDRESS": nodes.address, "RAY_AUTH_MODE": "disabled"}

        def start() -> subprocess.Popen[str]:
            process = subprocess.Popen(command, env=variables, **pipes)  # type: ignore[call-overload]
            stack.callback(process.stdout.close)
            stack.callback(kill_tree, process)
            return process  # type: ignore[no-any-return]

        driver = start()
        wait_until(lambda: len(shards()) >= 2, driver)
        driver.kill()
        driver.wait()
        first = shards()
        assert 2 <= len(first) < 8
        driver = start()
        wait_until(lambda: len(shards()) > len(first), driver)
        kill_tree(nodes.nodes[1])
        printed = driver.communicate(timeout=PATIENCE_S)[0]
    assert driver.returncode == 1, printed
    assert "pictures are done; going on" in printed
    assert "predict: 3 of 120 pictures could not be read, see column error in out; the first: in/0/" in printed, printed
    assert len(shards()) == 8
    assert shards().items() >= first.items()  # what was done was not done again
    rows = pq.ParquetDataset(sorted(Path("out").glob("shard-*"))).read()
    assert rows["path"].to_pylist() == sorted(names)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    detector = load_model("models/model.pt", torch.device("cpu"))
    detector.postprocess = detector.build_postprocess(score_threshold=0.02)
    thresholds = [0.02] * len(detector.class_names)
    alone = to_table(
        (
            each._replace(source=each.source._replace(name=each.source.location))
            for each in detect(detector, find_pictures(["in"]), thresholds=thresholds, processes=0)
        ),
        detector.class_names,
    )
    torch.set_num_threads(threads)
    assert rows.equals(alone)
