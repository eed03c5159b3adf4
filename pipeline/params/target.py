"""The target of the working point: which score thresholds are chosen from the candidates in the detector's file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

Figure = Literal["precision", "recall"]
Least = Annotated[float, Field(gt=0, le=1)]
Form = Literal["f1"] | Annotated[dict[Figure, Least], Field(min_length=1, max_length=1)]


def _explain(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Replace the complaints about each form by one sentence."""
    try:
        return validate(value)
    except ValidationError:
        message = "expected f1, {precision: P} or {recall: R}, with one number above 0 and at most 1"
        raise PydanticCustomError("target", message) from None


Target = Annotated[Form, WrapValidator(_explain)]
