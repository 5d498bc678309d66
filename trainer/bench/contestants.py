"""The loops that `trainer bench` compares, each doing one optimizer step over real rows when called."""

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from trainer.config import Config
from trainer.model.gpt import GPT
from trainer.run_folder import RunFolder
from trainer.tokens.shards import IGNORED, read_array
from trainer.tokens.tokenizer import END_OF_TEXT
from trainer.training.assembly import make_model, order_of
from trainer.training.batches import Loader
from trainer.training.engines.making import make_engine
from trainer.training.engines.protocol import Share
from trainer.training.optimizers.update import Rates
from trainer.training.peers import Peers
from trainer.training.precision import Numerics
from trainer.training.pretrain import NextTokenLoss
from trainer.training.stage import TrainingData


@dataclass(frozen=True, slots=True)
class Turn:
    """One optimizer step: its target tokens, computed positions and this process's seconds of waiting for data."""

    useful_tokens: int
    positions: int
    data_s: float


class Contestant(Protocol):
    """A training loop."""

    def turn(self) -> Turn:
        """One optimizer step, to its end on the device."""
        ...

    def close(self) -> None:
        """Collective: no more turns will come."""
        ...


class OurLoop:
    """The trainer's own step, by the config's engine and options."""

    def __init__(self, config: Config, data: TrainingData, peers: Peers, numerics: Numerics) -> None:
        self._config, self._peers = config, peers
        self._order = order_of(config.pretrain, config.seed, len(data.train))
        model = make_model(config, peers.device)
        module = NextTokenLoss(model, numerics)
        self.engine = make_engine(config.engine, config.pretrain, module, model, peers, numerics.dtype)
        lockstep = self.engine.in_lockstep
        self._loader = Loader(data.train, self._order, peers.world, peers.device, in_lockstep=lockstep)
        self._step = 0

    def turn(self) -> Turn:
        data_s, targets, loss_sum = 0.0, 0, torch.zeros((), device=self._peers.device)
        self.engine.start_step()
        micro_batches = self._loader.micro_batches(self._step % self._order.num_steps)
        while True:
            started = time.perf_counter()
            micro = next(micro_batches, None)
            data_s += time.perf_counter() - started
            if micro is None:
                break
            loss = self.engine.loss(micro.batch)
            self.engine.backward(loss, last=micro.is_last)
            loss_sum += loss.detach()
            targets += micro.batch.num_targets
        optimizer = self._config.pretrain.optimizer
        outcome = self.engine.finish_step(Share(loss_sum, targets), Rates(optimizer.lr, optimizer.weight_decay)).read()
        self._step += 1
        return Turn(int(outcome.targets), self._config.pretrain.global_batch * self._config.tokens.row_tokens, data_s)

    def close(self) -> None:
        self._loader.close()
        self.engine.close()


class PlainLoop:
    """What a straightforward script does: a document per row, cut or padded to T; fp32; torch's fused attention and
    cross-entropy over all positions; a mean per micro-batch; AdamW one parameter at a time.
    """

    def __init__(self, config: Config, folder: RunFolder, data: TrainingData, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._row_tokens = config.tokens.row_tokens
        self._shards: list[NDArray[np.generic]] = []
        self._documents: list[tuple[int, int, int]] = []  # shard, start, length
        for number, shard in enumerate(shard for shard in data.manifest.shards if shard.split == "train"):
            self._shards.append(read_array(folder.tokens / f"{shard.name}.tokens", data.manifest.dtype))
            ends = read_array(folder.tokens / f"{shard.name}.ends", "<i8").tolist()
            for start, end in zip([1, *ends[:-1]], ends, strict=True):
                self._documents.append((number, start, end - start))
        self._model = GPT(config.model, self._row_tokens)
        self._model.init_weights(config.seed)
        self._model.to(device)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=config.pretrain.optimizer.lr, foreach=False)
        self._random = np.random.default_rng(0)

    def turn(self) -> Turn:
        useful, data_s = 0, 0.0
        section = self._config.pretrain
        for _ in range(section.num_micro_batches):
            started = time.perf_counter()
            inputs_BT, targets_BT = self._padded(section.micro_batch)
            data_s += time.perf_counter() - started
            logits_BTV = self._model.logits(self._model(inputs_BT))
            loss = functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORED)
            (loss / section.num_micro_batches).backward()
            useful += int((targets_BT != IGNORED).sum())
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), section.clip_norm or 1.0).item()
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return Turn(useful, section.global_batch * self._row_tokens, data_s)

    def close(self) -> None:
        """Nothing is held that Python does not let go of."""

    def _padded(self, num_rows: int) -> tuple[Tensor, Tensor]:
        inputs = np.full((num_rows, self._row_tokens), END_OF_TEXT, np.int64)
        targets = np.full((num_rows, self._row_tokens), IGNORED, np.int64)
        for row, index in enumerate(self._random.integers(len(self._documents), size=num_rows).tolist()):
            shard, start, length = self._documents[index]
            length = min(length, self._row_tokens)
            ids = self._shards[shard][start - 1 : start + length]
            inputs[row, :length], targets[row, :length] = ids[:-1], ids[1:]
        return torch.from_numpy(inputs).to(self._device), torch.from_numpy(targets).to(self._device)
