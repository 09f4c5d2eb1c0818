"""A disk that fills up in the middle: one sentence, and after room was made the same bytes as on an empty one.

Each piece of work runs in a forked process with a small file system of its own, which it may mount because it is root
in a namespace of its own.
"""

import ctypes
import errno
import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pkd_utils.distillation import student_training
from pkd_utils.encoders.tokens.encode import encode_images
from pkd_utils.images.pack import pack_images
from pkd_utils.runs import files
from tests.distillation.test_student_training import fit
from tests.encoders.test_tokens import TinyEncoder, write_images
from tests.processes import FORKED, before_call

NEW_USER, NEW_MOUNTS = 0x10000000, 0x00020000  # CLONE_NEWUSER, CLONE_NEWNS of linux/sched.h
FORBIDDEN = 77


def mount_small_disk(folder: Path, mebibytes: int) -> None:
    """Mount a file system that this process alone sees; it ends with `FORBIDDEN` where that is not permitted."""
    user, group = os.getuid(), os.getgid()
    try:
        if ctypes.CDLL(None, use_errno=True).unshare(NEW_USER | NEW_MOUNTS):
            raise OSError
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path("/proc/self", name).write_text(text)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "small", str(folder)], check=True)
    except (OSError, subprocess.CalledProcessError, AttributeError):
        os._exit(FORBIDDEN)


def fill(folder: Path, but: int = 0) -> None:
    """Somebody else's file takes what is left of the disk, but so many bytes."""
    with open(folder / "somebody", "wb", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC
        stream.truncate(stream.tell() - but)


def student(folder: Path, disk: Path | None) -> dict[str, bytes]:
    """Its checkpoint of the second of four epochs finds no room."""
    torch.set_num_threads(1)
    if disk:
        before_call(student_training, "class_token_logits", 5, lambda: fill(disk))
    fit(folder)
    return {"model": (folder / "model.safetensors").read_bytes()}


def tokens(folder: Path, disk: Path | None) -> dict[str, bytes]:
    """Pages of the mapped arrays have their place already; the next mark has none."""
    encoder = TinyEncoder()
    if disk:
        before_call(encoder, "encode", 2, lambda: fill(disk))
    store = encode_images(encoder, *write_images(folder, 40), folder / "tokens", views=2, batch_size=6)
    return {name: (store.folder / name).read_bytes() for name in ("tokens.npy", "cls.npy")}


def pixels(folder: Path, disk: Path | None) -> dict[str, bytes]:
    """There is room for some of the pictures, and none is packed before there is room for all."""
    _, paths = write_images(folder, 9)
    if disk:
        fill(disk, but=300_000)
    pack_images(paths, 300, folder / "pixels.npy")
    return {"pixels.npy": (folder / "pixels.npy").read_bytes()}


def tables(folder: Path, disk: Path | None) -> dict[str, bytes]:
    """One format after the other, and what was there before stays whole."""
    values = np.random.default_rng(0).integers(0, 256, (600, 500), dtype=np.uint8)
    table = pd.DataFrame(values.astype(float), columns=[str(n) for n in range(500)])
    written = {"a.npy": values, "a.npz": {"values": values}, "a.csv": table, "a.parquet": table}
    written["a.json"] = values.tolist()
    if disk:
        fill(disk)
        for name, value in written.items():
            said = refused(lambda name=name, value=value: files.write(folder / name, value))
            assert said.startswith(f"The disk of {folder} is full"), said
        assert not [path for path in folder.iterdir() if path != disk / "somebody"]
    for name, value in written.items():
        files.write(folder / name, value)
    return {name: (folder / name).read_bytes() for name in written}


def refused(work) -> str:
    with pytest.raises(files.DataError) as error:
        work()
    return str(error.value)


def on_a_small_disk(work, mebibytes, small, whole, said) -> None:
    """In a process of its own: the disk is full, then it is not."""
    mount_small_disk(small, mebibytes)
    sentence = refused(lambda: work(small, small))
    assert sentence.startswith(f"The disk of {small}") and sentence.count("\n") == 0, sentence
    (small / "somebody").unlink()
    assert work(small, None) == work(whole, None)
    said.write_text(sentence)


@pytest.mark.parametrize(("work", "mebibytes"), [(student, 2), (tokens, 1), (pixels, 2), (tables, 8)])
def test_a_full_disk_is_one_sentence_and_costs_nothing_that_was_done(tmp_path, work, mebibytes):
    small, whole = tmp_path / "small", tmp_path / "whole"
    small.mkdir()
    whole.mkdir()
    said = tmp_path / "said"
    process = FORKED.Process(target=on_a_small_disk, args=(work, mebibytes, small, whole, said))
    process.start()
    process.join()
    if process.exitcode == FORBIDDEN:
        pytest.skip("This machine does not permit a file system of one's own (user namespaces).")
    assert process.exitcode == 0 and "make room" in said.read_text()
