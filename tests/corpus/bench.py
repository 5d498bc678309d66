"""`make bench-corpus`: MB/s of one core by step on the corpus in the box, steps of datatrove in turns with ours, and a large
input end to end with its peak memory.

The clock is CPU time, so that a busy machine tells about the same. The large input is made of the box's lines in a new order
with new numbers in them: all documents differ, some lines repeat. Memory is the largest resident set of any one process.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from tests.corpus import truth
from tests.support.tables import table
from trainer.config_corpus import CorpusSection, SourceSection
from trainer.config_steps import StepsSection
from trainer.corpus.cleaning import steps_for
from trainer.corpus.normalising import fingerprint, normalise
from trainer.corpus.preparing import clean_shard, merge
from trainer.corpus.reading import Document, read_source
from trainer.corpus.signing import line_hashes
from trainer.corpus.steps.draft import Draft
from trainer.corpus.steps.near_duplicates import bands, signature
from trainer.errors import CorpusError

BOX = (("python-docs", "python-docs", "en"), ("wordnet", "wordnet-glosses", "en"), ("poetry", "chinese-poetry", "zh"))

EVERYTHING = StepsSection.model_validate(
    {
        "repair": True,
        "language": {"identify": True},
        "quality": {"english": "fineweb", "chinese": "web"},
        "harmful": {"use_default": True},
        "redaction": {"replace": ["email", "ip", "phone", "identity", "card", "secret"]},
    }
)


def sources() -> tuple[SourceSection, ...]:
    return tuple(SourceSection(name=name, path=f"box:{file}.jsonl.zst", language=code) for name, file, code in BOX)


def box_documents(max_bytes: int) -> Iterator[tuple[str, str]]:
    """Texts with their languages, of each source at most so many bytes."""
    for source in sources():
        left = max_bytes
        for item in read_source(source, CorpusSection()):
            if isinstance(item, Document) and left > 0:
                left -= len(item.text.encode())
                yield item.text, source.language


def step_table(max_bytes: int) -> list[tuple[str, float]]:
    """(step, MB/s of one core): each step on the documents as they come out of the normal form."""
    started = time.process_time()
    texts = list(box_documents(max_bytes))
    total = sum(len(text.encode()) for text, _ in texts) / 1e6
    rows = [("read", total / (time.process_time() - started))]
    drafts = [Draft(normalise(text), language) for text, language in texts]

    def timed(name: str, work: Callable[[Draft], object]) -> None:
        begun = time.process_time()
        for draft in drafts:
            work(draft)
        rows.append((name, total / max(1e-9, time.process_time() - begun)))

    timed("normalise", lambda draft: normalise(draft.text))
    for english, chinese in zip(steps_for(EVERYTHING, "en"), steps_for(EVERYTHING, "zh"), strict=True):
        by_language = {"en": english, "zh": chinese}
        timed(english.name, lambda draft, steps=by_language: steps[draft.language](draft))  # type: ignore[misc]
    timed("fingerprint", lambda draft: fingerprint(draft.text))
    timed("lines", lambda draft: line_hashes(draft.text, 20))
    timed("signature", lambda draft: bands(signature(draft.text, draft.language)))
    return rows


def beside_datatrove(max_bytes: int, cache: Path) -> str:
    """A table of rates on English documents, and on pages of the Python documentation where its package can be had."""
    from tests.corpus.beside_datatrove import html_pair, pairs, race

    texts = [normalise(text) for text, language in box_documents(max_bytes) if language == "en"]
    rates = [race(pair, texts) for pair in pairs()]
    try:
        files = truth.files_of(truth.PYTHON_PAGES, cache)
        rates.append(race(html_pair(), [page.html for page in truth.python_pages(files)[:: 1 + 20_000_000 // max_bytes]]))
    except CorpusError as error:
        print(f"missing: pages of HTML: {error}", file=sys.stderr)
    rows = [
        (
            rate.name,
            *(f"{value:.2f}" for value in (rate.ours, rate.theirs, rate.ours / rate.theirs)),
            *(("", "") if rate.at_blanks is None else (f"{rate.at_blanks:.2f}", f"{rate.ours / rate.at_blanks:.2f}")),
        )
        for rate in rates
    ]
    head = ("step", "ours, MB/s", "datatrove", "ratio", "datatrove at blanks", "ratio")
    return table(f"Beside datatrove {version('datatrove')}, MB of UTF-8 per CPU-second", head, rows)


def write_large(path: Path, size_bytes: int) -> None:
    """Documents of about 2 kB from the box's lines: no two are equal."""
    chance = random.Random(1)
    lines = [line for text, _ in box_documents(2_000_000) for line in text.split("\n") if len(line) > 30]
    written = number = 0
    with path.open("wb") as file:
        while written < size_bytes:
            chosen = chance.choices(lines, k=30)
            text = "\n".join(f"{line} {chance.randrange(10**9)}" for line in chosen[:28]) + "\n" + "\n".join(chosen[28:])
            written += file.write(json.dumps({"text": f"{number} {text}"}, ensure_ascii=False).encode() + b"\n")
            number += 1


@contextmanager
def peak_memory() -> Iterator[dict[int, int]]:
    """Largest resident set in MB of this process, above what it starts with, and of those that it starts, by their ids."""
    peaks: dict[int, int] = {}
    done = threading.Event()
    own = os.getpid()
    at_start = _resident_mb(own)

    def watch() -> None:
        while not done.wait(0.05):
            children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
            for process in (own, *map(int, children)):
                size = _resident_mb(process) - (at_start if process == own else 0)
                peaks[process] = max(peaks.get(process, 0), size)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield peaks
    done.set()
    thread.join()


def _resident_mb(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except (FileNotFoundError, ProcessLookupError):
        return 0


def large_run(folder: Path, gigabytes: float, memory_bytes: int, workers: int) -> dict[str, float]:
    """Prepare a large input with near-duplicates sought in it. Returns rates and peaks."""
    raw = folder / "raw.jsonl"
    write_large(raw, int(gigabytes * 1e9))
    config = CorpusSection.model_validate(
        {
            "sources": [{"name": "large", "path": str(raw)}],
            "near_duplicates": {"enabled": True},
            "memory_bytes": memory_bytes,
            "workers": workers,
        }
    )
    input_mb = raw.stat().st_size / 1e6
    with peak_memory() as peaks:
        started, spent = time.monotonic(), _cpu_s()
        clean_shard(config, folder / "corpus", 0, 1)
        cleaned, clean_s = time.monotonic(), _cpu_s() - spent
        manifest, _ = merge(config, folder / "corpus")
        merged, merge_s = time.monotonic(), _cpu_s() - spent - clean_s
    return {
        "input_mb": round(input_mb),
        "documents": manifest.counts["large"]["read"],
        "near_duplicates": manifest.counts["large"]["near_duplicate"],
        "clean_wall_s": round(cleaned - started, 1),
        "clean_mb_per_cpu_s": round(input_mb / clean_s, 2),
        "merge_wall_s": round(merged - cleaned, 1),
        "merge_mb_per_cpu_s": round(input_mb / merge_s, 2),
        "memory_bound_mb": memory_bytes >> 20,
        "peak_mb_first_process_above_start": max((size for pid, size in peaks.items() if pid == os.getpid()), default=0),
        "peak_mb_largest_worker": max((size for pid, size in peaks.items() if pid != os.getpid()), default=0),
    }


def _cpu_s() -> float:
    """CPU time of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--megabytes", type=float, default=2.0, help="of each source of the box, for the table of steps")
    parser.add_argument(
        "--datatrove-megabytes", type=float, default=1.0, help="of each English source, beside datatrove; 0: none"
    )
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of the large input; 0: none")
    parser.add_argument("--memory-mb", type=int, default=64, help="corpus.memory_bytes of the large run, in MB")
    parser.add_argument("--workers", type=int, default=0, help="corpus.workers of the large run")
    options = parser.parse_args(arguments)
    print(f"{'step':32s} MB/s per core")
    for name, rate in step_table(int(options.megabytes * 1e6)):
        print(f"{name:32s} {rate:8.1f}")
    if options.datatrove_megabytes:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pretrain-run" / "registry"
        print("\n" + beside_datatrove(int(options.datatrove_megabytes * 1e6), cache))
    if options.gigabytes:
        with tempfile.TemporaryDirectory() as folder:
            found = large_run(Path(folder), options.gigabytes, options.memory_mb << 20, options.workers)
        print("\n" + "\n".join(f"{name:36s} {value:,}" for name, value in found.items()))


if __name__ == "__main__":
    main()
