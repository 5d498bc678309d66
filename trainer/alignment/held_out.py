"""What the judge says of answers to held-out prompts: one to each, with the same noise each time."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.alignment.judging import Judge, without_end
from trainer.alignment.rollouts import answer_seed, read_prompts, write_answers
from trainer.config import Config
from trainer.events import AnswersJudged
from trainer.model.gpt import GPT
from trainer.tokens.order import Ids, share_of_rank
from trainer.tokens.shards import TokenRows
from trainer.tokens.tokenizer import TextEncoder
from trainer.training.peers import Peers
from trainer.training.validation import LossOf, held_out_batches, weighed

SHOWN = 3
"""Answers in the event."""
_NO_STEP = -1
"""Held-out answers are no step's."""


@dataclass(frozen=True)
class AnswerMeasure:
    """Mean reward and length of answers to held-out prompts, the work shared among the processes."""

    rows: TokenRows
    model: GPT
    judge: Judge
    encoder: TextEncoder
    config: Config
    batch_rows: int
    max_rows_per_source: int | None
    peers: Peers

    def measure(
        self, loss_of: LossOf, stop_requested: Callable[[], bool], *, in_lockstep: bool = False
    ) -> AnswersJudged | None:
        """Collective. None when some process was asked to stop meanwhile."""
        started = time.monotonic()
        sources = list(self.rows.info.rows_by_source)
        batches = held_out_batches(self.rows, self.batch_rows, self.max_rows_per_source)
        mine = share_of_rank(len(batches), self.peers.world.rank, self.peers.world.size)
        sums = np.zeros((len(sources), 3))
        samples: list[dict[str, Any]] = []
        for turn in range(-(-len(batches) // self.peers.world.size)):
            if turn < len(mine):
                source, ids = batches[mine[turn]]
                judged = self._judged(ids)
                lengths = [each.pop("tokens") for each in judged]
                sums[source] += [len(judged), sum(each["reward"] for each in judged), sum(lengths)]
                samples += judged[: SHOWN - len(samples)]
            if self.peers.any(stop_requested()):
                return None
        totals = np.array(self.peers.sum(sums.ravel().tolist())).reshape(sums.shape)
        # a prompt has a row of its own
        held = [last - first for first, last in self.rows.info.rows_by_source.values()]
        prompts, reward, tokens = weighed(totals, held).tolist()
        return AnswersJudged(
            prompts=int(totals[:, 0].sum()),
            reward=reward / prompts,
            by_source={name: _mean(*totals[place, :2]) for place, name in enumerate(sources)},
            answer_tokens=tokens / prompts,
            samples=samples,
            duration_s=time.monotonic() - started,
        )

    def warm_up(self, loss_of: LossOf) -> None:
        """Nothing is compiled here."""

    def _judged(self, ids: Ids) -> list[dict[str, Any]]:
        batch = read_prompts(1, self.rows, ids, len(ids))
        seeds = [answer_seed(self.config.seed, _NO_STEP, row, 0) for row in batch.rows]
        answers = write_answers(self.model, batch.prompts, seeds, self.config.grpo.max_tokens, self.encoder.vocab_size)
        rewards = self.judge.rewards(batch.prompts, answers, batch.expected)
        decode = self.encoder.decode
        return [
            {"prompt": decode(prompt), "answer": decode(without_end(answer)), "reward": reward, "tokens": len(answer)}
            for prompt, answer, reward in zip(batch.prompts, answers, rewards, strict=True)
        ]


def _mean(count: float, total: float) -> float:
    return float(total / count) if count else math.nan
