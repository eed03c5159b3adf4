"""The target of the working point: which score thresholds are chosen from the candidates in the detector's file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.section import expecting

Figure = Literal["precision", "recall"]
Least = Annotated[float, Field(gt=0, le=1)]
Form = Literal["f1"] | Annotated[dict[Figure, Least], Field(min_length=1, max_length=1)]

Target = Annotated[Form, expecting("expected f1, {precision: P} or {recall: R}, with one number above 0 and at most 1")]
