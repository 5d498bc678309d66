"""From the engine's ids to text: whole characters, stop strings of which no part is ever given out, log-probabilities.

Still no thread and no clock: the terminal, the generate stage and the server all write through it.
"""

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer.inference.engine import Engine, FinishReason, Writing, Written
from trainer.inference.sampling import Sampling
from trainer.tokens.tokenizer import TextEncoder


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """An id's bytes and log-probability, and the most probable ids in its place."""

    data: bytes
    logprob: float | None
    """None for a text's first id."""
    top: tuple[tuple[bytes, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """What a step added to a text. It may be empty: a character may lack bytes, or a stop string may have begun."""

    text: str
    logprobs: tuple[TokenLogprob, ...]
    num_tokens: int
    """Ids written so far, an end id among them."""
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt that is told again before what follows it."""

    text: str
    num_unsaid: int
    """So many ids stand before the text and are not of it."""
    is_all: bool
    """Nothing is to follow; the engine writes one id all the same."""


class StopStrings:
    """Lets text through until a stop string comes, and holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False
        """Whether a stop string came; nothing is let through any more."""

    def feed(self, text: str) -> str:
        """What may be given out now."""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            safe, self._held = self._held[: min(places)], ""
            return safe
        held = max((_begun(self._held, stop) for stop in self._stops), default=0)
        safe, self._held = self._held[: len(self._held) - held], self._held[len(self._held) - held :]
        return safe

    def rest(self) -> str:
        """What was held back, now that the text is over."""
        rest, self._held = self._held, ""
        return rest


class TextWriting:
    """One text on its way: takes the engine's ids in, gives pieces out."""

    def __init__(self, writing: Writing, encoder: TextEncoder, stops: Sequence[str], echo: Echo | None = None) -> None:
        self.writing = writing
        self._echo = echo
        self._encoder = encoder
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = StopStrings(stops)
        self._num_decoded = self._num_given = 0
        self._logprobs: list[tuple[int, TokenLogprob]] = []
        """Those not given out yet, each with the number of characters decoded behind it."""

    def take(self, written: Written) -> Piece:
        """The piece that an id makes."""
        echo, self._echo = self._echo, None
        if echo is None:
            return self._next(written)
        told = tuple(self._token(each.id, each.logprob, each.top) for each in written.prompt_logprobs[echo.num_unsaid :])
        if echo.is_all:
            return Piece(echo.text, told, 0, "length")
        piece = self._next(written)
        logprobs = told + piece.logprobs
        if written.finish_reason == "stop" and written.logprob is not None:
            # clients that score a prompt ask for one id more and pass over the last entry: there must be one
            logprobs += (self._token(written.id, written.logprob, written.top_logprobs),)
        return Piece(echo.text + piece.text, logprobs, piece.num_tokens, piece.finish_reason)

    def _next(self, written: Written) -> Piece:
        at_end = written.finish_reason == "stop"
        text = "" if at_end else self._decoder.decode(self._encoder.decode_bytes([written.id]))
        if written.finish_reason is not None:
            text += self._decoder.decode(b"", final=True)
        self._num_decoded += len(text)
        if written.logprob is not None and not at_end:
            token = self._token(written.id, written.logprob, written.top_logprobs)
            self._logprobs.append((self._num_decoded, token))
        safe = self._stops.feed(text)
        finish_reason: FinishReason | None = "stop" if self._stops.found else written.finish_reason
        if finish_reason is not None:
            safe += self._stops.rest()
        self._num_given += len(safe)
        # a token's log-probabilities go with its last character: those of a stop string's tokens never do
        ready = [token for end, token in self._logprobs if end <= self._num_given]
        self._logprobs = [each for each in self._logprobs if each[0] > self._num_given]
        return Piece(safe, tuple(ready), self.writing.num_written, finish_reason)

    def _token(self, id: int, logprob: float | None, top: Sequence[tuple[int, float]]) -> TokenLogprob:
        shown = tuple((self._encoder.decode_bytes([each]), value) for each, value in top)
        return TokenLogprob(self._encoder.decode_bytes([id]), logprob, shown)


class LengthWatch:
    """Says once that a text has become longer than any that the model was trained on."""

    def __init__(self, trained_tokens: int, tell: Callable[[str], None]) -> None:
        self._trained_tokens, self._tell = trained_tokens, tell
        self._told = False

    def see(self, num_tokens: int) -> None:
        """A text has so many tokens now, the prompt's among them."""
        if num_tokens > self._trained_tokens and not self._told:
            self._told = True
            self._tell(
                f"a text has passed {self._trained_tokens} tokens, the longest that this model was trained on: what it writes "
                f"beyond may make no sense; keep texts shorter, or set serve.context_tokens to {self._trained_tokens} "
                "(said once)"
            )


class Writer:
    """An engine that takes stop strings and gives text."""

    def __init__(self, engine: Engine, encoder: TextEncoder, watch: LengthWatch | None = None) -> None:
        self.engine = engine
        self._encoder, self._watch = encoder, watch
        self._texts: dict[Writing, TextWriting] = {}

    def add(
        self, prompt: Sequence[int], sampling: Sampling, stops: Sequence[str] = (), echo: Echo | None = None
    ) -> TextWriting:
        """Queue a text. Raises UsageError if it cannot fit."""
        text = TextWriting(self.engine.add(prompt, sampling), self._encoder, stops, echo)
        self._texts[text.writing] = text
        return text

    def cancel(self, text: TextWriting) -> None:
        """Forget a text; one that has ended is let be."""
        self.engine.cancel(text.writing)
        self._texts.pop(text.writing, None)

    def step(self) -> list[tuple[TextWriting, Piece]]:
        """One engine step: the new piece of each text that got an id."""
        pieces = []
        for written in self.engine.step():
            if self._watch is not None:
                self._watch.see(len(written.writing.ids))
            text = self._texts[written.writing]
            piece = text.take(written)
            if piece.finish_reason is not None:
                self.cancel(text)
            pieces.append((text, piece))
        return pieces


def _begun(text: str, stop: str) -> int:
    """Length of the longest end of a text that a stop string begins with, less than the whole of it."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
