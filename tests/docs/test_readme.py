"""README's own-run example is executed as it stands; its targets and links exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", README.split("On a machine with several GPUs")[0], re.DOTALL)
    return str(found)


@pytest.mark.timeout(400)
def test_the_own_run_of_the_readme_works_as_written(small_data: Path, tmp_path: Path) -> None:
    (tmp_path / "my-text").mkdir()
    for file in (small_data / "raw").iterdir():
        (tmp_path / "my-text" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "my-run.yaml").write_text(block("yaml"), encoding="utf-8")
    commands = [line.partition("#")[0].strip() for line in block("sh").splitlines() if line.strip()]
    assert len(commands) == 5
    # one thread: beside other tests, threads that wait for each other would wait for those too
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    for command in commands:
        assert command.startswith("trainer ")
        result = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, f"{command}\n{result.stderr[-3000:]}"
    assert (tmp_path / "runs" / "my-run" / "report.html").exists()


def test_the_torchrun_line_of_the_readme_is_understood() -> None:
    from trainer.command_line import make_parser

    (line,) = re.findall(r"^torchrun .*-m trainer (.*)$", README, re.MULTILINE)
    options = make_parser().parse_args(line.split())
    assert (options.command, options.use_wandb, options.wandb_project) == ("pretrain", True, "my-project")


def test_the_deepspeed_launchers_argument_is_understood() -> None:
    from trainer.command_line import make_parser

    options = make_parser().parse_args(["--local_rank=1", "pretrain", "--config", "run.yaml"])
    assert (options.command, options.local_rank) == ("pretrain", 1)


@pytest.mark.parametrize(
    "document",
    sorted(["README.md", "CONTRIBUTING.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]),
)
def test_links_files_and_make_targets_in_documents_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^ +|^)make ([a-z-]+)", text, re.MULTILINE):  # commands, not the words of a sentence
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / document).parent.joinpath(link).exists(), link
    for path in re.findall(r"`((?:trainer|tests|examples|docs)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def test_example_configs_are_valid() -> None:
    from trainer.config_loading import load_config

    for file in (ROOT / "examples").glob("*.yaml"):
        assert load_config(file).corpus.sources


def test_readme_and_makefile_say_the_same_of_time_and_size() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for text in (README, makefile):
        assert set(re.findall(r"about (\w+) minutes on two(?: CPU)? cores", text)) == {"nine"}
    assert re.findall(r"about 3 GB to download and 6 GB on the disk", README)
    for text in (README, makefile):
        (index,) = re.findall(r"CPU index[^;.]*?saves (.*?)[.):]", text.replace("\n# ", " ").replace("\n", " "))
        assert index == "most of both"
