"""Who says how good an answer is: a function that the config names, or a reward model.

A function is called as function(prompt, answer, expected) with three texts and returns a number, the more the better:

    prompt      all that stands before the answer, as the chat template renders it, special tokens by their names
    answer      what the model wrote, without the end token
    expected    the answer that the prompt had in its file; empty if it had none
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from trainer.alignment.functions import reward_function
from trainer.alignment.rollouts import Text
from trainer.checkpoint.format import MANIFEST, steps_in
from trainer.checkpoint.reading import Checkpoint
from trainer.config import Config
from trainer.errors import CheckpointError, RewardError
from trainer.inference.loading import check_tokenizer, find_checkpoint
from trainer.model.attention import DocumentMask
from trainer.model.reward import RewardModel
from trainer.run_folder import RunFolder
from trainer.tokens.tokenizer import END_OF_TEXT, IM_END, TextEncoder
from trainer.training.peers import Peers
from trainer.training.precision import Numerics
from trainer.training.starting import load_weights

_SHOWN_CHARS = 80


class Judge(Protocol):
    """Says how good answers are."""

    def rewards(self, prompts: Sequence[Text], answers: Sequence[Text], expected: Sequence[Text]) -> list[float]:
        """A finite number for each. Raises RewardError."""
        ...


def without_end(answer: Text) -> Text:
    """An answer without its end token, if it has one."""
    return answer[:-1] if answer and answer[-1] in (END_OF_TEXT, IM_END) else answer


@dataclass(frozen=True)
class FunctionJudge:
    """A function of three texts."""

    name: str
    function: Callable[[str, str, str], Any]
    encoder: TextEncoder

    @staticmethod
    def named(name: str, encoder: TextEncoder) -> "FunctionJudge":
        """By `module:function`. Raises RewardError if it is not there or does not take three texts."""
        return FunctionJudge(name, reward_function(name), encoder)

    def rewards(self, prompts: Sequence[Text], answers: Sequence[Text], expected: Sequence[Text]) -> list[float]:
        return [self._reward(*texts) for texts in zip(prompts, answers, expected, strict=True)]

    def _reward(self, prompt: Text, answer: Text, expected: Text) -> float:
        text = self.encoder.decode(without_end(answer))
        try:
            value = self.function(self.encoder.decode(prompt), text, self.encoder.decode(expected))
        except Exception as error:
            raise RewardError(f"grpo.reward {self.name}: raised {_told(error)} for the answer {_shown(text)}") from error
        try:
            reward = float(value)
        except (TypeError, ValueError):
            raise RewardError(
                f"grpo.reward {self.name}: gave {_shown(value)} for the answer {_shown(text)}; it must be a number"
            ) from None
        if not math.isfinite(reward):
            raise RewardError(f"grpo.reward {self.name}: gave {reward} for the answer {_shown(text)}; it must be finite")
        return reward


@dataclass(frozen=True)
class ModelJudge:
    """A reward model. An answer that was cut off is judged as if it ended there."""

    model: RewardModel
    numerics: Numerics

    @staticmethod
    def of(config: Config, encoder: TextEncoder, numerics: Numerics, peers: Peers) -> "ModelJudge":
        """Collective: the one that grpo.reward_from names, or this run's own. Raises CheckpointError."""
        checkpoint = _found(_checkpoints(config), peers)
        if checkpoint.manifest.stage != "reward":
            raise CheckpointError(
                f"{checkpoint.path}: is of stage {checkpoint.manifest.stage}; grpo.reward_from needs one of stage reward"
            )
        check_tokenizer(checkpoint, encoder)
        longest = config.chat_row_tokens + config.grpo.max_tokens + 1
        model = RewardModel(Config.model_validate(checkpoint.manifest.config).model, longest).to(peers.device)
        load_weights(model, checkpoint)
        return ModelJudge(model.eval(), numerics)

    @torch.no_grad()
    def rewards(self, prompts: Sequence[Text], answers: Sequence[Text], expected: Sequence[Text]) -> list[float]:
        device = self.model.embed_tokens.weight.device
        texts = [(*prompt, *without_end(answer), IM_END) for prompt, answer in zip(prompts, answers, strict=True)]
        longest = max(map(len, texts))
        ids_BT = torch.tensor([[*text, *[END_OF_TEXT] * (longest - len(text))] for text in texts], device=device)
        lengths_B1 = torch.tensor([[len(text)] for text in texts], device=device)
        positions_T = torch.arange(longest, device=device)
        ends_B = torch.arange(len(texts), device=device) * longest + lengths_B1[:, 0] - 1
        with self.numerics.autocast():
            mask = DocumentMask.of((positions_T < lengths_B1).long(), self.numerics.dtype, self.numerics.attention)
            rewards: list[float] = self.model.rewards(ids_BT, mask, ends_B).tolist()
        return rewards


def judge_of(config: Config, encoder: TextEncoder, numerics: Numerics, peers: Peers) -> Judge:
    """Collective: the one that a config asks for. Raises RewardError or CheckpointError."""
    if config.grpo.reward is not None:
        return FunctionJudge.named(config.grpo.reward, encoder)
    return ModelJudge.of(config, encoder, numerics, peers)


def _checkpoints(config: Config) -> Path:
    """A step's folder, or one that holds several."""
    section, folder = config.grpo, RunFolder.of(config)
    if section.reward_from is None:
        if not folder.done_of("reward").exists():
            raise CheckpointError(
                f"{folder.path}: no finished reward model to judge answers; run `trainer reward` first, or name a function as "
                "grpo.reward or a reward model as grpo.reward_from"
            )
        return folder.checkpoints_of("reward")
    path = Path(section.reward_from)
    if (path / MANIFEST).exists() or steps_in(path):
        return path
    return RunFolder(path, path).checkpoints_of("reward")


def _found(path: Path, peers: Peers) -> Checkpoint:
    """Collective: the first process verifies and chooses, all take the same one."""
    opened = find_checkpoint(path) if peers.world.is_first else None
    step = peers.from_first(opened.manifest.state.step if opened else 0)
    return opened or Checkpoint.trusted(path.parent if (path / MANIFEST).exists() else path, step)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
