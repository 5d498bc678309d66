"""Measurements of one preset: loops in alternating turns, checkpoint stalls, encoding. Collective over the bench's processes.

Entries of one process run on the first process, with all of the machine's threads, while the others wait; entries of several
share the threads out.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from trainer.bench.contestants import Contestant, OurLoop, PlainLoop, Turn
from trainer.bench.entries import PLAIN, Entry, entries_for
from trainer.checkpoint.format import CheckpointManifest, TrainingState
from trainer.checkpoint.writing import CheckpointWriter
from trainer.config import Config
from trainer.config_loading import load_config
from trainer.cores import cores
from trainer.corpus.preparing import prepare
from trainer.corpus.store import read_documents
from trainer.events import CheckpointSaved
from trainer.run_folder import RunFolder
from trainer.tokens.encoding import encode_corpus, make_tokenizer
from trainer.tokens.tokenizer import TOKENIZER_FILE, TextEncoder
from trainer.training.peers import Peers
from trainer.training.precision import Numerics, matmul_tflops
from trainer.training.profiling import traced
from trainer.training.stage import TrainingData
from trainer.world import World

ROWS_PER_TURN = {"cpu": {"tiny": 16}, "cuda": {}}
DEFAULT_ROWS_PER_TURN = {"cpu": 8, "mps": 8, "cuda": 256}
"""Rows in a step of the benchmark: few enough for several turns a minute on a CPU, a usual step's on a GPU."""
MICRO_BATCHES = {"cpu": 2, "mps": 2, "cuda": 2}
NUM_SAVES = 20
ENCODE_BYTES = 3_000_000

_SOURCES = "[{name: python, path: 'box:python-docs.jsonl.zst'}, {name: wordnet, path: 'box:wordnet-glosses.jsonl.zst'}, " + (
    "{name: poetry, path: 'box:chinese-poetry.jsonl.zst'}]"
)


@dataclass(frozen=True)
class LoopFigures:
    """A loop's medians over its turns."""

    name: str
    processes: int
    useful_tokens_per_s: float
    positions_per_s: float
    useful_ratio: float
    """Useful tokens per second over the plain loop's, of all turns together."""
    positions_ratio: float
    """Computed positions per second over the plain loop's, median of the pairs: the speed with packing's gain taken out."""
    mfu: float
    data_wait_share: float
    memory_mb: float
    """What making the loop and its first turn added to the first process's memory at most: of the GPU, else resident."""
    first_turn_s: float
    turns: int


@dataclass(frozen=True)
class SaveFigures:
    """Checkpoints of one process, the first one left out: it makes the staging memory."""

    size_mb: float
    stall_ms_p50: float
    stall_ms_max: float
    write_s_p50: float


@dataclass(frozen=True)
class PresetFigures:
    """All figures of a preset."""

    preset: str
    num_parameters: int
    row_tokens: int
    rows_per_turn: int
    peak_tflops: float
    loops: list[LoopFigures]
    saves: SaveFigures
    encode_mb_per_s: float
    encode_mb_per_s_tokenizers: float


def measure_preset(preset: str, seconds: float, peers: Peers, *, compiled: bool, trace: Path | None) -> PresetFigures | None:
    """Collective: measure a preset on the corpus in the box, in a folder of its own that is removed.

    Returns:
        The figures; on all but the first process, None.
    """
    first = peers.world.is_first
    # the name comes from the first process; the folder must be there before the others look into it
    name = Path(tempfile.gettempdir()) / f"trainer-bench-{peers.from_first(os.getpid())}"
    try:
        config = _config(preset, name, peers)
        folder = RunFolder.of(config)
        encoder = _prepare(config, folder) if first else None
        peers.any(False)
        data = TrainingData.open(config, folder)
        numerics = Numerics.agreed(config, peers)
        peak_tflops = _peak_tflops(peers, numerics)
        with closing(_Race(config, folder, data, numerics, peers)) as race:
            loops = race.run(entries_for(peers, numerics.precision, compiled=compiled), seconds, peak_tflops)
            if trace is not None:
                race.trace(trace)
            saves = _time_saves(race.ours(), folder.path / "saves") if first else None
            speeds = _time_encoding(encoder, folder) if encoder is not None else None
            peers.any(False)  # nobody ends its loops while another one measures
    finally:
        if first:
            shutil.rmtree(name, ignore_errors=True)
    if saves is None or speeds is None:
        return None
    return PresetFigures(
        preset=preset,
        num_parameters=config.model.num_parameters,
        row_tokens=config.tokens.row_tokens,
        rows_per_turn=config.pretrain.global_batch,
        peak_tflops=peak_tflops,
        loops=loops,
        saves=saves,
        encode_mb_per_s=speeds[0],
        encode_mb_per_s_tokenizers=speeds[1],
    )


def _config(preset: str, path: Path, peers: Peers) -> Config:
    device = peers.device.type
    rows = ROWS_PER_TURN.get(device, {}).get(preset, DEFAULT_ROWS_PER_TURN[device])
    micro_batch = rows // max(MICRO_BATCHES[device], peers.world.size)
    batches = [f"pretrain.global_batch={rows}", f"pretrain.micro_batch={micro_batch}", "pretrain.batch_warmup_steps=0"]
    batches += ["pretrain.schedule.warmup_steps=0"]  # the box makes few steps of a GPU's batch
    return load_config(None, [f"corpus.sources={_SOURCES}", f"run_dir={path}", *batches], preset)


def _prepare(config: Config, folder: RunFolder) -> TextEncoder:
    prepare(config.corpus, folder.corpus)
    encoder, _ = make_tokenizer(config.tokenizer, config.model.vocab_size, folder.corpus, folder.tokenizer)
    encode_corpus(config.tokens, config.model.vocab_size, folder.corpus, folder.tokenizer, folder.tokens, lambda *_: None)
    return encoder


def _peak_tflops(peers: Peers, numerics: Numerics) -> float:
    """Collective: what the machine reaches in matrix products: all threads of the first process, or all GPUs."""
    if peers.device.type == "cuda":
        return peers.sum([max(matmul_tflops(peers.device, numerics.dtype) for _ in range(5))])[0]
    peak = 0.0
    if peers.world.is_first:
        torch.set_num_threads(cores())
        peak = max(matmul_tflops(peers.device, numerics.dtype) for _ in range(5))
    return peers.sum([peak])[0]


class _Race:
    """Loops taking turns. Every process holds its part of the shared loops; the first one also the loops of one process."""

    def __init__(self, config: Config, folder: RunFolder, data: TrainingData, numerics: Numerics, peers: Peers) -> None:
        self._config, self._folder, self._data, self._numerics, self._peers = config, folder, data, numerics, peers
        self._loops: dict[str, Contestant] = {}

    def run(self, entries: Sequence[Entry], seconds: float, peak_tflops: float) -> list[LoopFigures]:
        """Collective: turns in alternation until the time is up, at least three each; the first turn of each warms it up.

        Returns:
            Figures in the order of the entries; on all but the first process, nothing.
        """
        first_s, memory_mb = {}, {}
        for entry in entries:
            before_mb = _reset_peak_memory(self._peers.device)
            started = time.perf_counter()
            self._make(entry)
            self._timed(entry)
            first_s[entry.name] = time.perf_counter() - started
            memory_mb[entry.name] = _peak_memory_mb(self._peers.device) - before_mb
        turns: dict[str, list[tuple[Turn, float]]] = {entry.name: [] for entry in entries}
        deadline = time.monotonic() + seconds
        while self._peers.any(time.monotonic() < deadline) or len(turns[PLAIN]) < 3:
            for entry in entries:
                turns[entry.name].append(self._timed(entry))
        if not self._peers.world.is_first:
            return []  # the others took no part in the loops of one process
        useful = {name: [turn.useful_tokens / s for turn, s in each] for name, each in turns.items()}
        positions = {name: [turn.positions / s for turn, s in each] for name, each in turns.items()}
        flops = self._config.model.flops_per_token(self._config.tokens.row_tokens)
        # of a machine's CPU each entry uses the whole; of its GPUs only as many as it has processes
        share = {e.name: e.processes / self._peers.world.size if self._on_gpus else 1.0 for e in entries}
        return [
            LoopFigures(
                name=entry.name,
                processes=entry.processes,
                useful_tokens_per_s=statistics.median(useful[entry.name]),
                positions_per_s=statistics.median(positions[entry.name]),
                useful_ratio=sum(useful[entry.name]) / sum(useful[PLAIN]),
                positions_ratio=_median_ratio(positions[entry.name], positions[PLAIN]),
                mfu=statistics.median(useful[entry.name]) * flops / 1e12 / (peak_tflops * share[entry.name]),
                data_wait_share=sum(turn.data_s for turn, _ in turns[entry.name]) / sum(s for _, s in turns[entry.name]),
                memory_mb=memory_mb[entry.name],
                first_turn_s=first_s[entry.name],
                turns=len(turns[entry.name]),
            )
            for entry in entries
        ]

    def ours(self) -> OurLoop:
        """The trainer's own loop in one process."""
        return next(loop for loop in self._loops.values() if isinstance(loop, OurLoop))

    def trace(self, path: Path) -> None:
        """On the first process: a trace of the trainer's own loop."""
        if self._peers.world.is_first:
            loop = self.ours()
            with traced(path) as step_is_done:
                for _ in range(9):
                    loop.turn()
                    step_is_done()

    def close(self) -> None:
        """Collective: end all loops."""
        for loop in self._loops.values():
            loop.close()

    @property
    def _on_gpus(self) -> bool:
        return self._peers.device.type == "cuda"

    def _make(self, entry: Entry) -> None:
        alone = entry.processes == 1
        if alone and not self._peers.world.is_first:
            return
        torch.set_num_threads(max(1, cores() // entry.processes))
        config = load_overrides(self._config, entry.settings)
        if entry.name == PLAIN:
            self._loops[entry.name] = PlainLoop(config, self._folder, self._data, self._peers.device)
            return
        peers = Peers(World(), self._peers.device) if alone else self._peers
        numerics = Numerics.of(config, entry.precision, self._peers.device)
        self._loops[entry.name] = OurLoop(config, self._data, peers, numerics)

    def _timed(self, entry: Entry) -> tuple[Turn, float]:
        """Collective: a turn, from when all are ready until all are done."""
        self._peers.any(False)
        started = time.perf_counter()
        turn = Turn(0, 0, 0.0)
        if entry.name in self._loops:
            torch.set_num_threads(max(1, cores() // entry.processes))
            turn = self._loops[entry.name].turn()
        self._peers.any(False)
        return turn, time.perf_counter() - started


def load_overrides(config: Config, settings: dict[str, object]) -> Config:
    """The config with other values at dotted keys."""
    values = config.model_dump()
    for key, value in settings.items():
        *sections, name = key.split(".")
        target = values
        for section in sections:
            target = target[section]
        target[name] = value
    return Config.model_validate(values)


def _median_ratio(these: Sequence[float], those: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


def _time_saves(ours: OurLoop, folder: Path) -> SaveFigures:
    """How long the loop waits for a save, and how long a save takes beside it."""
    writer = CheckpointWriter(folder, keep=2)
    saved: list[CheckpointSaved] = []
    for step in range(1, NUM_SAVES + 2):
        manifest = CheckpointManifest(
            stage="bench",
            state=TrainingState(step=step),
            run="",
            data_sha256="",
            tokenizer_sha256="",
            precision="",
            versions={},
            config={},
            files={},
        )
        writer.save(ours.engine.shapes(), ours.engine.tensors(), lambda manifest=manifest: manifest)  # type: ignore[misc]
        writer.finish()
        saved += [outcome for outcome in writer.outcomes() if isinstance(outcome, CheckpointSaved)]
    after_first = saved[1:]
    stalls_ms = [1000 * each.stall_s for each in after_first]
    return SaveFigures(
        size_mb=saved[0].size_bytes / 1e6,
        stall_ms_p50=statistics.median(stalls_ms),
        stall_ms_max=max(stalls_ms),
        write_s_p50=statistics.median(each.write_s for each in after_first),
    )


def _time_encoding(encoder: TextEncoder, folder: RunFolder) -> tuple[float, float]:
    """MB of text per second on one thread: by the trainer, and by `tokenizers`."""
    texts, size_bytes = [], 0
    for document in read_documents(folder.corpus, "train"):
        texts.append(document.text)
        size_bytes += len(document.text.encode())
        if size_bytes > ENCODE_BYTES:
            break
    slow = Tokenizer.from_file(str(folder.tokenizer / TOKENIZER_FILE))
    encoder.encode(texts[0])
    speeds = []
    for encode in (encoder.encode, lambda text: slow.encode(text, add_special_tokens=False)):
        started = time.process_time()
        for text in texts:
            encode(text)
        speeds.append(size_bytes / 1e6 / (time.process_time() - started))
    return speeds[0], speeds[1]


def _reset_peak_memory(device: torch.device) -> float:
    """Start a new peak; returns the memory in use now, in MB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e6
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")
    return _resident_mb("VmRSS:")


def _peak_memory_mb(device: torch.device) -> float:
    """Peak since the reset: of the GPU, or resident memory of this process."""
    return torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else _resident_mb("VmHWM:")


def _resident_mb(field: str) -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    return int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith(field))) * 1024 / 1e6
