"""One request to write: read, checked, queued, answered whole or as a stream, and forgotten when its client goes.

`Exchange.__call__` is the whole life of a request, top to bottom.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from trainer.inference.serving.answers import Text, Usage, as_json
from trainer.inference.serving.desk import Desk
from trainer.inference.serving.failures import ApiError, invalid
from trainer.inference.serving.forms import Form
from trainer.inference.serving.model_thread import Order, Ticket
from trainer.inference.writing import Piece

MAX_BODY_BYTES = 1 << 20
BODY_DEADLINE_S = 20.0
"""A client gets so long to send its body."""
STALL_S = 10.0
"""Beyond the deadline, for a client that does not read what it is sent."""
NOTE_HEADER = "x-trainer-note"
"""What was done otherwise than asked for."""


class Exchange(Response):
    """A response that does the whole exchange when it is sent, so that it can watch its client meanwhile."""

    def __init__(self, desk: Desk, form: Form) -> None:
        self._desk, self._form = desk, form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        desk, arrived = self._desk, time.monotonic()
        try:
            order = self._form.read(await self._unless_ending(read_body(Request(scope, receive))))
            desk.check_model(order.model)
            desk.check_ids(map(int, order.logit_bias or ()), "logit_bias")
            with desk.place(order.num_texts):
                async with asyncio.timeout(desk.limits.deadline_s + STALL_S):
                    await _while_connected(receive, self._answer(order, arrived, send))
        except (ClientDisconnect, TimeoutError):  # nobody reads any more; uvicorn closes the connection
            desk.metrics.disconnects.inc()
        except ValidationError as error:
            raise invalid(error) from None

    async def _unless_ending(self, work: Coroutine[Any, Any, bytes]) -> bytes:
        """Do the work, or give it up when the server waits no longer. Raises ApiError 503, and what the work raises."""
        working, ending = asyncio.ensure_future(work), asyncio.ensure_future(self._desk.ending.wait())
        try:
            await asyncio.wait((working, ending), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise _ending()
            return working.result()
        finally:
            working.cancel()
            ending.cancel()

    async def _answer(self, order: Any, arrived: float, send: Send) -> None:
        desk, form = self._desk, self._form
        # in a thread: encoding a long prompt takes a while
        asked = await asyncio.to_thread(form.asked, order, desk)
        sampling = [form.sampling(order, asked.max_tokens, number) for number in range(order.n or 1)]
        orders = [
            Order(tuple(prompt), each, order.stops, echo)
            for prompt, echo in zip(asked.prompts, asked.echoes, strict=True)
            for each in sampling
        ]
        ticket = Ticket(orders)
        prompt_tokens = sum(map(len, asked.prompts))
        headers = {NOTE_HEADER: asked.note} if asked.note else {}
        desk.metrics.prompt_tokens.inc(prompt_tokens)
        texts = [Text() for _ in ticket.orders]
        if desk.ending.is_set():
            raise _ending()
        desk.thread.submit(ticket)
        desk.tickets.add(ticket)
        try:
            pieces = self._pieces(ticket, texts, arrived + desk.limits.deadline_s, arrived)
            if order.stream:
                await self._stream(order, pieces, texts, prompt_tokens, headers, send)
            else:
                async for _ in pieces:
                    pass
                answer = form.whole(order, desk.model, texts, _usage(prompt_tokens, texts))
                if asked.note:
                    answer.note = asked.note
                response = Response(as_json(answer), headers=headers, media_type="application/json")
                await response({"type": "http"}, _no_more, send)
        finally:
            desk.tickets.discard(ticket)
            desk.thread.cancel(ticket)
            desk.metrics.written_tokens.inc(sum(text.num_tokens for text in texts))

    async def _pieces(
        self, ticket: Ticket, texts: list[Text], deadline: float, arrived: float
    ) -> AsyncIterator[tuple[int, int, Piece]]:
        """Pieces until all texts are done, each with its text's number and the characters before it.

        Raises ApiError 504 after the deadline, 503 when the server waits no longer, 500 if the model fails.
        """
        num_open, first = len(texts), True
        while num_open:
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    found = await ticket.piece()
            except TimeoutError:
                seconds = self._desk.limits.deadline_s
                raise ApiError(504, f"not done within {seconds:g} s; ask for fewer tokens", "deadline_exceeded") from None
            if found is None and ticket.is_given_up:
                raise _ending()
            if found is None:
                raise ApiError(500, "the model failed amid this request; the server is ending", "model_failed")
            number, piece = found
            if first:
                self._desk.metrics.first_token_s.observe(time.monotonic() - arrived)
                first = False
            offset = len(texts[number].text)
            texts[number].add(piece)
            num_open -= piece.finish_reason is not None
            yield number, offset, piece

    async def _stream(
        self,
        order: Any,
        pieces: AsyncIterator[tuple[int, int, Piece]],
        texts: list[Text],
        prompt_tokens: int,
        headers: Mapping[str, str],
        send: Send,
    ) -> None:
        all_headers = {"content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no"} | dict(headers)
        raw = [(name.encode(), value.encode()) for name, value in all_headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})

        async def tell(data: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": more})

        chunks = self._form.chunks(order, self._desk.model)
        for chunk in chunks.opening(len(texts)):
            await tell(as_json(chunk))
        try:
            async for number, offset, piece in pieces:
                if piece.text or piece.logprobs or piece.finish_reason:
                    for chunk in chunks.of(number, offset, piece):
                        await tell(as_json(chunk))
        except ApiError as error:  # the status is sent: the error comes as an event, and no [DONE]
            await tell(as_json(error.body), more=False)
            return
        if order.includes_usage:
            await tell(as_json(chunks.closing(_usage(prompt_tokens, texts))))
        await tell(b"[DONE]", more=False)


async def read_body(request: Request) -> bytes:
    """A JSON body, unread. Raises ApiError 413 if it is too long, 415 if it is not JSON, 408 if it does not come."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "send the body as application/json", "unsupported_media_type")
    too_long = ApiError(413, f"the body is longer than {MAX_BODY_BYTES} bytes", "body_too_large")
    if int(request.headers.get("content-length", "0")) > MAX_BODY_BYTES:  # h11 lets digits through alone
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise too_long
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {BODY_DEADLINE_S:g} s", "body_timeout") from None
    return bytes(body)


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, or give it up when the client goes. Raises ClientDisconnect, and what the work raises."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait((working, leaving))
    working.result()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _ending() -> ApiError:
    return ApiError(503, "the server is ending before this request is done; send it again later", "server_ending")


async def _no_more() -> Any:
    raise AssertionError("a plain response reads nothing")


def _usage(prompt_tokens: int, texts: list[Text]) -> Usage:
    return Usage.of(prompt_tokens, sum(text.num_tokens for text in texts))
