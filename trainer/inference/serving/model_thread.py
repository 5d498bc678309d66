"""The thread that the model runs in, so that a forward pass never blocks the event loop.

Requests go in through a queue and are looked at between two steps; pieces come out as one call into the event loop a step.
When the thread ends, for whatever reason, everybody who waits is told.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from trainer.errors import BudgetError
from trainer.inference.sampling import Sampling
from trainer.inference.writing import Echo, Piece, TextWriting, Writer

STOP_DEADLINE_S = 30.0
"""A step that takes longer than this at the end is given up."""


@dataclass(frozen=True, slots=True)
class Order:
    """One text to write."""

    prompt: tuple[int, ...]
    sampling: Sampling
    stops: tuple[str, ...] = ()
    echo: Echo | None = None


class Ticket:
    """The texts of a request on their way. Made and read on the event loop; what is between goes on in the model's thread."""

    def __init__(self, orders: Sequence[Order]) -> None:
        self.orders = orders
        self.loop = asyncio.get_running_loop()
        self.arrived: asyncio.Queue[tuple[int, Piece] | None] = asyncio.Queue()
        self.is_given_up = False
        self.texts: list[TextWriting] = []
        """Only the model's thread touches it."""

    async def piece(self) -> tuple[int, Piece] | None:
        """The next piece and the number of its order; None when there will be no more, though texts are not done."""
        return await self.arrived.get()

    def give_up(self) -> None:
        """Tell who waits for a piece that none will come."""
        self.is_given_up = True
        self.arrived.put_nowait(None)


class ModelThread:
    """Runs a writer. `submit` and `cancel` may be called from any thread; nothing else touches the writer."""

    def __init__(self, writer: Writer, on_failure: Callable[[], None]) -> None:
        """`on_failure` is called in the thread when a step raises; `error` then says what."""
        self._writer, self._on_failure = writer, on_failure
        self._commands: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._open: dict[TextWriting, tuple[Ticket, int]] = {}
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self.error: Exception | None = None

    def start(self) -> None:
        """Begin to take requests."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether requests are served."""
        return self._thread.is_alive()

    @property
    def num_running(self) -> int:
        """Texts that get an id in each step."""
        return self._writer.engine.num_running

    def submit(self, ticket: Ticket) -> None:
        """Queue a request's texts."""
        self._commands.put(lambda: self._add(ticket))
        if not self.is_alive:  # it may have gone between a check and now
            ticket.arrived.put_nowait(None)

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request's texts before the next step; what has ended is let be."""
        self._commands.put(lambda: self._forget(ticket))

    def close(self) -> None:
        """End the thread after its step. Raises BudgetError when that takes too long, and what a step raised."""
        self._commands.put(None)
        self._thread.join(STOP_DEADLINE_S)
        if self._thread.is_alive():
            raise BudgetError(f"the model's thread did not end within {STOP_DEADLINE_S:.0f} s; is the device stuck?")
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            while self._obey():
                if not self._writer.engine.is_idle:
                    self._hand_over(self._writer.step())
        except Exception as error:  # noqa: BLE001  # raised again by close()
            self.error = error
            self._on_failure()
        finally:
            waiting = {id(ticket): ticket for ticket, _ in self._open.values()}
            while (command := self._next(wait=False)) is not None:  # what came after the end
                command()
            waiting |= {id(ticket): ticket for ticket, _ in self._open.values()}
            for ticket in waiting.values():
                _call(ticket.loop, lambda ticket=ticket: ticket.arrived.put_nowait(None))  # type: ignore[misc]

    def _obey(self) -> bool:
        """Do what was asked for; sleeps while there is nothing to do. False: the end."""
        with suppress(Empty):
            while True:
                command = self._commands.get(block=self._writer.engine.is_idle)
                if command is None:
                    return False
                command()
        return True

    def _next(self, *, wait: bool) -> Callable[[], None] | None:
        try:
            return self._commands.get(block=wait)
        except Empty:
            return None

    def _add(self, ticket: Ticket) -> None:
        for number, order in enumerate(ticket.orders):
            text = self._writer.add(order.prompt, order.sampling, order.stops, order.echo)
            ticket.texts.append(text)
            self._open[text] = (ticket, number)

    def _forget(self, ticket: Ticket) -> None:
        for text in ticket.texts:
            self._writer.cancel(text)
            self._open.pop(text, None)

    def _hand_over(self, pieces: Iterable[tuple[TextWriting, Piece]]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, int, Piece]]] = {}
        for text, piece in pieces:
            ticket, number = self._open[text]
            if piece.finish_reason is not None:
                del self._open[text]
            by_loop.setdefault(ticket.loop, []).append((ticket, number, piece))
        for loop, arrived in by_loop.items():
            _call(loop, lambda arrived=arrived: _deliver(arrived))  # type: ignore[misc]


def _deliver(arrived: Iterable[tuple[Ticket, int, Piece]]) -> None:
    for ticket, number, piece in arrived:
        ticket.arrived.put_nowait((number, piece))


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Call a function on an event loop, unless that has ended: then nobody waits."""
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        if not loop.is_closed():
            raise
