"""A training run put together from its config: data, order, model, engine, checkpoint, loop. The same for every stage."""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from trainer import __version__
from trainer.checkpoint.format import MODEL_FILE, OPTIMIZER_FILE, CheckpointManifest, TrainingState
from trainer.checkpoint.reading import Checkpoint, load_tensors, newest_checkpoint
from trainer.checkpoint.writing import CheckpointWriter
from trainer.config import Config, TrainingSection
from trainer.errors import CheckpointError, ConfigError
from trainer.events import TrainingStarted
from trainer.files import record_of
from trainer.model.gpt import GPT
from trainer.run_folder import RunFolder
from trainer.signals import StopRequest
from trainer.tokens.encoding import check_tokens
from trainer.tokens.order import Order
from trainer.tokens.shards import MANIFEST as TOKENS_MANIFEST
from trainer.tokens.shards import TokenRows, TokensManifest, read_manifest, verify_files
from trainer.tokens.tokenizer import TOKENIZER_FILE, TextEncoder, check_vocabulary
from trainer.tracking.hub import Tracker
from trainer.training.engines.ddp import DataParallel
from trainer.training.loop import Stage, TrainingLoop
from trainer.training.meter import Meter
from trainer.training.peers import Peers, choose_device, joined
from trainer.training.precision import bf16_pays, matmul_tflops
from trainer.training.sample_log import SampleLog, next_attempt
from trainer.training.validation import Validator
from trainer.world import World


@dataclass(frozen=True)
class TrainingData:
    """Rows and what names them."""

    manifest: TokensManifest
    sha256: str
    train: TokenRows
    held_out: TokenRows
    bytes_per_id: np.ndarray

    @staticmethod
    def open(config: Config, folder: RunFolder) -> "TrainingData":
        """Open the token shards. Raises ShardError or TokenizerError if they are missing, altered or another model's."""
        encoder = TextEncoder(folder.tokenizer / TOKENIZER_FILE)
        check_vocabulary(encoder, config.model.vocab_size)
        manifest = read_manifest(folder.tokens)
        check_tokens(manifest, encoder, config.tokens, folder.tokens)
        return TrainingData(
            manifest,
            record_of(folder.tokens / TOKENS_MANIFEST).sha256,
            TokenRows(folder.tokens, manifest, "train"),
            TokenRows(folder.tokens, manifest, "held_out"),
            np.array(encoder.bytes_per_id()),
        )


def order_of(config: TrainingSection, seed: int, num_rows: int) -> Order:
    """The order of a training section over so many rows. Raises ConfigError if the warm-up fills the run."""
    if config.steps is not None:
        order = Order.of_steps(seed, num_rows, config.global_batch, config.micro_batch, config.steps)
    else:
        order = Order.of_epochs(seed, num_rows, config.global_batch, config.micro_batch, config.epochs or 1)
    if config.schedule.warmup_steps >= order.num_steps > 1:
        raise ConfigError(
            f"schedule.warmup_steps {config.schedule.warmup_steps} is not below the {order.num_steps} steps that "
            f"{num_rows} rows in batches of {config.global_batch} make; lower it, or give more epochs or steps"
        )
    return order


def agreed_precision(config: Config, peers: Peers) -> str:
    """Collective: fp32 or bf16; with `auto`, bf16 only where it is faster on every process."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if peers.all(bf16_pays(peers.device)) else "fp32"


def autocast_dtype(precision: str) -> torch.dtype:
    """The type of matrix products."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def autocast_of(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """A context in which matrix products have this precision."""
    if precision == "fp32":
        return nullcontext
    return partial(torch.autocast, device.type, dtype=torch.bfloat16)


def train(
    config: Config,
    section: TrainingSection,
    make_stage: Callable[[GPT, str], Stage],
    folder: RunFolder,
    world: World,
    tracker: Tracker,
    stop: StopRequest,
) -> tuple[TrainingState, Order]:
    """Collective: train from the newest checkpoint, or from the start, to the last step. Raises TrainerError.

    `make_stage` is given the model and the resolved precision. Returns the state at the end and the order of the whole run.
    """
    data = TrainingData.open(config, folder)
    if world.is_first and config.tokens.verify_hashes:
        verify_files(folder.tokens, data.manifest, hashes=True)
    order = order_of(section, config.seed, len(data.train))
    if world.size > order.num_micro_batches:
        raise ConfigError(
            f"{world.size} processes share {order.num_micro_batches} micro-batches of a step; start fewer, or lower "
            f"micro_batch {section.micro_batch}"
        )
    device = choose_device(config.device, world.local_rank)
    torch.use_deterministic_algorithms(config.deterministic)
    with joined(world, device, config.collective_timeout_s) as peers, stop.deferred(), _lock_of_first(folder, world):
        loop = _make_loop(config, section, make_stage, folder, data, order, peers, tracker, stop)
        return loop.run(), order


def _make_loop(
    config: Config,
    section: TrainingSection,
    make_stage: Callable[[GPT, str], Stage],
    folder: RunFolder,
    data: TrainingData,
    order: Order,
    peers: Peers,
    tracker: Tracker,
    stop: StopRequest,
) -> TrainingLoop:
    """Collective: the loop, at the newest checkpoint if there is one."""
    model = GPT(config.model, config.tokens.row_tokens)
    model.init_weights(config.seed)
    model.to(peers.device)
    engine = DataParallel(model, section.optimizer, peers.world, peers.device)
    checkpoint = _resume(config, folder, data, peers, engine, tracker)
    state = checkpoint.manifest.state if checkpoint else TrainingState(step=0)
    # what a run began with it goes on with, also on a machine that would choose otherwise
    precision = checkpoint.manifest.precision if checkpoint else agreed_precision(config, peers)
    peak_tflops = _peak_tflops(config, peers, precision)
    stage = make_stage(model, precision)
    _announce(config, stage.name, peers, tracker, order, data, state, precision, peak_tflops, checkpoint)
    attempt = peers.from_first(next_attempt(folder.path)) if section.sample_log else 0
    return TrainingLoop(
        stage=stage,
        config=section,
        checkpointing=config.checkpoint,
        seed=config.seed,
        order=order,
        rows=data.train,
        engine=engine,
        validator=Validator(
            data.held_out,
            data.bytes_per_id,
            section.micro_batch,
            config.validation.max_rows_per_source,
            peers,
        ),
        validate_every=config.validation.every_steps,
        state=state,
        manifest=partial(_manifest, config, stage.name, data, precision),
        writer=CheckpointWriter(folder.checkpoints, config.checkpoint.keep) if peers.world.is_first else None,
        tracker=tracker,
        meter=Meter(
            order,
            config.tracking.log_every_steps,
            config.model.flops_per_token(config.tokens.row_tokens),
            peak_tflops,
        ),
        stop=stop,
        peers=peers,
        autocast=autocast_of(precision, peers.device),
        sample_log=SampleLog(folder.path, attempt, peers.world.rank) if section.sample_log else None,
    )


@contextmanager
def _lock_of_first(folder: RunFolder, world: World) -> Iterator[None]:
    """Rank 0 holds the run folder's lock for all."""
    with folder.working(f"a training process of {platform.node()}") if world.is_first else nullcontext():
        yield


def _resume(
    config: Config,
    folder: RunFolder,
    data: TrainingData,
    peers: Peers,
    engine: DataParallel,
    tracker: Tracker,
) -> Checkpoint | None:
    """Collective: load the newest whole checkpoint into the engine. Rank 0 verifies and chooses, all load the same one."""
    checkpoint = newest_checkpoint(folder.checkpoints, tracker.emit) if peers.world.is_first else None
    step = peers.from_first(checkpoint.manifest.state.step if checkpoint else -1)
    if step < 0:
        return None
    if checkpoint is None:
        checkpoint = Checkpoint.trusted(folder.checkpoints, step)
    _check_fits(checkpoint, config, data)
    tensors = engine.tensors()
    for name in (MODEL_FILE, OPTIMIZER_FILE):
        load_tensors(checkpoint.path / name, tensors[name])
    engine.set_applied_steps(checkpoint.manifest.state.applied_steps)
    return checkpoint


def _check_fits(checkpoint: Checkpoint, config: Config, data: TrainingData) -> None:
    manifest = checkpoint.manifest
    for what, theirs, ours in (
        ("config", manifest.run, config.hash()),
        ("tokenizer", manifest.tokenizer_sha256, data.manifest.tokenizer_sha256),
        ("token shards", manifest.data_sha256, data.sha256),
    ):
        if theirs != ours:
            raise CheckpointError(
                f"{checkpoint.path}: was made with another {what} ({theirs[:12]}, here {ours[:12]}); choose another run_dir"
            )


def _peak_tflops(config: Config, peers: Peers, precision: str) -> float | None:
    """Collective: what all processes together reach in matrix products, measured at the same time."""
    if not config.tracking.measure_peak:
        return None
    return peers.sum([matmul_tflops(peers.device, autocast_dtype(precision))])[0]


def _announce(
    config: Config,
    stage: str,
    peers: Peers,
    tracker: Tracker,
    order: Order,
    data: TrainingData,
    state: TrainingState,
    precision: str,
    peak_tflops: float | None,
    checkpoint: Checkpoint | None,
) -> None:
    """Collective: tell that training starts."""
    pids = peers.gather(os.getpid())
    tracker.emit(
        TrainingStarted(
            step=state.step,
            stage=stage,
            num_steps=order.num_steps,
            world_size=peers.world.size,
            restart=peers.world.restart,
            pids=pids,
            device=peers.device.type,
            precision=precision,
            threads=torch.get_num_threads(),
            num_parameters=config.model.num_parameters,
            rows=len(data.train),
            row_tokens=config.tokens.row_tokens,
            utilisation=data.train.info.utilisation,
            peak_tflops=peak_tflops,
            torch_version=torch.__version__,
            resumed_from=str(checkpoint.path) if checkpoint else None,
        )
    )


def _manifest(config: Config, stage: str, data: TrainingData, precision: str, state: TrainingState) -> CheckpointManifest:
    return CheckpointManifest(
        stage=stage,
        state=state,
        run=config.hash(),
        data_sha256=data.sha256,
        tokenizer_sha256=data.manifest.tokenizer_sha256,
        precision=precision,
        versions={"trainer": __version__, "torch": torch.__version__, "python": platform.python_version()},
        config=config.model_dump(mode="json"),
        files={},
    )
