"""Log-probabilities of continuations against the plainest computation, and what a task makes of them."""

import pytest
import torch

from tests.numerics.test_model import QK_NORM, SMALL, model_of
from trainer.config import Config, ModelSection
from trainer.errors import TaskError
from trainer.evaluation.scoring import check_lengths, log_probabilities, score_task
from trainer.evaluation.tasks import Continuation, LoadedTask, Question
from trainer.training.precision import Numerics

FP32 = Numerics.of(Config(), "fp32", torch.device("cpu"))
OPTIONS = [Continuation([0, *range(3, 3 + n)], list(range(40, 41 + n % 3)), 5) for n in (5, 1, 9, 2, 7, 1)]


@pytest.mark.parametrize("config", [SMALL, QK_NORM], ids=["plain", "qk-norm"])
def test_a_continuations_log_probability_is_the_sum_over_its_tokens_in_any_batch(config: ModelSection) -> None:
    model = model_of(config).eval()
    wanted = []
    for option in OPTIONS:
        ids = torch.tensor([[*option.context, *option.ids]])
        with torch.no_grad():
            logs_TV = torch.log_softmax(model.logits(model(ids))[0], dim=-1)
        start = len(option.context)
        wanted.append(sum(logs_TV[start + place - 1, token].item() for place, token in enumerate(option.ids)))
    for batch_rows in (1, 4, 16):
        assert log_probabilities(model, FP32, OPTIONS, batch_rows) == pytest.approx(wanted, abs=1e-4)


def test_length_normalisation_divides_by_characters_and_ties_are_wrong() -> None:
    def question(*chars: int, answer: int) -> Question:
        return Question(tuple(Continuation([0], [1], each) for each in chars), answer)

    task = LoadedTask((question(2, 10, answer=1), question(5, 5, 5, answer=0), question(4, 4, answer=0)), 2)
    result = score_task("own", "choice", task, [-4.0, -9.0, -1.0, -2.0, -3.0, -1.0, -1.0])
    assert (result.n, result.left_out) == (3, 2)
    assert result.chance == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)
    assert result.scores["plain"].accuracy == pytest.approx(1 / 3)  # -4 is above -9
    assert result.scores["per_character"].accuracy == pytest.approx(2 / 3)  # -9 / 10 is above -4 / 2


def test_an_item_beyond_the_models_positions_is_refused() -> None:
    task = LoadedTask((Question((Continuation([0] * 10, [1], 1), Continuation([0], [1], 1)), 0),), 0)
    assert check_lengths("own", task, 11) == 11
    with pytest.raises(TaskError, match=r"own: an item has 11 tokens, model.max_positions is 10; leave it out"):
        check_lengths("own", task, 10)
