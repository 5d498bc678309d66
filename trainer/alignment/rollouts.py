"""Prompts on their way to the model, and the answers that it writes to them.

The answers to a micro-batch of prompts are written in one batch of the engine, in the order of its rows; each has noise of its
own, seeded by (seed, step, row, place in its group). So they depend on the weights and the micro-batch alone: rank, world
size and other micro-batches have no part in it.

Shapes: P prompts, G answers of a group, B = P G answers, T positions, N tokens of all answers.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.inference.engine import Engine
from trainer.inference.sampling import Sampling
from trainer.model.gpt import GPT
from trainer.tokens.order import Ids
from trainer.tokens.shards import IGNORED, TokenRows
from trainer.tokens.tokenizer import END_OF_TEXT
from trainer.training.batches import Batch, read_batch

Text = tuple[int, ...]
"""Ids of a prompt or an answer."""


@dataclass(frozen=True, slots=True)
class PromptBatch(Batch):
    """Rows of one prompt each, and the answers that they had. `num_targets` counts the answers to be written."""

    rows: tuple[int, ...]
    prompts: tuple[Text, ...]
    expected: tuple[Text, ...]
    """Without their end token."""


def read_prompts(group_size: int, rows: TokenRows, ids: Ids, _num_rows: int) -> PromptBatch:
    """Rows by id. A row's targets are the answer that it had, so the first of them shows where the prompt ends."""
    batch = read_batch(rows, ids, len(ids))
    prompts, expected = [], []
    for inputs, targets in zip(batch.inputs_BT.numpy(), batch.targets_BT.numpy(), strict=True):
        counted = np.flatnonzero(targets != IGNORED)
        prompts.append(tuple(inputs[: counted[0] + 1].tolist()))
        expected.append(tuple(targets[counted[:-1]].tolist()))
    return PromptBatch(
        batch.inputs_BT,
        batch.targets_BT,
        batch.documents_BT,
        batch.used_N,
        len(ids) * group_size,
        tuple(ids.tolist()),
        tuple(prompts),
        tuple(expected),
    )


def answer_seed(seed: int, step: int, row: int, place: int) -> int:
    """Of the noise of one answer."""
    digest = hashlib.sha256(f"{seed}/{step}/{row}/{place}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def write_answers(
    model: GPT, prompts: Sequence[Text], seeds: Sequence[int], max_tokens: int, num_ids: int | None = None
) -> list[Text]:
    """An answer to each prompt, drawn from the model's own distribution, its end token included if it came to one.

    `num_ids` is the tokenizer's vocabulary where it is smaller than the model's.
    """
    engine = Engine(model, len(prompts), max(map(len, prompts)) + max_tokens, num_ids)
    writings = [
        engine.add(prompt, Sampling(max_tokens=max_tokens, seed=seed)) for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    while not engine.is_idle:
        engine.step()
    return [tuple(writing.ids[len(writing.prompt) :]) for writing in writings]


@dataclass(frozen=True, slots=True)
class AnswerRows:
    """Prompts with their answers behind them, a row each, padded to the longest."""

    inputs_BT: Tensor
    targets_BT: Tensor
    documents_BT: Tensor
    places_N: Tensor
    """Places of the answers' tokens in the flattened (B T), int64."""
    answers_N: Tensor
    """Whose each of them is, int64."""
    lengths_B: Tensor
    """Tokens of each answer, float32."""

    @staticmethod
    def of(prompts: Sequence[Text], answers: Sequence[Text], device: torch.device) -> "AnswerRows":
        """From ids."""
        longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)) - 1
        inputs = np.full((len(prompts), longest), END_OF_TEXT, np.int64)
        targets = np.full((len(prompts), longest), IGNORED, np.int64)
        documents = np.zeros((len(prompts), longest), np.int64)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            whole = np.array([*prompt, *answer])
            inputs[row, : len(whole) - 1] = whole[:-1]
            targets[row, len(prompt) - 1 : len(whole) - 1] = answer
            documents[row, : len(whole) - 1] = 1
        places = np.flatnonzero(targets.ravel() != IGNORED)
        lengths = np.array([len(answer) for answer in answers], np.float32)
        arrays = (inputs, targets, documents, places, places // longest, lengths)
        return AnswerRows(*(torch.from_numpy(array).to(device) for array in arrays))
