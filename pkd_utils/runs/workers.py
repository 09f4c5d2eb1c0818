"""Jobs spread over processes: none outlives its parent, and one that is killed ends the work in one sentence."""

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

T = TypeVar("T")
# fork starts in milliseconds where spawn would import everything once a worker; what a worker needs is imported before.
CONTEXT = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


def results_of(
    function: Callable[..., T], jobs: Sequence[tuple], workers: int, prepare: Callable[[], None] | None = None
) -> Iterator[T]:
    """Yield `function(*job)` of every job, as each is done; with one worker in this process and in order.

    `workers` are processes: the function, its arguments and results must be picklable, and `prepare` is called once in
    each. A RuntimeError says that one was ended from outside.
    """
    if workers == 1:
        yield from (function(*job) for job in jobs)
        return
    pool = ProcessPoolExecutor(workers, CONTEXT, _begin, (os.getpid(), prepare))
    try:
        for future in as_completed([pool.submit(function, *job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool:
        raise RuntimeError(
            f"One of {workers} worker processes was ended from outside, perhaps for want of memory; run again with "
            "fewer workers: it continues where it was."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(parent: int, prepare: Callable[[], None] | None) -> None:
    """In a new worker: end when the parent is gone, because nothing else would tell it."""

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if prepare is not None:
        prepare()
