"""Log-probabilities of continuations, and what a task's questions come to.

    plain           sum of log p(token | before) over a continuation; the largest is the model's answer
    per_character   the same divided by the choice's length in characters, so that short choices have no advantage

Both are lm-evaluation-harness's, `acc` and `acc_norm`; of preferences, a summed log-probability is also what DPO compares.

Shapes: B continuations of a batch, T positions, N scored positions, C hidden size, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from trainer.errors import TaskError
from trainer.evaluation.statistics import Accuracy
from trainer.evaluation.tasks import Continuation, LoadedTask
from trainer.model.gpt import GPT
from trainer.training.precision import Numerics

SCORES: dict[str, Callable[[Continuation, float], float]] = {
    "plain": lambda _, log_probability: log_probability,
    "per_character": lambda option, log_probability: log_probability / option.num_chars,
}


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A model's answers to one task."""

    task: str
    kind: str
    n: int
    chance: float
    left_out: int
    scores: dict[str, Accuracy]
    right: dict[str, list[bool]]
    """By score: which questions were answered right."""


def score_task(name: str, kind: str, task: LoadedTask, log_probabilities: Sequence[float]) -> TaskResult:
    """From the log-probability of each option of each question, in order. A tie with the right option counts as wrong."""
    remaining = iter(log_probabilities)
    right: dict[str, list[bool]] = {score: [] for score in SCORES}
    for question in task.questions:
        values = [next(remaining) for _ in question.options]
        for score, of in SCORES.items():
            scored = [of(option, value) for option, value in zip(question.options, values, strict=True)]
            best = scored.pop(question.answer)
            right[score].append(best > max(scored))
    chances = [1 / len(question.options) for question in task.questions]
    scores = {score: Accuracy.of(outcomes, chances) for score, outcomes in right.items()}
    return TaskResult(name, kind, len(chances), sum(chances) / len(chances), task.left_out, scores, right)


@torch.inference_mode()
def log_probabilities(model: GPT, numerics: Numerics, options: Sequence[Continuation], batch_rows: int) -> list[float]:
    """Sum of log-probabilities of each continuation given its context, in nats.

    The longest go first, so a batch has little padding and the memory that is enough at the start stays enough.
    """
    results = [0.0] * len(options)
    order = sorted(range(len(options)), key=lambda place: -len(options[place].context) - len(options[place].ids))
    for start in range(0, len(order), batch_rows):
        places = order[start : start + batch_rows]
        for place, value in zip(places, _of_batch(model, numerics, [options[place] for place in places]), strict=True):
            results[place] = value
    return results


def check_lengths(name: str, task: LoadedTask, max_positions: int) -> int:
    """The longest text of a task, in tokens. Raises TaskError if the model has no positions for it."""
    longest = max(len(option.context) + len(option.ids) for question in task.questions for option in question.options)
    if longest > max_positions:
        raise TaskError(
            f"evaluate.tasks: {name}: an item has {longest} tokens, model.max_positions is {max_positions}; leave it out"
        )
    return longest


def _of_batch(model: GPT, numerics: Numerics, options: Sequence[Continuation]) -> list[float]:
    device = model.embed_tokens.weight.device
    longest = max(len(option.context) + len(option.ids) for option in options) - 1
    # padding stands behind, where a causal model does not see it
    inputs_BT = torch.zeros(len(options), longest, dtype=torch.int64)
    for row, option in enumerate(options):
        ids = [*option.context, *option.ids][:-1]
        inputs_BT[row, : len(ids)] = torch.tensor(ids)
    rows = torch.tensor([row for row, option in enumerate(options) for _ in option.ids])
    columns = torch.tensor([len(option.context) - 1 + place for option in options for place in range(len(option.ids))])
    targets_N = torch.tensor([token for option in options for token in option.ids])
    with numerics.autocast():
        hidden_BTC = model(inputs_BT.to(device))
        logits_NV = model.logits(hidden_BTC[rows.to(device), columns.to(device)])
    logs_N = torch.log_softmax(logits_NV.float(), dim=-1).gather(1, targets_N.to(device)[:, None])[:, 0]
    sums_B = torch.zeros(len(options), dtype=torch.float64).index_add_(0, rows, logs_N.double().cpu())
    return [float(value) for value in sums_B]
