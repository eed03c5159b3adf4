"""Pictures with boxes for a gallery: each is stored once, and a card shows a part of one."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from PIL import Image

SIDE = 640  # px, the longer side of a stored picture
QUALITY = 72  # of its JPEG
MAX_BYTES = 6_500_000  # of all pictures of a page together, as base64: a page can be mailed
MOST_UNREAD = 8  # so many without one that could be read: the pictures are not on this machine, or the store is away
CONTEXT = 1.0  # a card shows a box with this many of its longer sides around it
LEAST_VIEW = 0.2  # of the longer side of the picture: what a card shows at least

Corners = Sequence[float]
"""x1, y1, x2, y2 in px of the picture."""


class Mark(NamedTuple):
    """A box: `kind` is truth, missed, right or wrong."""

    x: float
    y: float
    w: float
    h: float
    kind: str
    text: str


class StoredPicture(NamedTuple):
    """A picture of the page; width and height are those of the original, in which the marks are."""

    number: int
    uri: str
    width: int
    height: int
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Card:
    """A picture, or the part of it around a box.

    Attributes:
        image_id: of the picture.
        kind: by which a gallery filters; `badge` says it in words.
        lines: of text below the picture.
        caption: of the enlarged picture.
        classes: labels by which a gallery filters.
        score, size: by which it sorts; size is the square root of the area in px.
        marks: the boxes that the card is about.
        focus: the part that is shown; None: the whole picture.
    """

    image_id: int
    kind: str
    lines: Sequence[str]
    caption: str
    badge: str = ""
    classes: Sequence[int] = ()
    score: float = 0.0
    size: float = 0.0
    marks: Sequence[Mark] = ()
    focus: Corners | None = None


@dataclass(frozen=True)
class PlacedCard:
    """A card of the page, as gallery.html reads it; `view` is the part of the picture that it shows."""

    card: Card
    picture: int
    width: int
    height: int
    view: str
    name: str

    def __getattr__(self, name: str) -> object:
        """The attributes of the card."""
        return getattr(self.card, name)


@dataclass
class Album:
    """The pictures of a page; cards whose picture cannot be read, or would exceed MAX_BYTES, are left out.

    Args:
        read: picture of an image id; ValueError or OSError where it cannot be read.
        names: file name by image id.
        marks: all boxes of an image id.
    """

    read: Callable[[int], Image.Image]
    names: Mapping[int, str]
    marks: Callable[[int], Sequence[Mark]]
    max_bytes: int = MAX_BYTES
    pictures: dict[int, StoredPicture] = field(default_factory=dict)
    left_out: int = 0
    unread: set[int] = field(default_factory=set)
    _bytes: int = 0

    def place(self, cards: Sequence[Card]) -> list[PlacedCard]:
        """Store the pictures of the cards, the first ones first."""
        placed = []
        for card in cards:
            picture = self._store(card.image_id)
            if picture is None:
                self.left_out += 1
                continue
            view = view_of(card.focus, picture.width, picture.height)
            name = self.names[card.image_id]
            placed.append(PlacedCard(card, picture.number, picture.width, picture.height, view, name))
        return placed

    def _store(self, image_id: int) -> StoredPicture | None:
        if image_id not in self.pictures:
            is_away = not self.pictures and len(self.unread) >= MOST_UNREAD
            if is_away or image_id in self.unread or self._bytes >= self.max_bytes:
                return None
            try:
                image = self.read(image_id)
            except (ValueError, OSError):  # it went away since, or lies on the workers alone
                self.unread.add(image_id)
                return None
            uri = jpeg_uri(image)
            if self._bytes + len(uri) > self.max_bytes:
                return None
            self._bytes += len(uri)
            number = len(self.pictures)
            self.pictures[image_id] = StoredPicture(number, uri, image.width, image.height, self.marks(image_id))
        return self.pictures[image_id]


def mark_of(corners: Corners, kind: str, text: str) -> Mark:
    """A mark from x1, y1, x2, y2."""
    x1, y1, x2, y2 = (round(float(side), 1) for side in corners)
    return Mark(x1, y1, round(x2 - x1, 1), round(y2 - y1, 1), kind, text)


def view_of(focus: Corners | None, width: int, height: int) -> str:
    """The part of a picture around a box, as an SVG viewBox: square, within the picture where it fits."""
    if focus is None:
        return f"0 0 {width} {height}"
    x1, y1, x2, y2 = (float(side) for side in focus)
    side = max((1 + 2 * CONTEXT) * max(x2 - x1, y2 - y1), LEAST_VIEW * max(width, height), 1.0)
    if side >= max(width, height):
        return f"0 0 {width} {height}"
    left, top = (
        min(max(0.0, (low + high) / 2 - side / 2), max(0.0, end - side))
        for low, high, end in ((x1, x2, width), (y1, y2, height))
    )
    return f"{left:.1f} {top:.1f} {side:.1f} {side:.1f}"


def union(*boxes: Corners | None) -> list[float]:
    """The smallest box around the boxes that are not None."""
    known = [[float(side) for side in box] for box in boxes if box is not None]
    lows, highs = zip(*((box[:2], box[2:]) for box in known), strict=True)
    return [*map(min, zip(*lows, strict=True)), *map(max, zip(*highs, strict=True))]


def jpeg_uri(image: Image.Image) -> str:
    """A picture of at most SIDE px as a data URI."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
