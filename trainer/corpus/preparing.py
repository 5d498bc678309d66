"""The stage `prepare`: read every source, normalise, drop exact duplicates, split, write. Streams; nothing half-written.

Memory: 16 bytes and a set entry (about 100 bytes in all) per kept document, for exact deduplication.
"""

import hashlib
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

from trainer.config import CorpusSection
from trainer.config_section import canonical_json
from trainer.corpus.normalising import fingerprint, is_held_out, normalise
from trainer.corpus.reading import BadLine, files_of, read_source
from trainer.corpus.store import SPLITS, CorpusManifest, PartWriter, read_manifest, write_manifest
from trainer.errors import CorpusError
from trainer.files import new_folder

MAX_SHOWN_BAD_LINES = 10


def prepare(config: CorpusSection, folder: Path) -> tuple[CorpusManifest, bool]:
    """Make the clean corpus in `folder`, or find it there. Returns its manifest and whether it was made now.

    Raises CorpusError: no sources, missing files, too many bad lines, nothing left, or inputs that changed since.
    """
    if not config.sources:
        raise CorpusError("corpus.sources: empty; name at least one, such as {name: poems, path: box:chinese-poetry.jsonl.zst}")
    settings = hashlib.sha256(canonical_json(config.identity())).hexdigest()
    if folder.exists() and not _any_input_left(config):
        return read_manifest(folder), False  # the raw text may go once it is prepared
    inputs = {str(file): file.stat().st_size for source in config.sources for file in files_of(source)}
    if folder.exists():
        manifest = read_manifest(folder)
        _refuse_changed_inputs(manifest, settings, inputs, folder)
        return manifest, False
    with new_folder(folder) as partial:
        manifest = _write_corpus(config, partial, settings, inputs)
    return manifest, True


def _any_input_left(config: CorpusSection) -> bool:
    """Whether some source still has files."""
    for source in config.sources:
        with suppress(CorpusError):
            return bool(files_of(source))
    return False


def _write_corpus(config: CorpusSection, folder: Path, settings: str, inputs: dict[str, int]) -> CorpusManifest:
    seen: set[bytes] = set()
    bad_lines: list[BadLine] = []
    counts: dict[str, dict[str, int]] = {}
    parts = []
    for source in config.sources:
        count: Counter[str] = Counter(read=0, kept=0, held_out=0, too_short=0, duplicate=0, bad=0)
        writers = {split: PartWriter(folder, split, source.name, config.part_bytes) for split in SPLITS}
        for item in read_source(source, config):
            if isinstance(item, BadLine):
                count["bad"] += 1
                _note_bad_line(item, bad_lines, config.max_bad_lines)
                continue
            count["read"] += 1
            text = normalise(item.text)
            name = fingerprint(text)
            if len(text) < config.min_chars:
                count["too_short"] += 1
            elif name in seen:
                count["duplicate"] += 1
            else:
                seen.add(name)
                held_out = is_held_out(name, config.held_out)
                count["held_out" if held_out else "kept"] += 1
                writers["held_out" if held_out else "train"].add(text)
        for writer in writers.values():
            writer.flush()
            parts.extend(writer.parts)
        counts[source.name] = dict(count)
    if not any(part.split == "train" for part in parts):
        raise CorpusError(
            f"corpus: no document is left for training of {sum(c['read'] for c in counts.values())} read; {counts}"
        )
    manifest = CorpusManifest(settings=settings, inputs=inputs, parts=tuple(parts), counts=counts)
    write_manifest(folder, manifest)
    return manifest


def _note_bad_line(bad: BadLine, bad_lines: list[BadLine], limit: int) -> None:
    bad_lines.append(bad)
    if len(bad_lines) <= MAX_SHOWN_BAD_LINES:
        print(f"{bad.file}:{bad.line}: {bad.reason}", file=sys.stderr)
    if len(bad_lines) > limit:
        first = bad_lines[0]
        raise CorpusError(
            f"corpus.max_bad_lines {limit} is passed; the first bad line is {first.file}:{first.line}: {first.reason}"
        )


def _refuse_changed_inputs(manifest: CorpusManifest, settings: str, inputs: dict[str, int], folder: Path) -> None:
    if manifest.settings == settings and manifest.inputs == inputs:
        return
    changed = [name for name, size in inputs.items() if manifest.inputs.get(name) != size]
    gone = [name for name in manifest.inputs if name not in inputs]
    what = ", ".join((changed + gone)[:3]) or "the corpus section of the config"
    raise CorpusError(
        f"{folder}: made from other input ({what} changed since); choose another run_dir or data_dir, or remove this folder"
    )
