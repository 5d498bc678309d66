"""The stage `sft`: the assistant's tokens of conversations, each given all before it in its conversation."""

from trainer.events import AnswersValidated
from trainer.training.batches import read_batch
from trainer.training.pretrain import NextTokenLoss
from trainer.training.stage import Feed, Setting, Stage
from trainer.training.validation import Validator


def _feed(setting: Setting, _module: NextTokenLoss) -> Feed:
    """Masked rows, and besides the pretraining's text the answers of held-out conversations."""
    answers = Validator(
        setting.data.held_out,
        setting.data.bytes_per_id,
        setting.section.micro_batch,
        setting.config.validation.max_rows_per_source,
        setting.peers,
        AnswersValidated,
    )
    return Feed(read_batch, (*setting.text_measures(), *([answers] if len(setting.data.held_out) else [])))


SFT: Stage[NextTokenLoss] = Stage("sft", "conversations", NextTokenLoss, _feed)
