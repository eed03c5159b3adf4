"""What all sections of params.yaml have in common: strict types, no unknown key, frozen after checking."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A section of params.yaml: every key must be there, no other may be, and the value's type is taken as written."""

    # A string below a field is its description in the JSON schema, and so in editors and in the reference.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, protected_namespaces=(), use_attribute_docstrings=True
    )

    def check(self) -> list[str]:
        """Complaints about values that are fine alone but not together; one sentence each."""
        return []
