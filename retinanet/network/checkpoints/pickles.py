"""Pickles of arrays and plain values, read without running code that they may hold.

A pickle is a program that may call any function. Here every name in it must be in ADMITTED, whose members only collect
values: neither numpy nor the project that wrote the file is called. Detectron2's model zoo consists of such pickles.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = re.compile(r"[biuf][1248]")
"""Array types of weights and counts: bool, integers, floats."""


class Dtype:
    """The type of an array, e.g. f4, in either byte order."""

    def __init__(self, code: object, *flags: object) -> None:
        if not isinstance(code, str) or not DTYPES.fullmatch(code):
            raise ValueError(f"an array of type {code!r}, expected numbers")
        self.code, self.order = code, "|" if code[1] == "1" else "<"

    def __setstate__(self, state: object) -> None:
        """Take the byte order of numpy's state."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|"):
            raise ValueError("an array type of unknown byte order")
        self.order = order

    def read(self, content: object, shape: tuple[int, ...], fortran: object) -> NDArray[Any]:
        """Return the array of that shape in the bytes."""
        if isinstance(content, str):  # Python 2 has no bytes
            content = content.encode("latin1")
        dtype = np.dtype(self.order + self.code)
        if not isinstance(content, bytes) or len(content) != math.prod(shape) * dtype.itemsize:
            raise ValueError("an array whose bytes do not match its shape")
        array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
        return array.astype(dtype.newbyteorder("="), order="C")


class Array:
    """An array, empty until its state is set."""

    values: NDArray[Any] | None = None

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Read numpy's state: version, shape, type, order, bytes."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("an array without the state that numpy gives it")
        _, shape, dtype, fortran, content = state
        is_shape = isinstance(shape, tuple) and all(type(side) is int and 0 <= side < 2**40 for side in shape)
        if not is_shape or not isinstance(dtype, Dtype):
            raise ValueError("an array without shape or type")
        self.values = dtype.read(content, shape, fortran)


class Scalar(float):
    """A number of numpy."""

    def __new__(cls, dtype: object, content: object = b"") -> Scalar:
        """Read it from its bytes."""
        if not isinstance(dtype, Dtype):
            raise ValueError("a number without a type")
        return super().__new__(cls, dtype.read(content, (), False).item())

    def __setstate__(self, state: object) -> None:
        raise ValueError("a number with a state")


class Latin1(bytes):
    """What `_codecs.encode(text, "latin1")` gives: bytes in a pickle of protocol 2."""

    def __new__(cls, text: object = "", encoding: object = "latin1") -> Latin1:
        """Encode the text."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise ValueError("text of another encoding than latin1")
        return super().__new__(cls, text.encode("latin1"))

    def __setstate__(self, state: object) -> None:
        raise ValueError("bytes with a state")


class Ignored:
    """An object that weights do not need, such as mmengine's history of losses: it takes anything and does nothing."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Drop the state."""


class Namespace(Ignored):
    """The options of a command."""


NUMPY = {
    "numpy.ndarray": Array,
    "numpy.dtype": Dtype,
    **{f"numpy.{core}.multiarray._reconstruct": Array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": Scalar for core in ("core", "_core")},
    "_codecs.encode": Latin1,
    "__builtin__.bytes": Latin1,  # without bytes
}
ADMITTED: dict[str, type] = {"collections.OrderedDict": OrderedDict, **NUMPY}
"""Names in a pickle, and the class that stands for each."""


class PlainUnpickler(pickle.Unpickler):
    """An unpickler that admits the names of ADMITTED alone."""

    def find_class(self, module: str, name: str) -> type:
        """Return what stands for a name.

        Raises:
            ValueError: naming one that is not admitted.
        """
        if f"{module}.{name}" not in ADMITTED:
            raise ValueError(f"it names {module}.{name}, which is not admitted in weights")
        return ADMITTED[f"{module}.{name}"]

    def persistent_load(self, pid: object) -> object:
        """Refuse references to what lies outside the pickle."""
        raise ValueError("it refers to something outside the pickle")


def check_sizes(content: bytes) -> None:
    """Check that a pickle needs no more memory than its size allows: it may number its objects up to 2^32.

    Raises:
        ValueError: when it is broken, or does.
    """
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "LONG_BINPUT") and isinstance(argument, int) and argument > len(content):
            raise ValueError(f"it numbers an object {argument}, but has {len(content)} bytes")


def load_arrays(content: bytes) -> object:
    """Read a pickle of plain values and arrays, which become Array.

    Raises:
        ValueError: when it is broken, or names anything that is not admitted.
    """
    try:
        check_sizes(content)
        return PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except Exception as error:  # a broken pickle raises anything
        raise ValueError(str(error) or type(error).__name__) from error
