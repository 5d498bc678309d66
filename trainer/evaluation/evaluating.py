"""The stage `evaluate`: held-out bits per byte beside baselines, tasks with a right answer, and texts side by side.

Baselines and rows are the same for all checkpoints that are evaluated together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch

from trainer.checkpoint.reading import Checkpoint
from trainer.config import Config
from trainer.evaluation.choosing import checkpoint_paths, settings_hash
from trainer.evaluation.ngrams import NgramModel
from trainer.evaluation.questions import MAX_ANSWER_TOKENS, AskedQuestion, held_out_questions
from trainer.evaluation.scoring import TaskResult, check_lengths, log_probabilities, score_task
from trainer.evaluation.statistics import Difference
from trainer.evaluation.tasks import LoadedTask, load_task
from trainer.events import CheckpointMeasured, CheckpointsCompared, Evaluated, TaskScored
from trainer.files import write_json
from trainer.inference.generation import generate_ids, prompt_ids, stream_text
from trainer.inference.loading import LoadedModel, check_tokenizer, checkpoint_name, find_checkpoint, load_weights
from trainer.run_folder import RunFolder
from trainer.tokens.tokenizer import TOKENIZER_FILE, TextEncoder
from trainer.tracking.hub import Tracker
from trainer.training.peers import Peers, choose_device
from trainer.training.precision import Numerics
from trainer.training.pretrain import NextTokenLoss
from trainer.training.stage import TrainingData
from trainer.training.validation import Validator, bits_per_byte_of
from trainer.world import World


def evaluate(config: Config, folder: RunFolder, tracker: Tracker) -> Evaluated:
    """Measure checkpoints and baselines on the same rows; writes RUN/evaluation.json, the last checkpoint's figures in front.

    Raises TaskError, CheckpointError.
    """
    bench = _Bench.open(config, folder)
    checkpoints = [find_checkpoint(path) for path in checkpoint_paths(config, folder)]
    for checkpoint in checkpoints:
        check_tokenizer(checkpoint, bench.encoder)
    measured = [_measure(bench, checkpoint, tracker, with_samples=len(checkpoints) > 1) for checkpoint in checkpoints]
    entries, outcomes = [entry for entry, _ in measured], {entry["checkpoint"]: right for entry, right in measured}
    last = entries[-1]
    figures = {"model": last["bits_per_byte"]}
    figures |= _baselines(bench.validator, NgramModel.fit(bench.data.train, bench.data.manifest.vocab_size))
    evaluated = Evaluated(step=last["step"], bits_per_byte=figures, stage=last["stage"])
    values = {"stage": last["stage"], "step": last["step"], "bits_per_byte": figures, "run": config.hash()}
    compared = _differences(outcomes)
    values |= {"checkpoints": entries, "differences": compared, "settings": settings_hash(config, folder)}
    write_json(folder.evaluation, values)
    tracker.emit(evaluated)
    if compared:
        tracker.emit(CheckpointsCompared(step=last["step"], differences=compared))
    return evaluated


@dataclass(frozen=True)
class _Bench:
    """What every checkpoint is measured with."""

    config: Config
    folder: RunFolder
    data: TrainingData
    encoder: TextEncoder
    device: torch.device
    validator: Validator
    tasks: Mapping[str, tuple[str, LoadedTask]]
    """By name: kind and questions."""
    questions: Sequence[AskedQuestion]
    """What is asked in a chat, of each checkpoint."""
    num_positions: int

    @staticmethod
    def open(config: Config, folder: RunFolder) -> "_Bench":
        data = TrainingData.open(config, folder)
        encoder = TextEncoder(folder.tokenizer / TOKENIZER_FILE)
        device = choose_device(config.device, 0)
        section = config.evaluate
        validator = Validator(
            data.held_out, data.bytes_per_id, section.batch_rows, section.max_rows_per_source, Peers(World(), device)
        )
        tasks, longest = {}, config.tokens.row_tokens
        for task in section.tasks:
            loaded = load_task(task, encoder, config)
            longest = max(longest, check_lengths(task.name, loaded, config.model.max_positions))
            tasks[task.name] = task.kind, loaded
        for prompt in config.generate.prompts:
            longest = max(longest, len(prompt_ids(encoder, prompt)) + config.generate.max_tokens)
        questions = held_out_questions(folder, encoder, config.model.max_positions - MAX_ANSWER_TOKENS)
        longest = max([longest, *(len(each.prompt) + MAX_ANSWER_TOKENS for each in questions)])
        num_positions = min(longest, config.model.max_positions)
        return _Bench(config, folder, data, encoder, device, validator, tasks, questions, num_positions)


_Outcomes = dict[tuple[str, str], list[bool]]
"""By task and score: which items a checkpoint has right."""


def _measure(
    bench: _Bench, checkpoint: Checkpoint, tracker: Tracker, *, with_samples: bool
) -> tuple[dict[str, Any], _Outcomes]:
    """A checkpoint's entry in the results, and its answers."""
    name = checkpoint_name(bench.folder, checkpoint)
    loaded = load_weights(bench.config, checkpoint, bench.device, bench.num_positions)
    numerics = Numerics.of(bench.config, loaded.precision, bench.device)
    with torch.no_grad():
        validated = bench.validator.measure(NextTokenLoss(loaded.model, numerics), lambda: False)
    assert validated is not None
    bits = {**validated.by_source, "all": validated.bits_per_byte}
    results = [_answer(bench, loaded, numerics, *task) for task in bench.tasks.items()]
    samples = _samples(bench, loaded) if with_samples else {}
    answers = _answers(bench, loaded) if with_samples else []
    tasks = []
    for result in results:
        scores = {score: accuracy.to_json() for score, accuracy in result.scores.items()}
        fields = {"task": result.task, "kind": result.kind, "n": result.n, "chance": result.chance, "left_out": result.left_out}
        tracker.emit(TaskScored(step=loaded.step, checkpoint=name, scores=scores, **fields))  # type: ignore[arg-type]
        tasks.append(fields | {"scores": scores})
    stage = checkpoint.manifest.stage
    if with_samples:
        fields = {"checkpoint": name, "stage": stage, "bits_per_byte": bits, "samples": samples, "answers": answers}
        tracker.emit(CheckpointMeasured(step=loaded.step, **fields))  # type: ignore[arg-type]
    entry = {"checkpoint": name, "stage": stage, "step": loaded.step, "bits_per_byte": bits, "tasks": tasks}
    right = {(result.task, score): of for result in results for score, of in result.right.items()}
    texts = [{"prompt": prompt, "text": text} for prompt, text in samples.items()]
    return entry | {"samples": texts, "answers": answers}, right


def _differences(outcomes: Mapping[str, _Outcomes]) -> list[dict[str, Any]]:
    """Every two checkpoints on each task, by each score."""
    return [
        {"task": task, "score": score, "first": first, "second": second}
        | asdict(Difference.of(right, outcomes[second][task, score]))
        for first, second in combinations(outcomes, 2)
        for (task, score), right in outcomes[first].items()
    ]


def _answer(bench: _Bench, loaded: LoadedModel, numerics: Numerics, name: str, task: tuple[str, LoadedTask]) -> TaskResult:
    kind, questions = task
    options = [option for question in questions.questions for option in question.options]
    values = log_probabilities(loaded.model, numerics, options, bench.config.evaluate.batch_rows)
    return score_task(name, kind, questions, values)


def _samples(bench: _Bench, loaded: LoadedModel) -> dict[str, str]:
    """The text that continues each of the config's prompts; the seed is that of the generate stage."""
    section = bench.config.generate
    texts = {}
    for number, prompt in enumerate(section.prompts):
        ids = prompt_ids(bench.encoder, prompt)
        written = generate_ids(loaded.model, ids, section, section.seed + number, bench.encoder.vocab_size)
        texts[prompt] = "".join(stream_text(bench.encoder, written))
    return texts


def _answers(bench: _Bench, loaded: LoadedModel) -> list[dict[str, str]]:
    """What the model answers to each held-out question."""
    settings = bench.config.generate
    settings = settings.model_copy(update={"max_tokens": min(settings.max_tokens, MAX_ANSWER_TOKENS)})
    answers = []
    for number, asked in enumerate(bench.questions):
        written = generate_ids(loaded.model, asked.prompt, settings, settings.seed + number, bench.encoder.vocab_size)
        answer = "".join(stream_text(bench.encoder, written))
        fields = {"source": asked.source, "question": asked.question, "expected": asked.expected}
        answers.append(fields | {"answer": answer})
    return answers


def _baselines(validator: Validator, ngrams: NgramModel) -> dict[str, dict[str, float]]:
    """Bits per byte of both baselines by source, on the validator's rows."""
    sums = {kind: np.zeros((len(validator.rows.info.rows_by_source), 3)) for kind in ("unigram", "bigram")}
    for source, ids in validator.batches():
        unigram, bigram, targets = ngrams.nats_of_rows(validator.rows, ids)
        size_bytes = float(validator.bytes_per_id[targets].sum())
        for kind, nats in (("unigram", unigram), ("bigram", bigram)):
            sums[kind][source] += len(targets), nats, size_bytes
    figures = {}
    for kind, of_kind in sums.items():
        by_source, together = bits_per_byte_of(of_kind, validator.rows)
        figures[kind] = {name: bits for name, bits in {**by_source, "all": together}.items() if not math.isnan(bits)}
    return figures
