"""The batched engine: whatever else is in the batch, each text is what the model writes alone and without a cache."""

import random

import pytest
import torch

from tests.support.models import QK_NORM, SMALL, model_of, uncached_greedy
from trainer.config import ModelSection
from trainer.errors import UsageError
from trainer.inference.engine import Engine, Writing, Written
from trainer.inference.sampling import Sampling, choose
from trainer.model.gpt import GPT

NO_END: frozenset[int] = frozenset()


def greedy(max_tokens: int, end_ids: frozenset[int] = NO_END) -> Sampling:
    return Sampling(max_tokens=max_tokens, temperature=0.0, end_ids=end_ids)


def run(engine: Engine) -> list[Written]:
    written = []
    while not engine.is_idle:
        written += engine.step()
    return written


@pytest.mark.parametrize("config", [SMALL, QK_NORM], ids=["plain", "qk-norm"])
@pytest.mark.parametrize("seed", range(3))
def test_greedy_texts_equal_the_uncached_models_whoever_joins_leaves_and_is_cancelled(config: ModelSection, seed: int) -> None:
    model, dice = model_of(config), random.Random(seed)
    engine = Engine(model, num_slots=4, max_positions=96, prefill_tokens=16)
    shared = [dice.randrange(512) for _ in range(20)]
    texts: list[tuple[Writing, list[int], int]] = []
    cancelled: set[Writing] = set()
    most_running = 0
    for _ in range(120):
        if len(texts) < 24 and dice.random() < 0.5:
            # some begin alike, so that what the prompt slot remembers is used
            start = shared[: dice.randrange(20)] if dice.random() < 0.5 else []
            prompt = [*start, *(dice.randrange(512) for _ in range(dice.randrange(1, 40)))]
            count = dice.randrange(1, 30)
            texts.append((engine.add(prompt, greedy(count)), prompt, count))
        if dice.random() < 0.05 and texts:
            victim = dice.choice(texts)[0]
            if victim.num_written < victim.sampling.max_tokens:
                cancelled.add(victim)
            engine.cancel(victim)
        engine.step()
        most_running = max(most_running, engine.num_running)
    run(engine)
    assert most_running == 4
    assert len(texts) >= 20
    assert 0 < len(cancelled) < len(texts) / 2
    for writing, prompt, count in texts:
        wanted = uncached_greedy(model, prompt, writing.num_written if writing in cancelled else count)
        assert writing.ids[len(prompt) :] == wanted


def test_a_sample_depends_on_its_seed_and_not_on_its_company() -> None:
    model = model_of(SMALL)

    def write(seeds: list[int]) -> list[list[int]]:
        engine = Engine(model, num_slots=5, max_positions=64)
        texts = [engine.add([0, 7, 9], Sampling(max_tokens=30, top_p=0.9, seed=seed, end_ids=NO_END)) for seed in seeds]
        run(engine)
        return [text.ids for text in texts]

    alone, together = [write([seed])[0] for seed in (1, 2, 3)], write([3, 1, 9, 2, 1])
    assert together == [alone[2], alone[0], together[2], alone[1], alone[0]]
    assert len({tuple(ids) for ids in together}) == 4


class CountingModel:
    """A model that notes how many positions each pass computed."""

    def __init__(self, model: GPT) -> None:
        self._model, self.passes = model, []  # type: ignore[var-annotated]

    def __call__(self, ids_BT: torch.Tensor, **options: object) -> torch.Tensor:
        self.passes.append(tuple(ids_BT.shape))
        return self._model(ids_BT, **options)

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)


def test_samples_of_one_prompt_read_it_once_and_a_long_prompt_lets_others_go_on() -> None:
    model = CountingModel(model_of(SMALL))
    engine = Engine(model, num_slots=4, max_positions=128, prefill_tokens=32)  # type: ignore[arg-type]
    prompt = list(range(5, 25))
    for seed in range(4):
        engine.add(prompt, Sampling(max_tokens=50, seed=seed, end_ids=NO_END))
    engine.step()
    assert model.passes == [(1, 20), (1, 1), (1, 1), (1, 1)]
    model.passes.clear()
    engine.cancel(next(iter(engine._running)))
    engine.add(list(range(100, 170)), greedy(3))
    for _ in range(3):
        engine.step()
    assert model.passes == [(3, 1), (1, 32), (3, 1), (1, 32), (3, 1), (1, 6)]


def test_an_end_id_or_the_limit_ends_a_text_and_frees_its_slot() -> None:
    model = model_of(SMALL)
    wanted = uncached_greedy(model, [9], 20)
    end = wanted[6]
    engine = Engine(model, num_slots=1, max_positions=64)
    engine.add([9], greedy(20, frozenset({end})))
    engine.add([9], greedy(5))
    written = run(engine)
    first = wanted[: wanted.index(end) + 1]
    assert [each.id for each in written] == first + wanted[:5]
    assert [each.finish_reason for each in written] == [None] * (len(first) - 1) + ["stop", None, None, None, None, "length"]


def test_logprobs_are_the_models_before_temperature_and_nucleus() -> None:
    model = model_of(SMALL)
    engine = Engine(model, num_slots=2, max_positions=64, num_ids=500)
    text = engine.add([0, 5, 9], Sampling(max_tokens=8, temperature=3.0, top_p=0.8, top_logprobs=3, end_ids=NO_END))
    engine.add([7], greedy(20))
    written = [each for each in run(engine) if each.writing is text]
    with torch.no_grad():
        logits = model.logits(model(torch.tensor([text.ids])))[0, 2:-1, :500]
    logprobs = torch.log_softmax(logits, dim=-1)
    for each, row in zip(written, logprobs, strict=True):
        assert each.logprob == pytest.approx(float(row[each.id]), abs=1e-4)
        assert [token for token, _ in each.top_logprobs] == row.topk(3).indices.tolist()
        assert [value for _, value in each.top_logprobs] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
        assert each.id < 500


def test_log_probabilities_of_a_prompt_are_the_models_whoever_is_in_the_batch() -> None:
    model, dice = model_of(SMALL), random.Random(2)
    engine = Engine(model, num_slots=2, max_positions=96, num_ids=500, prefill_tokens=16)
    shared = [dice.randrange(500) for _ in range(30)]
    scored = Sampling(max_tokens=3, temperature=0.0, top_logprobs=2, prompt_logprobs=True, end_ids=NO_END)
    texts, written = [], []
    for count in (0, 1, 17, 40):  # some begin alike, and one is given up when half of it is read
        engine.add([*shared, 7], greedy(12))
        texts.append(engine.add([*shared[:count], 5], scored))
        given_up = engine.add([*shared, *shared], scored)
        written += engine.step()
        engine.cancel(given_up)
    written += run(engine)
    for text in texts:
        told, *none = [each.prompt_logprobs for each in written if each.writing is text]
        assert none == [(), ()]
        assert [each.id for each in told] == list(text.prompt)
        assert (told[0].logprob, told[0].top) == (None, ())
        with torch.no_grad():
            logprobs = torch.log_softmax(model.logits(model(torch.tensor([text.prompt])))[0, :, :500], dim=-1)
        for each, row in zip(told[1:], logprobs, strict=False):
            assert each.logprob == pytest.approx(float(row[each.id]), abs=1e-4)
            assert [value for _, value in each.top] == pytest.approx(row.topk(2).values.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("presence", "frequency", "bias"), [(1.5, 0.0, ()), (0.0, 0.7, ()), (-1.0, 0.4, ((9, 3.0), (11, -50.0)))]
)
def test_penalties_and_bias_are_openais(presence: float, frequency: float, bias: tuple[tuple[int, float], ...]) -> None:
    model = model_of(SMALL)
    engine = Engine(model, num_slots=2, max_positions=64)
    settings = {"presence_penalty": presence, "frequency_penalty": frequency, "logit_bias": bias}
    text = engine.add([0, 5, 9], Sampling(max_tokens=24, temperature=0.0, top_logprobs=0, end_ids=NO_END, **settings))  # type: ignore[arg-type]
    engine.add([7], greedy(20))
    written = [each for each in run(engine) if each.writing is text]
    ids = [0, 5, 9]
    for each in written:
        with torch.no_grad():
            logits = model.logits(model(torch.tensor([ids])))[0, -1]
        wanted = logits.tolist()
        for token in range(len(wanted)):  # mu[j] - c[j] * frequency - (c[j] > 0) * presence, c[j] how often j was written
            count = ids[3:].count(token)
            wanted[token] += dict(bias).get(token, 0.0) - count * frequency - (count > 0) * presence
        assert each.id == max(range(len(wanted)), key=wanted.__getitem__)
        assert each.logprob == pytest.approx(float(torch.log_softmax(logits, -1)[each.id]), abs=1e-4)
        ids.append(each.id)
    assert ids[3:] != uncached_greedy(model, [0, 5, 9], 24)


def test_what_cannot_fit_is_refused() -> None:
    engine = Engine(model_of(SMALL), num_slots=1, max_positions=64)
    with pytest.raises(UsageError, match="a prompt of 60 tokens leaves 4 of 64 positions; lower max_tokens 10"):
        engine.add([1] * 60, greedy(10))
    with pytest.raises(UsageError, match="an empty prompt"):
        engine.add([], greedy(10))
    assert engine.is_idle


@pytest.mark.parametrize(("temperature", "top_p"), [(1e-320, 1.0), (1e-9, 0.5), (1.0, 1e-320), (2.0, 1e-9)])
def test_extreme_settings_draw_the_most_probable_id(temperature: float, top_p: float) -> None:
    logits = torch.tensor([1.0, 3.0, -torch.inf, 2.0])
    assert choose(logits, temperature, top_p, torch.Generator().manual_seed(0)) == 1
