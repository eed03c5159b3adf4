"""Base class of all sections of params.yaml: strict types, no unknown key, frozen after validation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A section of params.yaml: all keys are required, others are refused, and types are not converted."""

    # A string below a field is its description in the JSON schema, and so in editors and in the reference.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, protected_namespaces=(), use_attribute_docstrings=True
    )

    def check(self) -> list[str]:
        """Return complaints about values that are valid alone but not together; one sentence each."""
        return []


def expecting(message: str) -> WrapValidator:
    """Replace the complaints about each form of a value that has several by one sentence."""

    def check(value: Any, validate: Callable[[Any], Any]) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise PydanticCustomError("form", message) from None

    return WrapValidator(check)
