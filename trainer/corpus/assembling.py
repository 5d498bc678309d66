"""The end of phase 3: the files of all shares in the corpus folder, the account, and the manifest that makes it whole."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainer.config_corpus import CorpusSection
from trainer.corpus.account import ACCOUNT, Account, SourceAccount, SourceTally
from trainer.corpus.clusters import Beginnings
from trainer.corpus.shares import WritePlan
from trainer.corpus.store import CorpusManifest, Gathered, Part, PartWriter, text_of_line, write_manifest
from trainer.corpus.work import zstd_lines
from trainer.corpus.writing import HELD_OUT, ShareResult, WriteJob
from trainer.errors import CorpusError
from trainer.files import DISK, write_json


def _why_nothing(source: str, counts: Mapping[str, int]) -> str:
    """What became of a source's documents."""
    lost = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count and name != "read")
    if not counts["read"]:
        return f"source {source}: no document could be read" + (f" ({lost}); replace or remove its files" if lost else "")
    return f"source {source}: {counts['read']} documents read ({lost}); look at the rules of corpus, or give more text"


def assemble(
    config: CorpusSection,
    settings: str,
    inputs: dict[str, int],
    plan: WritePlan,
    written: Sequence[tuple[WriteJob, ShareResult]],
    folder: Path,
) -> CorpusManifest:
    """Make a corpus of its shares. Raises CorpusError where nothing is left for training."""
    parts: list[Part] = []
    accounts: dict[str, SourceAccount] = {}
    beginnings: Beginnings = {}
    for index, source in enumerate(config.sources):
        own = [(job, result) for job, result in written if job.share.source == index]
        tally = SourceTally()
        for _, result in own:
            tally.add(result.tally)
            beginnings |= result.beginnings
        train = [part for _, result in own for part in result.parts]
        held_out = _held_out(config, source.name, [job.folder / HELD_OUT for job, _ in own], folder)
        parts += [*train, *held_out]
        train_bytes, held_out_bytes = (sum(part.text_bytes for part in split) for split in (train, held_out))
        accounts[source.name] = tally.account(train_bytes, held_out_bytes, plan.repeats.get(source.name, 0.0))
    counts = {name: account.counts for name, account in accounts.items()}
    if not any(part.split == "train" for part in parts):
        raise CorpusError(f"corpus: nothing to train on: {'; '.join(map(_why_nothing, counts, counts.values()))}")
    for job, _ in written:
        _move(job.folder, folder)
    account = Account(sources=accounts, clusters=plan.clusters.told(beginnings))
    write_json(folder / ACCOUNT, account.model_dump(mode="json"))
    rules = {name: account.rules for name, account in accounts.items() if account.rules}
    manifest = CorpusManifest(settings=settings, inputs=inputs, parts=tuple(parts), counts=counts, rules=rules)
    write_manifest(folder, manifest)
    return manifest


def _held_out(config: CorpusSection, source: str, files: Sequence[Path], folder: Path) -> list[Part]:
    """The parts of what the shares of a source have gathered. Raises CorpusError where a file is damaged."""
    with ThreadPoolExecutor(1) as threads:
        writer = PartWriter(folder, "held_out", source, config.part_bytes, Gathered(), threads)
        for path in files:
            for line in zstd_lines(path):
                writer.add(line, len(text_of_line(line).encode()))
        return writer.finish()


def _move(share: Path, corpus: Path) -> None:
    """The finished files of a share to their places, which differ from those of every other share's."""
    for file in sorted(share.glob("*/*")):
        place = corpus / file.relative_to(share)
        DISK.make_folder(place.parent)
        DISK.rename(file, place)
