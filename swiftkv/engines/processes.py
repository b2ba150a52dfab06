"""Work in a process of its own: what it holds, engines above all, is gone when it ends."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from swiftkv.errors import UserError, of_an_extra
from swiftkv.vllm.plugin import die_with_parent

SHARED_MEMORY = "/dev/shm"  # where Linux keeps the locks of a pool
KILLED = "a process of this command was killed; where memory ran out, run fewer side by side or a smaller model"


@contextmanager
def pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes, since one that used CUDA cannot be forked, until the block ends, or until this one is killed.
    Raises UserError if one of them was killed, and where there is no room for what they share."""
    context = multiprocessing.get_context("spawn")
    try:
        executor = ProcessPoolExecutor(processes, mp_context=context, initializer=die_with_parent)
    except OSError as error:
        raise UserError(
            f"{SHARED_MEMORY}: {error.strerror}; processes of one command share a little of it: make room there, or "
            "give a container more (--shm-size)"
        ) from None
    try:
        yield executor
    except BrokenProcessPool:
        raise UserError(KILLED) from None
    finally:
        executor.shutdown(cancel_futures=True)


def in_new_process(work: Callable, *given):
    """What `work(*given)` returns, or raises, in a process that ends with it. Raises UserError as `pool`, and for a
    package that is not installed."""
    with pool(1) as one:
        return one.submit(with_extras, work, *given).result()


def with_extras(work: Callable, *given):
    """`work(*given)`; raises UserError for a package of an extra, whose traceback does not leave this process."""
    try:
        return work(*given)
    except ModuleNotFoundError as error:
        if line := of_an_extra(error):
            raise UserError(line) from None
        raise
