"""Read torch checkpoints that hold objects beside tensors, without importing or executing any class they name.

`torch.load(weights_only=True)` stops at the first `argparse.Namespace`, omegaconf or Lightning object. Here the pickle
machine asks `_find` for every global, and `_find` hands out only plain containers, this module's own functions that
lay tensors over stored numbers, and inert classes: nothing it returns can act. A global of the standard library or of
Python itself that is on no list makes the load refuse: no training script saves one, an attack does.
"""

import collections
import os
import pickle
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pkd_utils.runs.errors import DataError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a file that torch before 1.6 wrote
LEGACY_PROTOCOL = 1001

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
STORAGE_MODULES = {"torch", "torch.cuda", "torch.storage"}
DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}

# Of the standard library only these are expected in checkpoints; they are read as inert objects too.
HARMLESS = {
    "argparse": {"Namespace"},
    "types": {"SimpleNamespace"},
    "pathlib": {"Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"},
    "pathlib._local": {"Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "uuid": {"UUID"},
    "collections": {"deque"},
    "copyreg": {"_reconstructor", "__newobj__", "__newobj_ex__"},
    "typing": {"Any", "Union", "Optional", "List", "Dict", "Tuple", "Set", "Sequence", "Mapping", "Literal"},
    "builtins": {
        *("object", "int", "float", "str", "bool", "bytes", "bytearray", "complex", "slice", "range"),
        *("NoneType", "type", "Ellipsis", "NotImplemented"),
    },
}


class Inert(dict):
    """Stands for an object of a class that is neither imported nor executed; keeps the items set on it, no more.

    A dictionary, because some projects keep their weights in a dictionary class of their own.
    """

    def __new__(cls, *_args: Any, **_named: Any) -> "Inert":
        return dict.__new__(cls)

    def __init__(self, *_args: Any, **_named: Any) -> None:
        super().__init__()

    def __setstate__(self, _state: Any) -> None:
        """The state that the real class would have taken is not looked at."""

    def __call__(self, *_args: Any, **_named: Any) -> "Inert":
        return Inert()

    def append(self, _item: Any) -> None:
        """For list subclasses and deques."""

    extend = add = append
    __hash__ = object.__hash__


def _overlay(flat: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    """Tensor of `size` over the 1-D stored numbers, with every index checked to lie inside them."""
    size, stride = tuple(size), tuple(stride)
    if min((offset, *size, *stride)) < 0 or len(size) != len(stride):
        raise pickle.UnpicklingError("a tensor has a negative or inconsistent size")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if 0 not in size else -1
    if last >= len(flat):
        raise pickle.UnpicklingError("a tensor reaches beyond its stored numbers")
    return flat.as_strided(size, stride, flat.storage_offset() + offset)


def _functions() -> dict[tuple[str, str], Any]:
    """What stands in for torch's functions; made anew for each global, so that a pickle can alter none for later."""
    return {
        ("torch._utils", "_rebuild_tensor"): lambda flat, offset, size, stride: _overlay(flat, offset, size, stride),
        ("torch._utils", "_rebuild_tensor_v2"): lambda flat, offset, size, stride, *_: _overlay(
            flat, offset, size, stride
        ),
        ("torch._utils", "_rebuild_tensor_v3"): lambda flat, offset, size, stride, _grad, _hooks, dtype, *_: _overlay(
            flat.view(dtype), offset, size, stride
        ),
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *_: tensor,
        ("torch", "Size"): lambda values=(): tuple(values),
        ("torch", "device"): lambda *_: Inert(),
        # How protocol 2 writes bytes; other codecs than latin1 are nothing that pickle itself writes.
        ("_codecs", "encode"): lambda text, codec="latin1": text.encode("latin1") if codec == "latin1" else Inert(),
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("collections", "defaultdict"): lambda *_: {},
        ("collections", "Counter"): lambda values=(): dict(values),
        ("builtins", "dict"): dict,
        ("builtins", "list"): list,
        ("builtins", "tuple"): tuple,
        ("builtins", "set"): set,
        ("builtins", "frozenset"): frozenset,
    }


class _Unpickler(pickle.Unpickler):
    """Pickle machine that can build containers, tensors and inert objects, and nothing else."""

    def __init__(self, stream: Any, file: Path, storage: Any = None) -> None:
        super().__init__(stream, encoding="latin1")
        self.file, self.storage = file, storage
        self.inert: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        """What stands for the global `module.name` (see the module's own text)."""
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        if module in STORAGE_MODULES and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        stand_in = _functions().get((module, name))
        if stand_in is not None:
            return stand_in
        # "os.system" may hide in the name of another package's module that imports os.
        packages = (module.split(".")[0], *name.split(".")[:-1])
        of_python = any(package in sys.stdlib_module_names or package == "" for package in packages)
        if of_python and name not in HARMLESS.get(module, ()):
            raise DataError(
                f"{self.file} names the Python function {module}.{name}, which no weights need: the file may be "
                "malicious; nothing of it was executed, delete it and download it from its authors again."
            )
        if module != "builtins":
            self.inert.add(f"{module}.{name}")
        return type(name.rsplit(".", 1)[-1], (Inert,), {"__module__": module})

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """Stored numbers as a 1-D tensor."""
        if self.storage is None or not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise pickle.UnpicklingError("it refers to something that is no stored tensor")
        _, dtype, key, _, count, *view = pid
        if not isinstance(dtype, torch.dtype) or not isinstance(count, int) or count < 0:
            raise pickle.UnpicklingError(f"storage {key!r} is of an unknown kind")
        flat = self.storage(str(key), dtype, count)
        if view and view[0] is not None:
            _, offset, length = view[0]
            flat = flat.narrow(0, offset, length)
        return flat


def _read_zip(file: Path) -> tuple[Any, set[str]]:
    """A file as torch 1.6 and later write it: a zip of data.pkl and one record for each storage."""
    with zipfile.ZipFile(file) as archive:
        records = {info.filename: info for info in archive.infolist()}
        top = next(name for name in records if name.endswith("data.pkl")).removesuffix("data.pkl")
        if f"{top}byteorder" in records and archive.read(f"{top}byteorder").strip() == b"big":
            raise DataError(f"{file} was written on a big-endian machine: save it again on an ordinary one.")
        mapped = np.memmap(file, mode="c")  # copy on write: what is not used is never read from disk
        loaded: dict[str, torch.Tensor] = {}

        def storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
            if key not in loaded:
                record = records[f"{top}data/{key}"]
                start = record.header_offset
                # Length of the record's own header: 30 bytes, then name and extra field, whose lengths it holds.
                start += 30 + sum(
                    int.from_bytes(mapped[start + at : start + at + 2].tobytes(), "little") for at in (26, 28)
                )
                length = count * dtype.itemsize
                if record.compress_type != zipfile.ZIP_STORED or record.file_size < length or start % dtype.itemsize:
                    data = np.frombuffer(bytearray(archive.read(record)), dtype=np.uint8)[:length]
                else:
                    data = mapped[start : start + length]
                if len(data) < length:
                    raise EOFError
                loaded[key] = torch.from_numpy(data).view(dtype) if length else torch.empty(0, dtype=dtype)
            return loaded[key]

        with archive.open(f"{top}data.pkl") as stream:
            unpickler = _Unpickler(stream, file, storage)
            return unpickler.load(), unpickler.inert


def _read_legacy(file: Path) -> tuple[Any, set[str]]:
    """A file as torch before 1.6 wrote it: pickles one after the other, then the numbers of every storage."""
    room = os.path.getsize(file)
    with open(file, "rb") as stream:
        if _Unpickler(stream, file).load() != LEGACY_MAGIC or _Unpickler(stream, file).load() != LEGACY_PROTOCOL:
            raise pickle.UnpicklingError("it does not begin as a torch file does")
        _Unpickler(stream, file).load()  # the writer's machine; little-endian everywhere torch ran
        storages: dict[str, torch.Tensor] = {}

        def storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
            if key not in storages:
                if count * dtype.itemsize > room:
                    raise EOFError
                storages[key] = torch.empty(count, dtype=dtype)
            return storages[key]

        unpickler = _Unpickler(stream, file, storage)
        content = unpickler.load()
        for key in _Unpickler(stream, file).load():
            flat = storages[str(key)]
            count = int.from_bytes(stream.read(8), "little")
            data = bytearray(stream.read(len(flat) * flat.dtype.itemsize))
            if count != len(flat) or len(data) != len(flat) * flat.dtype.itemsize:
                raise EOFError
            if data:
                flat.copy_(torch.frombuffer(data, dtype=flat.dtype))
    return content, unpickler.inert


def read_pickled(file: Path) -> tuple[Any, tuple[str, ...]]:
    """Content of a torch file, tensors on the CPU, objects inert.

    Returns
    -------
    content
        As saved, with an `Inert` object for each that is not a container, number, string or tensor.
    inert : tuple of str
        The classes that were read so, sorted.

    Raises
    ------
    DataError
        If the file names a global of Python itself that can act, or cannot be read to its end.
    """
    try:
        content, inert = _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file)
    except DataError:
        raise
    except EOFError as error:
        raise DataError(f"{file} ends too early: the download was cut off, download it again.") from error
    except Exception as error:  # a broken pickle can fail in any way; it must say so in one sentence
        reason = " ".join(str(error).split()) or type(error).__name__
        if "truncated" in reason:
            raise DataError(f"{file} ends too early: the download was cut off, download it again.") from error
        raise DataError(f"{file} cannot be read as a torch checkpoint ({reason}): download it again.") from error
    return content, tuple(sorted(inert))
