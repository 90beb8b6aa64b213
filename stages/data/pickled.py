"""Pickled `.npy` files of other tools: read without executing anything that they hold, written so that old versions read them.

Tensors that torch pickled come as numpy arrays. Their storages are decoded here and not by torch, so that no version's loader
runs on a stranger's bytes, and tensors that lay on a GPU are read without one.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import StageError
from stages.core.files import write_atomic

_CORE = ("numpy.core", "numpy._core")  # before and since numpy 2
_BFLOAT16 = "bfloat16"  # the one storage that numpy has no type for
_STORAGES = {
    **{"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": _BFLOAT16},
    **{"LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "<i1"},
    **{"ByteStorage": "<u1", "BoolStorage": "?"},
}
_TORCH_MAGIC = (0x1950A86A20F9469CFC6C, 1001)  # of torch's format for a storage within a pickle, and its version
_OWN_MEMORY = "biufcSU"  # kinds of numpy types whose values are all in their bytes: no pointers
_FROM_BUFFER: Any = np.zeros(1).__reduce_ex__(5)[0]  # what restores arrays in pickles of protocol 5


def _latin1(text: str, _: str) -> bytes:
    """What old pickles call to restore bytes."""
    return text.encode("latin1")


def _type(kind: Any, allowed: str = _OWN_MEMORY) -> np.dtype[Any]:
    """A plain numpy type of the same name as KIND, whose own flags a pickle may have set. Raises UnpicklingError."""
    if not isinstance(kind, np.dtype) or kind.kind not in allowed:
        raise pickle.UnpicklingError(f"it asks for values of type {kind}")
    return np.dtype(kind.str)


class _Array(np.ndarray):
    """What arrays come as. numpy's own class would take a pickle's bytes for pointers to objects."""

    def __new__(cls, *_: Any) -> _Array:
        """An empty array, whatever a pickle asks for: its state comes next."""
        return super().__new__(cls, (0,), np.int8)

    def __setstate__(self, state: Any) -> None:
        """Shape, type and values; of objects numpy takes only a list."""
        version, shape, kind, fortran, values = state
        super().__setstate__((version, shape, _type(kind, _OWN_MEMORY + "O"), fortran, values))


def _empty_array(*_: Any) -> _Array:
    return _Array()


def _scalar(kind: Any, value: bytes) -> Any:
    return np.ndarray((), _type(kind), value)[()]


def _from_buffer(buffer: Any, kind: Any, *shape_and_order: Any) -> Any:
    return _FROM_BUFFER(buffer, _type(kind), *shape_and_order)


class _Restricted(pickle.Unpickler):
    """An unpickler that looks names up in a table and imports nothing on the pickle's word."""

    table: ClassVar[Mapping[tuple[str, str], Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle gets for a global name. Raises UnpicklingError on all but arrays."""
        if (module, name) not in self.table:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not an array")
        return self.table[module, name]


class _StorageHeader(_Restricted):
    """What stands before the numbers of a torch storage: type and length, wherever the tensor lay."""

    table: ClassVar[Mapping[tuple[str, str], Any]] = {("torch", name): kind for name, kind in _STORAGES.items()}

    def persistent_load(self, pid: Any) -> tuple[str, int]:
        """Type and length of the storage. Raises UnpicklingError on a part of another storage."""
        if pid[0] != "storage" or any(part is not None for part in pid[5:]):
            raise pickle.UnpicklingError("a tensor's storage is of an unknown kind")
        return pid[1], pid[4]


def _storage(data: bytes) -> NDArray[Any]:
    """The numbers of a torch storage, as torch writes it into a pickle. Raises on anything else."""
    stream = io.BytesIO(data)
    magic, version, _ = (_StorageHeader(stream).load() for _ in range(3))
    if (magic, version) != _TORCH_MAGIC:
        raise pickle.UnpicklingError("a tensor's storage is of an unknown format")
    kind, _keys = _StorageHeader(stream).load(), _StorageHeader(stream).load()
    name, start = kind[0], stream.tell() + 8  # the length comes once more, in 8 bytes
    if name == _BFLOAT16:
        return (np.frombuffer(data, "<u2", kind[1], start).astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, name, kind[1], start)


def _tensor(storage: NDArray[Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> NDArray[Any]:
    """The view of a storage that a tensor is, offset and strides in elements. Raises ValueError beyond its bounds."""
    _type(storage.dtype)
    if int(np.prod(size, dtype=object)) > storage.size:
        raise ValueError("a tensor is larger than its storage")
    step = storage.itemsize
    return np.ndarray(size, storage.dtype, storage, offset * step, [distance * step for distance in stride])


class _ArraysOnly(_Restricted):
    """An unpickler that builds plain containers, numpy arrays and scalars, torch tensors as arrays, and nothing else.

    What it calls is ours or made of plain types: numpy's own functions trust a pickle's word on what its bytes are.
    """

    table: ClassVar[Mapping[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1,
        **{(f"{core}.multiarray", "_reconstruct"): _empty_array for core in _CORE},
        **{(f"{core}.multiarray", "scalar"): _scalar for core in _CORE},
        **{(f"{core}.numeric", "_frombuffer"): _from_buffer for core in _CORE},
        ("collections", "OrderedDict"): dict,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch.storage", "_load_from_bytes"): _storage,
    }


def load_npy(path: Path) -> Any:
    """The object inside a pickled `.npy`, if it is made of arrays, tensors and plain containers. Raises StageError."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(file)
            if not dtype.hasobject or shape != ():
                raise ValueError("it holds an array, not a dictionary")
            return _ArraysOnly(io.BytesIO(file.read())).load().item()
    except FileNotFoundError as error:
        raise StageError(f"Cannot read {path}", "no such file", "Check the path") from error
    except Exception as error:  # a damaged pickle can fail in any way
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise StageError(f"Cannot read {path}", f"not a safe array file ({reason})", "Give a dictionary of arrays") from error


def save_npy(path: Path, value: dict[str, Any]) -> None:
    """Write a dictionary of arrays and tensors as `np.save` does, whole or not at all, for numpy and torch of 2018 and later."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
            file.write(_with_old_names(pickle.dumps(np.array(value, dtype=object), protocol=3)))

    write_atomic(path, write)


def _with_old_names(pickled: bytes) -> bytes:
    """A pickle of protocol 3 whose arrays are of `numpy.core`: numpy before 1.26 has no `numpy._core`, later ones have both."""
    old, new = (f"c{core}.".encode() for core in _CORE)
    parts, end = [], 0
    for code, name, at in pickletools.genops(pickled):
        if code.name == "GLOBAL" and at is not None and str(name).startswith(_CORE[1]):
            parts += [pickled[end:at], old]
            end = at + len(new)
    return b"".join([*parts, pickled[end:]])
