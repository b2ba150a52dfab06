"""Work in a process of its own: what it holds, engines above all, is gone when it ends."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from swiftkv.errors import UserError

KILLED = "a process of this command was killed; where memory ran out, run fewer side by side or a smaller model"


def pool(processes: int) -> ProcessPoolExecutor:
    """Fresh processes: one that used CUDA cannot be forked."""
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))


def in_new_process(work: Callable, *given):
    """What `work(*given)` returns, or raises, in a process that ends with it. Raises UserError if it was killed."""
    one = pool(1)
    try:
        return one.submit(work, *given).result()
    except BrokenProcessPool:
        raise UserError(KILLED) from None
    finally:
        one.shutdown(cancel_futures=True)
