"""A training run put together from its config: data, order, model, engine, checkpoint, loop. The same for every stage."""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from trainer import __version__
from trainer.checkpoint.format import MODEL_FILE, OPTIMIZER_FILE, CheckpointManifest, TrainingState
from trainer.checkpoint.reading import Checkpoint, load_tensors, newest_checkpoint, stored_tensors
from trainer.checkpoint.writing import CheckpointWriter
from trainer.config import Config
from trainer.config_training import TrainingSection
from trainer.errors import CheckpointError, ConfigError
from trainer.events import TrainingStarted
from trainer.files import LOCK_WAIT_S, record_of
from trainer.model.gpt import GPT
from trainer.run_folder import RunFolder
from trainer.signals import StopRequest
from trainer.tokens.encoding import check_tokens
from trainer.tokens.order import Order, batch_ramp
from trainer.tokens.shards import MANIFEST as TOKENS_MANIFEST
from trainer.tokens.shards import TokenRows, TokensManifest, read_manifest, verify_files
from trainer.tokens.tokenizer import TOKENIZER_FILE, TextEncoder, check_vocabulary
from trainer.tracking.hub import Tracker
from trainer.training.batches import Loader
from trainer.training.engines.making import group_of_engines, make_engine
from trainer.training.engines.protocol import Engine
from trainer.training.loop import TrainingLoop
from trainer.training.meter import Meter
from trainer.training.peers import Peers, choose_device, joined
from trainer.training.precision import Numerics, matmul_tflops
from trainer.training.profiling import no_profiler, traced
from trainer.training.sample_log import SampleLog, next_attempt
from trainer.training.validation import Validator
from trainer.world import World

LEASE_S = 110.0
"""Below `collective_timeout_s`, in which the other processes wait for the first one."""


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
    first = config.batch_warmup_start or config.micro_batch
    ramp = batch_ramp(config.micro_batch, first, config.global_batch, config.batch_warmup_steps)
    if config.steps is not None:
        order = Order.of_steps(seed, num_rows, config.global_batch, config.micro_batch, config.steps, ramp)
    else:
        order = Order.of_epochs(seed, num_rows, config.global_batch, config.micro_batch, config.epochs or 1, ramp)
    if config.schedule.warmup_steps >= order.num_steps > 1:
        raise ConfigError(
            f"schedule.warmup_steps {config.schedule.warmup_steps} is not below the {order.num_steps} steps that "
            f"{num_rows} rows in batches of {config.global_batch} make; lower it, or give more epochs or steps"
        )
    return order


def train(
    config: Config,
    stage: str,
    section: TrainingSection,
    make_module: Callable[[GPT, Numerics], nn.Module],
    folder: RunFolder,
    world: World,
    tracker: Tracker,
    stop: StopRequest,
) -> tuple[TrainingState, Order]:
    """Collective: train from the newest checkpoint, or from the start, to the last step. Raises TrainerError.

    `make_module` makes of the model what computes the sum of nats of a `Batch`. Returns the state at the end and the order of
    the whole run.
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
    _ask_for_determinism(config)
    group_of_one = config.engine.kind != "ddp"
    timeout_s = config.collective_timeout_s
    with (
        joined(world, device, timeout_s, group_of_one=group_of_one) as peers,
        group_of_engines(),
        stop.deferred(),
        _lock_of_first(folder, world),
    ):
        loop = _make_loop(config, stage, section, make_module, folder, data, order, peers, tracker, stop)
        with closing(loop.loader), closing(loop.engine):
            return loop.run(), order


def _ask_for_determinism(config: Config) -> None:
    """Algorithms with reproducible bits, or an error where there is none, if the config asks for them."""
    if config.compile:
        torch.use_deterministic_algorithms(config.deterministic)
    else:
        # the same without telling torch's compiler, whose import would take longer than all else at a start
        torch.set_deterministic_debug_mode("error" if config.deterministic else "default")


def _make_loop(
    config: Config,
    stage: str,
    section: TrainingSection,
    make_module: Callable[[GPT, Numerics], nn.Module],
    folder: RunFolder,
    data: TrainingData,
    order: Order,
    peers: Peers,
    tracker: Tracker,
    stop: StopRequest,
) -> TrainingLoop:
    """Collective: the loop, at the newest checkpoint if there is one."""
    checkpoint = _newest(config, folder, data, peers, tracker)
    # what a run began with it goes on with, also on a machine that would choose otherwise
    resumed = checkpoint.manifest.precision if checkpoint else None
    numerics = Numerics.of(config, resumed, peers.device) if resumed else Numerics.agreed(config, peers)
    model = make_model(config, peers.device)
    if checkpoint is not None:
        load_tensors(checkpoint.path / MODEL_FILE, dict(model.named_parameters()))
    module = make_module(model, numerics)
    engine = make_engine(config.engine, section, module, model, peers, numerics.dtype)
    if checkpoint is not None:
        _load_optimizer(checkpoint, engine)
    state = checkpoint.manifest.state if checkpoint else TrainingState(step=0)
    peak_tflops = _peak_tflops(config, peers, numerics)
    _announce(config, stage, peers, tracker, order, data, state, numerics, peak_tflops, checkpoint)
    attempt = peers.from_first(next_attempt(folder.path)) if section.sample_log else 0
    trace = config.tracking.profile and peers.world.is_first
    return TrainingLoop(
        stage=stage,
        module=module,
        config=section,
        checkpointing=config.checkpoint,
        seed=config.seed,
        order=order,
        loader=Loader(data.train, order, peers.world, peers.device, in_lockstep=engine.in_lockstep),
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
        manifest=partial(_manifest, config, stage, data, numerics.precision),
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
        sample_log=SampleLog(folder.path, attempt, peers.world.rank) if section.sample_log else None,
        compiled=config.compile,
        reads_late=peers.device.type == "cuda",
        profiler=partial(traced, folder.path / "trace.json") if trace else no_profiler,
    )


def make_model(config: Config, device: torch.device) -> GPT:
    """The model with its first weights, computing as the config says."""
    model = GPT(config.model, config.tokens.row_tokens)
    model.init_weights(config.seed)
    model.to(device)
    if config.activation_checkpointing:
        model.recompute_blocks()
    if config.compile:
        model.compile_blocks()
    return model


@contextmanager
def _lock_of_first(folder: RunFolder, world: World) -> Iterator[None]:
    """Rank 0 holds the run folder's lock for all."""
    # a lost node's lock stays on a file server until its lease ends, 90 s for NFS 4: where others can replace it, wait for that
    wait_s = LEASE_S if world.may_restart else LOCK_WAIT_S
    with folder.working(f"a training process of {platform.node()}", wait_s) if world.is_first else nullcontext():
        yield


def _newest(config: Config, folder: RunFolder, data: TrainingData, peers: Peers, tracker: Tracker) -> Checkpoint | None:
    """Collective: the newest whole checkpoint. Rank 0 verifies and chooses, all take the same one."""
    checkpoint = newest_checkpoint(folder.checkpoints, tracker.emit) if peers.world.is_first else None
    step = peers.from_first(checkpoint.manifest.state.step if checkpoint else -1)
    if step < 0:
        return None
    if checkpoint is None:
        checkpoint = Checkpoint.trusted(folder.checkpoints, step)
    _check_fits(checkpoint, config, data)
    return checkpoint


def _load_optimizer(checkpoint: Checkpoint, engine: Engine) -> None:
    """Collective: put a checkpoint's optimizer state into the engine, which was made of its weights."""
    for name, tensor in stored_tensors(checkpoint.path / OPTIMIZER_FILE, engine.shapes()[OPTIMIZER_FILE]):
        engine.load(name, tensor)
    engine.set_applied_steps(checkpoint.manifest.state.applied_steps)


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


def _peak_tflops(config: Config, peers: Peers, numerics: Numerics) -> float | None:
    """Collective: what all processes together reach in matrix products, measured at the same time."""
    if not config.tracking.measure_peak:
        return None
    return peers.sum([matmul_tflops(peers.device, numerics.dtype)])[0]


def _announce(
    config: Config,
    stage: str,
    peers: Peers,
    tracker: Tracker,
    order: Order,
    data: TrainingData,
    state: TrainingState,
    numerics: Numerics,
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
            precision=numerics.precision,
            engine=_engine_name(config),
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


def _engine_name(config: Config) -> str:
    kind = config.engine.kind
    return f"{kind} ZeRO-{config.engine.deepspeed.zero_stage}" if kind == "deepspeed" else kind


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
