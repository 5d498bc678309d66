"""A few held-out questions, which every checkpoint that is evaluated beside others answers: what tuning did, in plain sight."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trainer.run_folder import RunFolder
from trainer.tokens.chat_files import RowKind
from trainer.tokens.shards import IGNORED, TokenRows, read_manifest
from trainer.tokens.tokenizer import IM_END, TextEncoder

SHOWN = 6
"""Questions, of all sources together."""
MAX_ANSWER_TOKENS = 64
"""What does not end by itself, as a model that was never tuned, is cut off here."""


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A conversation up to where the assistant answers, and the answer that it had."""

    source: str
    prompt: list[int]
    question: str
    expected: str


def held_out_questions(folder: RunFolder, encoder: TextEncoder, max_prompt_tokens: int) -> list[AskedQuestion]:
    """As many of each source of conversations, spread evenly over its held-out rows; without conversations, of prompts."""
    kinds: tuple[RowKind, ...] = ("conversations", "prompts")
    for kind, rows in zip(kinds, (folder.chat, folder.prompts), strict=True):
        if rows.exists():
            held_out = TokenRows(rows, read_manifest(rows), "held_out")
            assert held_out.manifest.kind == kind
            return list(_questions(held_out, encoder, max_prompt_tokens))
    return []


def _questions(rows: TokenRows, encoder: TextEncoder, max_prompt_tokens: int) -> Iterator[AskedQuestion]:
    ranges = {source: span for source, span in rows.info.rows_by_source.items() if span[1] > span[0]}
    for place, (source, (first, end)) in enumerate(ranges.items()):
        wanted = SHOWN // len(ranges) + (place < SHOWN % len(ranges))
        found = 0
        for row in dict.fromkeys(np.linspace(first, end - 1, 4 * wanted).round().astype(int).tolist()):
            question = _question(rows, row, source, encoder)
            if found < wanted and question is not None and len(question.prompt) <= max_prompt_tokens:
                found += 1
                yield question


def _question(rows: TokenRows, row: int, source: str, encoder: TextEncoder) -> AskedQuestion | None:
    """Of the first conversation in a row, the last answer and all before it: the split goes by that."""
    inputs, targets, documents = (values[0] for values in rows.read(np.array([row])))
    counted = np.flatnonzero((targets != IGNORED) & (documents == 1))
    if not len(counted):
        return None
    last = np.split(counted, np.flatnonzero(np.diff(counted) > 1) + 1)[-1]
    prompt = inputs[: last[0] + 1].tolist()
    answer = targets[last].tolist()
    expected = answer[: answer.index(IM_END)] if IM_END in answer else answer
    return AskedQuestion(source, prompt, encoder.decode(prompt), encoder.decode(expected))
