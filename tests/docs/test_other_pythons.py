"""`.ci/run` tests the interpreters that a machine has beside the environment's, and says which it could not."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def tier(tmp_path: Path, which: str, path: str) -> str:
    """What .ci/run does for an interpreter, where this one is the environment's."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    functions = "not_run=()" + script.partition("not_run=()")[2].partition("# The stories on a local cluster")[0]
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    program = f'part() {{ echo "part $*"; }}\n{functions}\npython_tier "{which}" "{path}"\nprintf "%s\\n" "${{not_run[@]}}"\n'
    ended = subprocess.run(
        ["bash", "-uc", program], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=60, check=True
    )
    assert ended.stderr == ""
    return ended.stdout.strip()


def interpreter(tmp_path: Path, version: str) -> str:
    """A program that says it is such a Python."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\necho {version}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_the_tests_run_under_another_python_that_is_supported(tmp_path: Path) -> None:
    path = interpreter(tmp_path, "3.13.99")
    command = f"make --no-print-directory test-python PYTHON_VERSION={path}"
    assert tier(tmp_path, "the newest Python", path) == f"part test-python, the newest Python, 3.13.99 900 {command}"


def test_the_environments_own_python_is_not_tested_twice(tmp_path: Path) -> None:
    said = tier(tmp_path, "the newest Python", sys.executable)
    assert (
        said
        == f"test-python, the newest Python: Python {platform.python_version()} is what .venv has, so 'test' has run under it"
    )


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("", "this machine has none (make test-python PYTHON_VERSION=PATH)"),
        ("3.9.2", "it is Python 3.9.2, and 3.11 to 3.13 are supported"),
        ("3.14.0", "it is Python 3.14.0, and 3.11 to 3.13 are supported"),
    ],
)
def test_a_python_that_cannot_be_tested_is_named(tmp_path: Path, version: str, why: str) -> None:
    path = interpreter(tmp_path, version) if version else ""
    assert tier(tmp_path, "the newest Python", path) == f"test-python, the newest Python: NOT RUN: {why}"
