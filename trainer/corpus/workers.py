"""Jobs done by several processes, with results in the order of the jobs. One that is killed hangs nothing and costs no result.

    each(function, jobs) --a pipe each--> worker: function(job) --> result, or the error that it raised
                         <--- end of pipe: the worker is dead; its job goes to another one, and the pool is smaller by one

The system kills processes when memory runs out, so a dead worker is not replaced: fewer processes take less memory. Workers see
no Ctrl-C: it reaches all processes of a terminal, and the first one ends the others.
"""

import multiprocessing
import signal
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any

from trainer.errors import PeerLostError, TrainerError

Each = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Like `map`."""

_MAX_LOST = 3
"""Workers that one job may cost."""
_END_S = 10.0
_NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


@contextmanager
def workers(count: int, stage: str, key: str) -> Iterator[Each]:
    """Something like `map` over `count` processes, which end with the block; one is this process itself.

    `stage` and `key`, the config's key for their number, are for messages. `each` raises what a job raises, and PeerLostError
    where workers are killed again and again.
    """
    if count == 1:
        yield map
        return
    pool = _Pool(count, stage, key)
    try:
        pool.start()
        yield pool.each
    finally:
        pool.end()


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: int | None = None

    def how_it_ended(self) -> str:
        self.process.join(_END_S)
        code = self.process.exitcode
        return f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"


class _Pool:
    def __init__(self, count: int, stage: str, key: str) -> None:
        self._count = count
        self._stage = stage
        self._key = key
        self._workers: list[_Worker] = []
        self._starter = Thread(target=self._start)

    def start(self) -> None:
        # In a thread: a signal's handler may raise in the main one, and a process half started would end in a traceback
        self._starter.start()
        self._starter.join()

    def _start(self) -> None:
        # spawn: the caller may have threads (progress bars, torch), which a forked child would inherit in mid-flight
        context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # started by the first process otherwise, which unblocks the signals again
        for _ in range(self._count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            # blocked: the new process inherits that, so it is safe from its first instruction on; and we lose no signal
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_WORKERS)
            try:
                process.start()
                self._workers.append(_Worker(process, ours))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()

    def end(self) -> None:
        self._starter.join()
        for worker in self._workers:
            worker.process.kill()  # what it was writing has a temporary name
        for worker in self._workers:
            worker.process.join(_END_S)
            worker.pipe.close()

    def each(self, function: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
        waiting = deque(range(len(jobs)))
        results: dict[int, Any] = {}
        lost: Counter[int] = Counter()
        for number in range(len(jobs)):
            while number not in results:
                self._hand_out(function, jobs, waiting)
                busy = [worker for worker in self._workers if worker.job is not None]
                ready = wait([worker.pipe for worker in busy])  # for ever: a job takes as long as it takes, and a death is told
                for worker in busy:
                    if worker.pipe not in ready or worker.job is None:
                        continue
                    job, worker.job = worker.job, None
                    try:
                        is_good, value = worker.pipe.recv()
                    except (EOFError, OSError):
                        lost[job] += 1
                        self._bury(worker, f"{job + 1} of {len(jobs)}", is_hopeless=lost[job] == _MAX_LOST)
                        waiting.appendleft(job)
                        continue
                    if isinstance(value, MemoryError):
                        raise self._lost(f"memory ran out at piece {job + 1} of {len(jobs)}")
                    if not is_good:
                        raise value
                    results[job] = value
            yield results.pop(number)

    def _hand_out(self, function: Callable[[Any], Any], jobs: Sequence[Any], waiting: deque[int]) -> None:
        """A job for each worker that has none."""
        for worker in self._workers:
            if worker.job is None and waiting:
                worker.job = waiting.popleft()
                with suppress(OSError):  # a dead worker's: the next wait tells
                    worker.pipe.send((function, jobs[worker.job]))

    def _bury(self, worker: _Worker, where: str, *, is_hopeless: bool) -> None:
        """Go on without a worker. Raises PeerLostError where that is of no use."""
        ended = worker.how_it_ended()
        self._workers.remove(worker)
        worker.pipe.close()
        why = f"a process was {ended} at piece {where}"
        if ended.endswith("SIGKILL"):
            why += ", most likely because memory ran out"
        left = len(self._workers)
        if is_hopeless or not left:
            again = f", as {_MAX_LOST - 1} were before" if is_hopeless else f", as all other {self._count - 1} were"
            raise self._lost(f"{why}{again}")
        print(f"{self._stage}: {why}; {left} of {self._count} processes go on", file=sys.stderr)

    def _lost(self, why: str) -> PeerLostError:
        return PeerLostError(
            f"{self._stage}: {why}; set {self._key} below {self._count}, or give it more memory, and start the same command "
            "again: what is done stays"
        )


def _work(pipe: Connection) -> None:
    """A worker's life: until the other end of its pipe is closed or gone."""
    with suppress(EOFError, OSError):
        while True:
            function, job = pipe.recv()
            try:
                answer = True, function(job)
            except Exception as error:  # noqa: BLE001 - handed to the process that asked, which raises it
                if not isinstance(error, TrainerError):
                    error.add_note(f"in a worker of its own:\n{traceback.format_exc()}")
                answer = False, error
            pipe.send(answer)
