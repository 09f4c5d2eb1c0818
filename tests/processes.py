"""Processes that die in the middle: each is forked from a server that has imported torch and these tests once."""

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

FORKED = multiprocessing.get_context("forkserver")
TRAINING = ["tests.distillation.test_student_training", "tests.distillation.heads.test_training"]
FORKED.set_forkserver_preload(["tests.encoders.test_tokens", *TRAINING])


def before_call(owner: Any, name: str, number: int, act: Callable[[], None]) -> None:
    """From now on `act` precedes the so-and-so-many-th call of a function of a module, class or object."""
    real, calls = getattr(owner, name), itertools.count(1)

    def counted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == number:
            act()
        return real(*arguments, **options)

    setattr(owner, name, counted)


def kill_at_call(owner: Any, name: str, number: int) -> None:
    """From now on this process is killed by the so-and-so-many-th call of a function of a module or class."""
    before_call(owner, name, number, lambda: os.kill(os.getpid(), signal.SIGKILL))


def run_killed(function: Callable, *arguments: Any) -> None:
    """Call a function that kills its process, in a process of its own."""
    process = FORKED.Process(target=function, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
