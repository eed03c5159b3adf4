"""The exported detector as an MLflow model: weights, code, requirements and signature."""

from __future__ import annotations

import importlib.util
import io
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pipeline.runs.identity import digest_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.models import Model, ModelSignature

Picture = np.ndarray[Any, Any] | bytes | str | Path
"""An image [H, W, 3] uint8 RGB, the bytes of a PNG or JPEG file, or the path of one."""

REQUIREMENTS = ("torch", "torchvision", "numpy", "pillow", "fsspec")
"""What a served model imports of the package retinanet needs; mlflow adds itself."""

CARD = "model_card.md"
"""File of the model card in the folder of a model."""

DIGEST = "sha256"
"""Tag of a model: the SHA-256 of its weights file, models/model.pt."""

SERVING = Path(__file__).resolve().with_name("serving.py")
COLUMNS = {"image": "long", "x1": "double", "y1": "double", "x2": "double", "y2": "double"} | {
    "score": "double",
    "label": "long",
    "class_name": "string",
}


def log_model(
    client: MlflowClient,
    run_id: str,
    path: Path,
    *,
    class_names: Sequence[str],
    example: Picture | None,
    tags: Mapping[str, str],
    card: str | None = None,
) -> str:
    """Store the model with the run and return its id; a run stores the same file only once.

    mlflow.pyfunc.log_model uses the active run and experiment of the process, which stay untouched here.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    run, digest = client.get_run(run_id), digest_file(path)
    for held in models_of(client, run):
        if held.tags.get(DIGEST) == digest:
            return str(held.model_id)
    stored = client.create_logged_model(
        run.info.experiment_id, name="retinanet", source_run_id=run_id, tags={**tags, DIGEST: digest}
    )
    try:
        description = Model(
            artifact_path=stored.artifact_location, run_id=run_id, model_uuid=stored.model_id, model_id=stored.model_id
        )
        with tempfile.TemporaryDirectory() as folder:
            write_model(
                Path(folder) / "model",
                path,
                description=description,
                class_names=class_names,
                example=example,
                card=card,
            )
            client.log_model_artifacts(stored.model_id, f"{folder}/model")
    except Exception:
        client.finalize_logged_model(stored.model_id, "FAILED")
        raise
    client.finalize_logged_model(stored.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(stored.model_id, step=0)])
    return str(stored.model_id)


def models_of(client: MlflowClient, run: Run) -> list[LoggedModel]:
    """Return the complete models of a run, oldest first."""
    found = [client.get_logged_model(output.model_id) for output in (run.outputs.model_outputs if run.outputs else [])]
    ready = [model for model in found if str(model.status) == "READY"]
    return sorted(ready, key=lambda model: model.creation_timestamp)


def write_model(
    folder: Path,
    path: Path,
    *,
    description: Model,
    class_names: Sequence[str],
    example: Picture | None,
    card: str | None = None,
) -> None:
    """Write the model's folder: weights, code of retinanet and serving.py, requirements, signature, model card."""
    import mlflow.pyfunc
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow reads its own example with deprecated pandas calls
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(SERVING),
            artifacts={"weights": str(path)},
            code_paths=[package_folder("retinanet")],
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
            signature=signature(),
            input_example=None if example is None else pd.DataFrame({"image": [as_bytes(example)]}),
            metadata={"class_names": list(class_names)},
            mlflow_model=description,
        )
    if card is not None:
        (folder / CARD).write_text(card, encoding="utf-8")


def signature() -> ModelSignature:
    """Return the signature: a column `image` in, a row per detection out; a score threshold or a working point."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema([ColSpec(kind, name) for name, kind in COLUMNS.items()]),
        params=ParamSchema(
            [
                ParamSpec("score_threshold", "double", None),
                ParamSpec("working_point", "string", "f1"),
                ParamSpec("calibrate", "boolean", False),
            ]
        ),
    )


def package_folder(package: str) -> str:
    """Return the folder of a package, without importing it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} cannot be imported"
    assert spec.submodule_search_locations, f"{package} is not a package"
    return str(Path(spec.submodule_search_locations[0]).resolve())


def as_bytes(picture: Picture) -> bytes:
    """Return the bytes of an image file."""
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, np.ndarray):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format="PNG")
        return file.getvalue()
    return Path(picture).read_bytes()
