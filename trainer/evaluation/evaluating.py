"""The stage `evaluate`: the trained model's held-out bits per byte by source, beside unigram and bigram baselines."""

import math

import torch

from trainer.config import Config
from trainer.evaluation.ngrams import NgramModel
from trainer.events import Evaluated
from trainer.files import write_json
from trainer.inference.loading import load_model
from trainer.run_folder import RunFolder
from trainer.tracking.hub import Tracker
from trainer.training.peers import Peers, choose_device
from trainer.training.precision import Numerics
from trainer.training.pretrain import NextTokenLoss
from trainer.training.stage import TrainingData
from trainer.training.validation import Validator
from trainer.world import World


def evaluate(config: Config, folder: RunFolder, tracker: Tracker) -> Evaluated:
    """Measure the newest checkpoint and the baselines on the same rows; writes RUN/evaluation.json."""
    data = TrainingData.open(config, folder)
    device = choose_device(config.device, 0)
    loaded = load_model(config, folder, device, config.tokens.row_tokens)
    numerics = Numerics.of(config, loaded.precision, device)
    module = NextTokenLoss(loaded.model, numerics)
    validator = Validator(
        data.held_out,
        data.bytes_per_id,
        config.evaluate.batch_rows,
        config.evaluate.max_rows_per_source,
        Peers(World(), device),
    )
    with torch.no_grad():
        validated = validator.measure(module, lambda: False)
    assert validated is not None
    figures = {"model": {**validated.by_source, "all": validated.bits_per_byte}}
    figures |= _baselines(validator, NgramModel.fit(data.train, data.manifest.vocab_size))
    evaluated = Evaluated(step=loaded.step, bits_per_byte=figures)
    write_json(folder.evaluation, {"stage": loaded.stage, "step": loaded.step, "bits_per_byte": figures, "run": config.hash()})
    tracker.emit(evaluated)
    return evaluated


def _baselines(validator: Validator, ngrams: NgramModel) -> dict[str, dict[str, float]]:
    """Bits per byte of both baselines by source, on the validator's rows."""
    names = list(validator.rows.info.rows_by_source)
    sums = {name: [0.0, 0.0, 0.0] for name in names}
    for source, ids in validator.batches():
        unigram, bigram, targets = ngrams.nats_of_rows(validator.rows, ids)
        of_source = sums[names[source]]
        of_source[0] += unigram
        of_source[1] += bigram
        of_source[2] += float(validator.bytes_per_id[targets].sum())
    sums["all"] = [sum(values) for values in zip(*sums.values(), strict=True)]
    return {
        kind: {name: values[index] / math.log(2) / values[2] for name, values in sums.items() if values[2]}
        for index, kind in enumerate(("unigram", "bigram"))
    }
