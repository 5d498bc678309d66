"""Measurements of one preset: loops in alternating turns, checkpoint stalls, encoding."""

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from trainer.bench.contestants import Contestant, OurLoop, PlainLoop, Turn
from trainer.checkpoint.format import CheckpointManifest, TrainingState
from trainer.checkpoint.writing import CheckpointWriter
from trainer.config import Config
from trainer.config_loading import load_config
from trainer.corpus.preparing import prepare
from trainer.corpus.store import read_documents
from trainer.events import CheckpointSaved
from trainer.run_folder import RunFolder
from trainer.tokens.encoding import encode_corpus, make_tokenizer
from trainer.tokens.tokenizer import TOKENIZER_FILE, TextEncoder
from trainer.training.peers import choose_device
from trainer.training.precision import bf16_pays, matmul_tflops

ROWS_PER_TURN = {"tiny": 16}
DEFAULT_ROWS_PER_TURN = 8
"""Rows in a step of the benchmark: few enough for several turns a minute on a CPU."""
NUM_SAVES = 20
ENCODE_BYTES = 3_000_000

_SOURCES = "[{name: python, path: 'box:python-docs.jsonl.zst'}, {name: wordnet, path: 'box:wordnet-glosses.jsonl.zst'}, " + (
    "{name: poetry, path: 'box:chinese-poetry.jsonl.zst'}]"
)


@dataclass(frozen=True)
class LoopFigures:
    """A loop's medians over its turns."""

    name: str
    useful_tokens_per_s: float
    positions_per_s: float
    useful_ratio: float
    """Useful tokens per second over the plain loop's, median of the pairs."""
    positions_ratio: float
    """Computed positions per second over the plain loop's, median of the pairs: the speed with packing's gain taken out."""
    mfu: float
    data_wait_share: float
    peak_memory_mb: float
    first_turn_s: float
    turns: int


@dataclass(frozen=True)
class PresetFigures:
    """All figures of a preset."""

    preset: str
    num_parameters: int
    row_tokens: int
    peak_tflops: float
    loops: list[LoopFigures]
    save_mb: float
    save_stall_ms_p50: float
    save_stall_ms_p99: float
    save_write_s_p50: float
    encode_mb_per_s: float
    encode_mb_per_s_tokenizers: float


def measure_preset(preset: str, seconds: float, *, compiled: bool) -> PresetFigures:
    """Measure a preset on the corpus in the box, in a folder of its own that is removed."""
    with tempfile.TemporaryDirectory(prefix="trainer-bench-") as name:
        rows = ROWS_PER_TURN.get(preset, DEFAULT_ROWS_PER_TURN)
        batches = [f"pretrain.global_batch={rows}", f"pretrain.micro_batch={rows}"]
        config = load_config(None, [f"corpus.sources={_SOURCES}", f"run_dir={name}", *batches], preset)
        folder = RunFolder.of(config)
        prepare(config.corpus, folder.corpus)
        encoder, _ = make_tokenizer(config.tokenizer, config.model.vocab_size, folder.corpus, folder.tokenizer)
        encode_corpus(config.tokens, config.model.vocab_size, folder.corpus, folder.tokenizer, folder.tokens, lambda *_: None)
        device = choose_device(config.device, 0)
        precision = "bf16" if bf16_pays(device) else "fp32"
        ours = OurLoop(config, folder, device, precision, compiled=False)
        contestants: list[Contestant] = [PlainLoop(config, folder, device), ours]
        if compiled:
            contestants.append(OurLoop(config, folder, device, precision, compiled=True))
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        peak_tflops = max(matmul_tflops(device, dtype) for _ in range(5))
        loops = _race(contestants, seconds, config, peak_tflops)
        size_bytes, stalls_s, writes_s = _time_saves(ours, folder.path / "saves")
        fast, slow = _time_encoding(encoder, folder)
    stalls_ms = sorted(1000 * stall for stall in stalls_s)
    return PresetFigures(
        preset=preset,
        num_parameters=config.model.num_parameters,
        row_tokens=config.tokens.row_tokens,
        peak_tflops=peak_tflops,
        loops=loops,
        save_mb=size_bytes / 1e6,
        save_stall_ms_p50=statistics.median(stalls_ms),
        save_stall_ms_p99=stalls_ms[-1],
        save_write_s_p50=statistics.median(writes_s),
        encode_mb_per_s=fast,
        encode_mb_per_s_tokenizers=slow,
    )


def _race(contestants: Sequence[Contestant], seconds: float, config: Config, peak_tflops: float) -> list[LoopFigures]:
    """Turns in alternation until the time is up, at least three each; the first turn of each warms it up."""
    first_s, memory_mb = {}, {}
    for each in contestants:
        _reset_peak_memory()
        first_s[each.name] = _timed(each)[1]
        memory_mb[each.name] = _peak_memory_mb()
    turns: dict[str, list[tuple[Turn, float]]] = {each.name: [] for each in contestants}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or len(turns[contestants[0].name]) < 3:
        for each in contestants:
            turns[each.name].append(_timed(each))
    useful = {name: [turn.useful_tokens / s for turn, s in each] for name, each in turns.items()}
    positions = {name: [turn.positions / s for turn, s in each] for name, each in turns.items()}
    plain = contestants[0].name
    flops = config.model.flops_per_token(config.tokens.row_tokens)
    return [
        LoopFigures(
            name=name,
            useful_tokens_per_s=statistics.median(useful[name]),
            positions_per_s=statistics.median(positions[name]),
            useful_ratio=sum(useful[name]) / sum(useful[plain]),
            positions_ratio=_median_ratio(positions[name], positions[plain]),
            mfu=statistics.median(useful[name]) * flops / 1e12 / peak_tflops,
            data_wait_share=sum(turn.data_s for turn, _ in each) / sum(s for _, s in each),
            peak_memory_mb=memory_mb[name],
            first_turn_s=first_s[name],
            turns=len(each),
        )
        for name, each in turns.items()
    ]


def _median_ratio(these: Sequence[float], those: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


def _timed(contestant: Contestant) -> tuple[Turn, float]:
    started = time.perf_counter()
    turn = contestant.turn()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return turn, time.perf_counter() - started


def _time_saves(ours: OurLoop, folder: Path) -> tuple[int, list[float], list[float]]:
    """Bytes of a checkpoint, seconds that the loop waits for each of some saves, and seconds to write each."""
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
        writer.save(ours.engine.tensors(), lambda manifest=manifest: manifest)  # type: ignore[misc]
        writer.finish()
        saved += [outcome for outcome in writer.outcomes() if isinstance(outcome, CheckpointSaved)]
    after_first = saved[1:]  # the first one makes the staging memory
    return saved[0].size_bytes, [each.stall_s for each in after_first], [each.write_s for each in after_first]


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


def _reset_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mb() -> float:
    """Peak since the reset: of the GPU, or of this whole process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    peak_kb = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(peak_kb) * 1024 / 1e6
