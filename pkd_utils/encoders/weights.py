"""Weights out of a file or folder as downloaded: every usual kind, read safely; what else it held is named.

safetensors and ONNX hold no program. A torch file is a pickle, and `torch.load(weights_only=True)` reads it (torch 2.6
or later: before, such a file could still execute, CVE-2025-32434). That reader stops at the first class that is no
tensor and no plain container. Training scripts save such classes beside their weights (argparse.Namespace, omegaconf,
Lightning, loggers, functools.partial, NumPy scalars), so each is given an inert class of its name through
`torch.serialization.safe_globals`: nothing that a file names is ever imported or called. Refused, with the file named:

- what is in `ACTING`: no training script saves it, an attack does;
- what torch's safe reader has no opcodes for: pickle protocols 4 and 5, bytes of protocol 3, frozen sets;
- objects that mix items and attributes in ways it does not know;
- TorchScript, archives, cut or damaged files, and what a failed download leaves in a file's place.
"""

import fnmatch
import hashlib
import json
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import file_sha256

TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES, ".onnx")

FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""What is read of a folder: the first of these that is there, else its only weight file."""

WRAPPERS = ("model", "state_dict", "model_ema", "teacher")
"""Entries that hold the weights, the first that is there: the trained network before its moving average."""

# Whoever names one of these modules or functions wants something done: they run code, start programs, or reach files,
# attributes and the network. It would be inert as well, but a file of weights that names it is not to be trusted.
_ACTING = """
    builtins.eval builtins.exec builtins.execfile builtins.compile builtins.__import__ builtins.open builtins.file
    builtins.input builtins.breakpoint builtins.apply builtins.reload builtins.getattr builtins.setattr builtins.delattr
    builtins.globals builtins.locals builtins.vars operator.attrgetter operator.methodcaller types.CodeType
    types.FunctionType io.open io.open_code io.FileIO _io.open _io.open_code _io.FileIO codecs.open logging.config
    copyreg.add_extension multiprocessing.util os posix nt sys subprocess _posixsubprocess commands pty shutil tempfile
    fileinput linecache runpy importlib imp zipimport pkgutil code codeop timeit pdb bdb profile cProfile trace doctest
    pickle _pickle marshal shelve ctypes _thread asyncio socket socketserver ssl urllib httplib ftplib smtplib telnetlib
    xmlrpc webbrowser sqlite3 pydoc idlelib lib2to3 distutils venv ensurepip pip
"""
ACTING = tuple(f"{name}." for name in _ACTING.split())


@dataclass(frozen=True)
class Weights:
    """Tensors of one checkpoint and what stood beside them."""

    file: Path  # that was read; the index, if the weights are in several
    sha256: str  # of that file; of the index and all its parts, if there are several
    state: dict[str, Tensor]  # without wrapper and a leading `module.`; dtypes as stored, on the CPU
    wrapper: str = ""  # entry that held them, "a.b" if nested
    skipped: tuple[str, ...] = ()  # top-level entries beside the weights, and entries among them that are no tensors
    inert: tuple[str, ...] = ()  # classes named in the pickle that were neither imported nor executed


def read_weights(path: str | Path, prefer: Sequence[str] = ()) -> Weights:
    """Read the weights of a file or Hugging Face folder; nothing the file holds is ever executed.

    Parameters
    ----------
    path : str or Path
        A .safetensors, .bin, .pt, .pth, .ckpt or .onnx file, or a folder with one (order of choice: `FOLDER_FILES`).
    prefer : sequence of str
        File names or patterns that are looked for in a folder before `FOLDER_FILES`, e.g. `facts.files`.

    Raises
    ------
    FileNotFoundError
        If there is no such file, no weight file in the folder, or a part that the index names is missing.
    DataError
        If the file is empty, cut off, a web page, a git-lfs pointer, a TorchScript archive, names functions that no
        weights need, or holds no tensors; if a folder holds several files and no rule chooses.
    """
    path = Path(path)
    if path.is_dir():
        path = _choose(path, prefer)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give the weight file or folder as it was downloaded.")
    if path.name.endswith(".index.json"):
        return _read_index(path)
    known = path.suffix in SUFFIXES
    fault = _fault(path) if known else f"is no weight file: its name should end in {', '.join(SUFFIXES)}"
    if fault:
        raise DataError(f"{path} {fault}.")
    content, inert = _read_file(path)
    return _unwrap(content, path, inert)


def _choose(folder: Path, prefer: Sequence[str]) -> Path:
    """The weight file of a folder."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    every = [name for name in names if Path(name).suffix in SUFFIXES]
    # A pattern such as ckpt_epoch_*.pth may fit several: then the user has to say which.
    choices = (fnmatch.filter(names, pattern) for pattern in (*prefer, *FOLDER_FILES))
    found = next((choice for choice in choices if choice), every)
    if len(found) > 1:
        raise DataError(f"{folder} holds several weight files ({some(found)}): give the path of the one you mean.")
    if found:
        return folder / found[0]
    other = [name for name in names if name.endswith((".h5", ".msgpack"))]
    hint = f"; {other[0]} is of another framework" if other else ""
    raise FileNotFoundError(f"{folder} holds no weight file ({', '.join(FOLDER_FILES[:3])} ...){hint}: download one.")


# What a failed download leaves in a file's place: (beginnings, without leading blanks and in lower case; what to say).
NO_WEIGHTS = (
    ((b"version https://git-lfs",), "is a git-lfs pointer: run `git lfs pull` there, or download the file"),
    (
        (b"<!doctype", b"<html", b"<head", b"<?xml"),
        "is a web page (Google Drive and others answer so when they ask for consent or a log-in): download it with a "
        "browser",
    ),
    ((b"{",), "is JSON text, probably a server's error message: download it again"),
    (
        (b"\x1f\x8b", b"bzh", b"\xfd7zxz", b"rar!", b"7z\xbc\xaf"),
        "is a compressed archive: unpack it and give the weight file inside",
    ),
)


def _fault(file: Path) -> str:
    """What a file is that holds no weights, and what to do; "" if it may hold some."""
    with open(file, "rb") as stream:
        start = stream.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not file.stat().st_size:
        return "is empty: download it again"
    for beginnings, words in NO_WEIGHTS:
        if start.startswith(beginnings) and (start[:1] != b"{" or file.suffix != ".safetensors"):
            return words
    if file.suffix not in TORCH_SUFFIXES:
        return ""
    if not zipfile.is_zipfile(file):
        return "ends too early: the download was cut off, download it again" if start.startswith(b"pk\x03\x04") else ""
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.namelist()
    except Exception:  # names, sizes and offsets in a damaged table of contents fail in many ways
        return "has a damaged table of contents: download it again"
    if any(name.endswith("/constants.pkl") for name in records):
        return "is a TorchScript archive: it contains code and is not loaded; give a state dict"
    if not any(name.endswith("data.pkl") for name in records):
        return "is a zip archive without torch weights: unpack it and give the weight file inside"
    return ""


def _read_file(file: Path) -> tuple[Any, tuple[str, ...]]:
    """Content of one file, and the classes that were read as inert objects."""
    if file.suffix == ".onnx":
        from pkd_utils.encoders.onnx import read_onnx

        return read_onnx(file), ()
    if file.suffix != ".safetensors":
        return _read_torch(file)
    try:
        return load_file(file), ()
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{file} cannot be read as safetensors ({error}): cut off or damaged; download it again."
        ) from error


def _read_torch(file: Path) -> tuple[Any, tuple[str, ...]]:
    """A torch file by torch's own safe reader; each class that it does not know is read as an inert one.

    torch names one unknown class at a time and stops there, before any tensor is read, so asking again is cheap.
    """
    mapped = zipfile.is_zipfile(file)
    stand_ins: dict[str, type] = {}
    while True:
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals([(v, k) for k, v in stand_ins.items()]):
                warnings.simplefilter("ignore")  # about pickle protocols
                content = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
                return content, tuple(sorted(name for name in stand_ins if not name.startswith("builtins.")))
        except Exception as error:  # a broken file can fail in any way; it must say so in one sentence
            reason = " ".join(str(error).split()) or type(error).__name__
            unknown = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", reason)
            filled = re.search(r"Can only (SETITEM|append|extend).* but got <class '(\S+)'>", reason)
            if unknown:
                name = unknown[1] if "." in unknown[1] else f"builtins.{unknown[1]}"
                if name in stand_ins or f"{name}.".startswith(ACTING):
                    raise DataError(
                        f"{file} names the Python function {name}, which no weights need: the file may be malicious; "
                        "nothing of it was executed, delete it and download it from its authors again."
                    ) from None
                stand_ins[name] = _inert(name)
            elif filled and filled[2] in stand_ins:
                stand_ins[filled[2]] = _inert(filled[2], OrderedDict if filled[1] == "SETITEM" else list)
            else:
                reason = reason.partition("WeightsUnpickler error: ")[2].partition(" Please ")[0] or reason
                raise DataError(
                    f"{file} cannot be read as a torch checkpoint ({reason[:200]}): it is cut off, damaged or holds "
                    "objects that are not read; download it again, or have it saved as .safetensors."
                ) from error


def _inert(name: str, plain: type | None = None) -> type:
    """A class of this name that is neither imported nor executed, whose objects keep nothing of what they are given.

    In place of an object it makes an empty `plain` one: a class of another project may be a dictionary with its weights
    in it, or a list.
    """
    module, short = name.rsplit(".", 1)

    def make(cls, *_, **__):
        return plain() if plain else object.__new__(cls)

    return type(short, (), {"__module__": module, "__new__": make, "__setstate__": lambda self, state: None})


def _read_index(index: Path) -> Weights:
    """Weights in several files, as their index lists them."""
    try:
        names: dict[str, str] = json.loads(index.read_text())["weight_map"]
        files = sorted(set(names.values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        files, names = ["?"], {}
    wrong = [name for name in files if Path(name).name != name or Path(name).suffix not in SUFFIXES]
    if wrong:
        raise DataError(f"{index} is no index of weight files beside it (it names {wrong[0]!r}): download it again.")
    digest = hashlib.sha256(file_sha256(index).encode())
    state: dict[str, Tensor] = {}
    inert: set[str] = set()
    for name in files:
        weights = read_weights(index.parent / name)
        state |= weights.state
        inert |= set(weights.inert)
        digest.update(weights.sha256.encode())
    lost = sorted({name.removeprefix("module.") for name in names} - set(state))
    if lost:
        raise DataError(
            f"The parts that {index} lists lack {len(lost)} tensors, first {lost[0]!r}: download them again."
        )
    return Weights(index, digest.hexdigest(), state, "", (), tuple(sorted(inert)))


def _unwrap(content: Any, file: Path, inert: tuple[str, ...]) -> Weights:
    """The state dict inside what a file holds; whatever else is there is left aside, and named."""
    wrapper: list[str] = []
    skipped: list[str] = []
    while isinstance(content, Mapping) and len(wrapper) < 2:
        inner = next((name for name in WRAPPERS if _holds_tensors(content.get(name))), None)
        if inner is None:
            break
        skipped += [str(name) for name in content if name != inner]
        wrapper.append(inner)
        content = content[inner]
    entries = content if isinstance(content, Mapping) else {}
    tensors = {n: value for n, value in entries.items() if isinstance(n, str) and isinstance(value, Tensor)}
    skipped += [str(name) for name in entries if name not in tensors]
    if not tensors:
        what = some(skipped) or "nothing"
        if not isinstance(content, Mapping):
            what = f"one object of {type(content).__module__}.{type(content).__name__}"
        raise DataError(f"{file} holds no named tensors (found: {what}): give a file with a state dict.")
    short = {name: name.removeprefix("module.") for name in tensors}
    state = {name if short[name] in entries else short[name]: value.detach() for name, value in tensors.items()}
    return Weights(file, file_sha256(file), state, ".".join(wrapper), tuple(skipped), inert)


def _holds_tensors(content: Any) -> bool:
    """Whether this is a dictionary with tensors in it, or around one (another entry called "model" may be settings)."""
    if not isinstance(content, Mapping):
        return False
    inner = [content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)]
    return any(isinstance(value, Tensor) for each in (content, *inner) for value in each.values())


def some(names: Iterable[str], separator: str = ", ", most: int = 8) -> str:
    """The first few names in words, and how many more."""
    names = list(names)
    return separator.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
