"""What the reference, the model that dpo starts from, thinks of every answer: computed once, and kept.

    RUN/dpo/reference/    train.f32, held_out.f32: little-endian float32, a number for each target; manifest.json with SHA-256

The micro-batches are those of the first epoch, in the shapes that training uses: on the same machine the policy's first
log-probabilities are then the reference's to the last bit.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.errors import CheckpointError
from trainer.files import HashingWriter, new_folder, record_of, write_json
from trainer.tokens.order import Ids, Order, share_of_rank
from trainer.tokens.shards import TokenRows
from trainer.training.pairs import PairBatch, ReferencedRows, read_pairs, target_starts
from trainer.training.peers import Peers
from trainer.training.stage import Setting
from trainer.training.validation import held_out_batches

FOLDER = "reference"
MANIFEST = "manifest.json"
SPLITS = ("train", "held_out")
_SUMMED_AT_ONCE = 1 << 18

LogProbs = NDArray[np.float32]
LogProbsOf = Callable[[PairBatch], Tensor]
"""Log-probabilities of a batch's targets, float32 of shape (N,)."""


def reference_rows(setting: Setting, make: Callable[[], LogProbsOf]) -> tuple[ReferencedRows, ReferencedRows]:
    """Collective: of the training split and the held-out one, from RUN/dpo/reference or by the model that `make` makes.

    Raises CheckpointError if what is kept belongs to another start or other data, or is damaged.
    """
    peers, folder = setting.peers, setting.folder / FOLDER
    fingerprint = {
        "start": setting.start.own_sha256 if setting.start else None,
        "data": setting.data.sha256,
        "precision": setting.numerics.precision,
    }
    train, held_out = setting.data.train, setting.data.held_out
    starts = target_starts(train), target_starts(held_out)
    if peers.any(peers.world.is_first and folder.exists()):
        found = [_kept(folder, name, fingerprint, verify=peers.world.is_first) for name in SPLITS]
    else:
        micro_batch = setting.section.micro_batch
        held_out_ids = [ids for _, ids in held_out_batches(held_out, micro_batch, None)]
        log_probs_of = make()
        found = [
            _computed(rows, begins, batches, micro_batch, log_probs_of, peers)
            for rows, begins, batches in ((train, starts[0], _epoch(setting.order)), (held_out, starts[1], held_out_ids))
        ]
        if peers.world.is_first:
            _keep(folder, found, fingerprint)
        peers.any(False)
    return ReferencedRows(starts[0], found[0]), ReferencedRows(starts[1], found[1])


def _epoch(order: Order) -> list[Ids]:
    """The micro-batches of a first epoch, as training takes them."""
    whole = Order.of_epochs(order.seed, order.num_rows, order.global_batch, order.micro_batch, 1, order.ramp)
    return [ids for step in range(whole.num_steps) for ids in whole.micro_batches_of_step(step)]


def _computed(
    rows: TokenRows, starts: NDArray[np.int64], batches: list[Ids], num_rows: int, log_probs_of: LogProbsOf, peers: Peers
) -> LogProbs:
    """Collective: each process computes its share of the batches, and all get the whole."""
    result = np.zeros(starts[-1], np.float32)
    for number in share_of_rank(len(batches), peers.world.rank, peers.world.size):
        ids = batches[number]
        with torch.no_grad():
            log_probs = log_probs_of(read_pairs(rows, ids, num_rows).to(peers.device)).cpu().numpy()
        at = 0
        for row in ids.tolist():
            length = int(starts[row + 1] - starts[row])
            result[starts[row] : starts[row + 1]] = log_probs[at : at + length]
            at += length
    for start in range(0, len(result) if peers.world.size > 1 else 0, _SUMMED_AT_ONCE):
        part = result[start : start + _SUMMED_AT_ONCE]
        part[:] = peers.sum(part.tolist())  # each number comes from one process, so the sum is exact
    return result


def _keep(folder: Path, found: list[LogProbs], fingerprint: dict[str, str | None]) -> None:
    with new_folder(folder) as partial:
        files = {}
        for name, log_probs in zip(SPLITS, found, strict=True):
            writer = HashingWriter(partial / f"{name}.f32")
            writer.write(log_probs.astype("<f4").tobytes())
            files[name] = asdict(writer.close())
        write_json(partial / MANIFEST, {"of": fingerprint, "files": files})


def _kept(folder: Path, name: str, fingerprint: dict[str, str | None], *, verify: bool) -> LogProbs:
    way_out = "remove the folder, and it is made anew"
    file = folder / f"{name}.f32"
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["of"] != fingerprint:
            raise CheckpointError(f"{folder}: of another start, other pairs or another precision; {way_out}")
        if verify and asdict(record_of(file)) != manifest["files"][name]:
            raise CheckpointError(f"{file}: its size or SHA-256 is not the manifest's; {way_out}")
        return np.fromfile(file, "<f4").astype(np.float32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: damaged ({error}); {way_out}") from None
