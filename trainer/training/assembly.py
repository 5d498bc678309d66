"""A training run put together from its config: data, order, model, engine, checkpoint, loop. The same for every stage."""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from trainer import __version__
from trainer.checkpoint.format import MODEL_FILE, OPTIMIZER_FILE, CheckpointManifest, StartedFrom, TrainingState
from trainer.checkpoint.reading import Checkpoint, load_tensors, newest_checkpoint, stored_tensors
from trainer.checkpoint.writing import CheckpointWriter
from trainer.config import Config, TrainingStage
from trainer.config_training import TrainingSection
from trainer.config_tuning import LoraSection, TuningSection
from trainer.errors import CheckpointError, ConfigError
from trainer.events import TrainingStarted
from trainer.files import LOCK_WAIT_S
from trainer.model.gpt import GPT
from trainer.model.lora import add_adapters
from trainer.run_folder import RunFolder
from trainer.signals import StopRequest
from trainer.tokens.order import Order, batch_ramp
from trainer.tokens.shards import verify_files
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
from trainer.training.stage import ObjectiveT, Setting, Stage, TrainingData
from trainer.training.starting import base_of, load_weights, origin_of, started_from
from trainer.world import World

LEASE_S = 110.0
"""Below `collective_timeout_s`, in which the other processes wait for the first one."""


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
    stage: Stage[ObjectiveT], config: Config, folder: RunFolder, world: World, tracker: Tracker, stop: StopRequest
) -> tuple[TrainingState, Order]:
    """Collective: train from the newest checkpoint, or from the start, to the last step. Raises TrainerError.

    Returns the state at the end and the order of the whole run.
    """
    config = config if stage.compiles else config.model_copy(update={"compile": False})
    section = config.training(stage.name)
    data = TrainingData.open(config, folder, stage.kind)
    if world.is_first and config.tokens.verify_hashes:
        verify_files(data.folder, data.manifest, hashes=True)
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
        loop = _make_loop(stage, config, folder, data, order, peers, tracker, stop)
        with closing(loop.loader), closing(loop.engine), closing(loop.writer) if loop.writer is not None else nullcontext():
            return loop.run(), order


def _ask_for_determinism(config: Config) -> None:
    """Algorithms with reproducible bits, or an error where there is none, if the config asks for them."""
    if config.deterministic:
        # cuBLAS reads it once, before its first product, and torch refuses products without it (NVIDIA's cuBLAS guide, 2.1.4)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config.compile:
        torch.use_deterministic_algorithms(config.deterministic)
    else:
        # the same without telling torch's compiler, whose import would take longer than all else at a start
        torch.set_deterministic_debug_mode("error" if config.deterministic else "default")


def _make_loop(
    stage: Stage[ObjectiveT],
    config: Config,
    folder: RunFolder,
    data: TrainingData,
    order: Order,
    peers: Peers,
    tracker: Tracker,
    stop: StopRequest,
) -> TrainingLoop:
    """Collective: the loop, at the newest checkpoint if there is one."""
    section, own_folder = config.training(stage.name), folder.of_stage(stage.name)
    adapters = section.lora if isinstance(section, TuningSection) else None
    checkpoint = _newest(config, folder.checkpoints_of(stage.name), data, peers, tracker)
    first = _first_weights(stage.name, config, folder, checkpoint, data, peers, tracker)
    # what a run began with it goes on with, also on a machine that would choose otherwise
    resumed = checkpoint.manifest.precision if checkpoint else None
    numerics = Numerics.of(config, resumed, peers.device) if resumed else Numerics.agreed(config, peers)
    num_positions = data.most_row_tokens + section.written_tokens
    model = make_model(config, peers.device, num_positions, stage.model_class)
    if first is not None and (checkpoint is None or adapters is not None):
        load_weights(model, first.checkpoint())
    if adapters is not None:
        add_adapters(model, adapters, config.seed)
    module = stage.make_module(model, numerics, config)
    start_model = partial(_start_model, config, peers.device, num_positions, first)
    start = first.start if first else None
    feed = stage.feed(Setting(config, section, own_folder, data, order, peers, numerics, start, start_model), module)
    if checkpoint is not None:
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        load_tensors(checkpoint.path / MODEL_FILE, trained)
        for file, kept in module.kept(checkpoint.manifest.state.step).items():
            load_tensors(checkpoint.path / file, kept)
    engine = make_engine(config.engine, section, module, model, peers, numerics.dtype)
    if checkpoint is not None:
        _load_optimizer(checkpoint, engine)
    state = checkpoint.manifest.state if checkpoint else TrainingState(step=0)
    peak_tflops = _peak_tflops(config, peers, numerics)
    _announce(config, stage.name, peers, tracker, order, data, state, numerics, peak_tflops, checkpoint, start)
    attempt = peers.from_first(next_attempt(own_folder)) if section.sample_log else 0
    trace = config.tracking.profile and peers.world.is_first
    writer = CheckpointWriter(folder.checkpoints_of(stage.name), config.checkpoint.keep) if peers.world.is_first else None
    return TrainingLoop(
        stage=stage.name,
        module=module,
        config=section,
        checkpointing=config.checkpoint,
        seed=config.seed,
        order=order,
        loader=Loader(data.train, order, peers.world, peers.device, in_lockstep=engine.in_lockstep, read=feed.read),
        engine=engine,
        measures=feed.measures,
        validate_every=config.validation.every_steps,
        state=state,
        manifest=partial(_manifest, config, stage.name, data, numerics.precision, start, adapters),
        writer=writer,
        tracker=tracker,
        meter=Meter(
            order,
            config.tracking.log_every_steps,
            config.model.flops_per_token(data.manifest.row_tokens),
            peak_tflops,
        ),
        stop=stop,
        peers=peers,
        sample_log=SampleLog(own_folder, attempt, peers.world.rank) if section.sample_log else None,
        compiled=config.compile,
        reads_late=peers.device.type == "cuda",
        profiler=partial(traced, own_folder / "trace.json") if trace else no_profiler,
    )


@dataclass(frozen=True)
class _FirstWeights:
    """The checkpoint that a stage started from, opened when it is needed: a resumed stage mostly does without it."""

    start: StartedFrom
    checkpoint: Callable[[], Checkpoint]


def _first_weights(
    stage: TrainingStage,
    config: Config,
    folder: RunFolder,
    checkpoint: Checkpoint | None,
    data: TrainingData,
    peers: Peers,
    tracker: Tracker,
) -> _FirstWeights | None:
    """Collective: what the stage started from, as its checkpoint says, or what it starts from now. None: drawn weights."""
    if checkpoint is not None:
        start = checkpoint.manifest.start
        return _FirstWeights(start, partial(base_of, checkpoint)) if start is not None else None
    origin = origin_of(config, folder, stage)
    if origin is None:
        return None
    opened = origin.open(tracker.emit) if peers.world.is_first else None
    step = peers.from_first(opened.manifest.state.step if opened else 0)
    found = opened or Checkpoint.trusted(origin.folder, step)
    if found.manifest.tokenizer_sha256 != data.manifest.tokenizer_sha256:
        raise CheckpointError(
            f"{found.path}: was made with another tokenizer ({found.manifest.tokenizer_sha256[:12]}, here "
            f"{data.manifest.tokenizer_sha256[:12]}); give this run the same data_dir"
        )
    return _FirstWeights(started_from(found, folder.checkpoints_of(stage)), lambda: found)


def _start_model(config: Config, device: torch.device, num_positions: int, first: _FirstWeights | None) -> GPT:
    model = make_model(config, device, num_positions)
    if first is not None:
        load_weights(model, first.checkpoint())
    return model


def make_model(config: Config, device: torch.device, num_positions: int | None = None, model_class: type[GPT] = GPT) -> GPT:
    """The model with its first weights, computing as the config says, for rows of the text's length unless told otherwise."""
    model = model_class(config.model, num_positions or config.tokens.row_tokens)
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


def _newest(config: Config, checkpoints: Path, data: TrainingData, peers: Peers, tracker: Tracker) -> Checkpoint | None:
    """Collective: the newest whole checkpoint. Rank 0 verifies and chooses, all take the same one."""
    checkpoint = newest_checkpoint(checkpoints, tracker.emit) if peers.world.is_first else None
    step = peers.from_first(checkpoint.manifest.state.step if checkpoint else -1)
    if step < 0:
        return None
    if checkpoint is None:
        checkpoint = Checkpoint.trusted(checkpoints, step)
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
    start: StartedFrom | None,
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
            row_tokens=data.manifest.row_tokens,
            utilisation=data.train.info.utilisation,
            peak_tflops=peak_tflops,
            torch_version=torch.__version__,
            resumed_from=str(checkpoint.path) if checkpoint else None,
            started_from=start.path if start else None,
        )
    )


def _engine_name(config: Config) -> str:
    kind = config.engine.kind
    return f"{kind} ZeRO-{config.engine.deepspeed.zero_stage}" if kind == "deepspeed" else kind


def _manifest(
    config: Config,
    stage: str,
    data: TrainingData,
    precision: str,
    start: StartedFrom | None,
    adapters: LoraSection | None,
    state: TrainingState,
) -> CheckpointManifest:
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
        start=start,
        adapters=adapters,
    )
