"""Settings of the service, from the options of the command or the arguments in a file of `serve deploy`."""

from __future__ import annotations

from pydantic import Field

from pipeline.params.section import Count, Fraction, NotNegative, Positive, Section


class Settings(Section):
    """What a replica is made from; plain values, because Ray Serve sends them to it."""

    model: str
    "File, URL, or MLflow model such as models:/cells@champion; read by every replica."
    working_point: str = "f1"
    "f1, precision=0.9 or recall=0.8, where the model has one."
    thresholds: list[Fraction] | None = None
    "Score (exclusive) of each class, in place of the working point."
    calibrate: bool = False
    "Whether scores are calibrated by the temperature in the model; thresholds are those of the scores as answered."
    batch_size: Count = 8
    "Most pictures that are detected on together; 1: one at a time."
    batch_wait_s: NotNegative = 0.005
    "How long the first picture of a batch waits for others."
    max_upload_mb: Positive = 20.0
    max_megapixels: Positive = 50.0
    max_waiting: Count = 64
    "Pictures that a replica accepts at a time; further ones are answered with 503."
    upload_timeout_s: Positive = Field(default=60.0)
    "For a whole request to arrive."

    @property
    def max_bytes(self) -> int:
        """Largest request, bytes."""
        return round(self.max_upload_mb * 1e6)

    @property
    def max_pixels(self) -> int:
        """Largest picture, px."""
        return round(self.max_megapixels * 1e6)
