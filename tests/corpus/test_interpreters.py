"""Patterns find the same on every supported Python, and one whose `re` is wrong is refused before it touches a document."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from trainer.config_steps import RedactionSection
from trainer.corpus.steps.known_answers import check_patterns, known_answers
from trainer.corpus.steps.redaction import redacted
from trainer.errors import CorpusError

ROOT = Path(__file__).parents[2]
_SHOWS_IT = {"tests/corpus/test_redaction.py", "tests/corpus/test_interpreters.py", "tests/corpus/backtracking.py"}


def test_the_known_answers_hold_on_this_python() -> None:
    check_patterns(known_answers())


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----", "<SECRET>"),
        ("-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nx\n-----END PGP PRIVATE KEY BLOCK-----", "<SECRET>"),
        ("write to bob@gmx.de.", "write to <EMAIL>."),
        ("an@mail.tsinghua.edu.cn, b@x1.museum", "<EMAIL>, <EMAIL>"),
        ("systemctl start daily.service getty@daily.service", "systemctl start daily.service getty@daily.service"),
        ("ssh to 203.119.26.1 or 2001:da8::666", "ssh to <IP> or <IP>"),
    ],
)
def test_personal_data_goes_whole_and_nothing_beside_it(text: str, clean: str) -> None:
    assert redacted(text, RedactionSection(replace=("email", "ip", "secret")))[0] == clean


@pytest.mark.parametrize("name", sorted({answer.name for answer in known_answers()}))
def test_each_pattern_that_finds_something_else_is_named(name: str) -> None:
    answers = [
        replace(each, pattern=re.compile("(?!)()")) if each.name == name and each.expected else each for each in known_answers()
    ]
    with pytest.raises(
        CorpusError, match=rf"^the re module of Python 3.* is wrong: in .* pattern {re.escape(name)} finds None"
    ):
        check_patterns(answers)


WRONG_RE = """
import re
import sys
from trainer.corpus.steps import find_secrets
find_secrets.PEM_BEGIN = re.compile("-----BEGIN PRIVATE KEY-----")
from trainer.cli import main
sys.exit(main(["prepare", "--config", "c.yaml"]))
"""


def test_prepare_refuses_an_interpreter_that_finds_something_else_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("corpus: {sources: [{name: a, path: a.txt}]}\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("A good line.\n" * 200, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-c", WRONG_RE], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 65, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert "pattern find_secrets.PEM_BEGIN finds None, but should find '-----BEGIN RSA PRIVATE KEY-----'" in last
    assert last.endswith("take the newest release of Python 3.11, 3.12 or 3.13")
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.rglob("corpus*"))


def test_no_pattern_in_the_tree_needs_what_old_interpreters_match_wrongly() -> None:
    files = [path for folder in ("trainer", "k8s", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 300
    found = [
        f"{name}:{line}: {text}"
        for path in files
        if (name := path.relative_to(ROOT).as_posix()) not in _SHOWS_IT
        for line, text in _patterns(path.read_text(encoding="utf-8"))
        if _gives_nothing_back(text)
    ]
    assert not found


def test_the_search_finds_possessive_quantifiers_and_atomic_groups_and_nothing_else() -> None:
    source = 're.compile(r"a*+")\nx = rf"{y}{{0,3}}+"\nre.sub("b?+", "", z)\nre.match(r"(?>c)", z)\n"|".join((r"d{2}+",))\n'
    assert sorted(line for line, text in _patterns(source) if _gives_nothing_back(text)) == [1, 2, 3, 4, 5]
    source = 'which("g++")\nre.compile(r"[*+]+\\\\+")\nx = r"C\\+\\++"\nprint("a?+")\n'
    assert [line for line, text in _patterns(source) if _gives_nothing_back(text)] == []


def _patterns(source: str) -> Iterator[tuple[int, str]]:
    """Raw strings, and all strings in calls of `re`, with their lines; what an f-string puts in is written as X."""
    tree, lines = ast.parse(source), source.encode().splitlines()
    in_calls = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_re(node.func.value)
        for inner in ast.walk(node)
    }
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            text = node.value
        else:
            continue
        written = lines[node.lineno - 1][node.col_offset :]
        if id(node) in in_calls or re.match(b"[fF]?[rR]", written):
            yield node.lineno, text


def _is_re(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "re"


def _gives_nothing_back(pattern: str) -> bool:
    """Whether a pattern holds a quantifier with a plus behind it, or an atomic group; escapes and sets of characters aside."""
    plain = re.sub(r"\[\^?\]?(?:\\.|[^\]\\])*\]", "C", re.sub(r"\\\\|\\p\{\w+\}|\\[^\[\]]", "E", pattern))
    return re.search(r"[*+?}]\+|\(\?>", plain) is not None
