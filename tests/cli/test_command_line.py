"""What both command lines promise to somebody who types: a way out of each mistake, and no traceback at odd terminals."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from k8s.cli import _parser as launcher_parser
from tests.support.data import write_config
from trainer import __version__
from trainer.command_line import make_parser

TRAINER, LAUNCHER = [sys.executable, "-m", "trainer"], [sys.executable, "-m", "k8s"]
NO_CLUSTER = {"KUBECONFIG": "/nowhere"}


def run(command: list[str], *arguments: str | bytes, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | NO_CLUSTER | changes
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("command", "arguments", "wanted"),
    [
        (TRAINER, ["pretrian"], "trainer: 'pretrian' is no command; did you mean pretrain?; see trainer --help"),
        (TRAINER, ["pretrain", "--confg", "x"], "trainer pretrain: '--confg' is no option here; did you mean --config?; see"),
        (TRAINER, ["tokenizer", "--confg", "x"], "trainer tokenizer: '--confg' is no option here; did you mean --config?; see"),
        (TRAINER, ["config", "x"], "trainer config: 'x' is one argument too many; see"),
        (TRAINER, ["bench", "--presets", "tny"], "trainer bench: --presets: 'tny' is not one of gpt-125m, "),
        (TRAINER, ["bench", "--seconds", "nan"], "trainer bench: argument --seconds: 'nan' is not a number of seconds above 0"),
        (TRAINER, ["bench", "--seconds", "-1"], "trainer bench: argument --seconds: "),
        (TRAINER, ["serve", "--port", "99999"], "trainer serve: argument --port: '99999' is not a number from 0 to 65535; see"),
        (TRAINER, ["plan", "--gpus", "0"], "trainer plan: argument --gpus: '0' is not a number of 1 or more; see"),
        (TRAINER, ["generate", "--prompt", b"\xff"], "trainer generate: argument --prompt: is not UTF-8 text"),
        (LAUNCHER, ["sumbit"], "launcher: 'sumbit' is no command; did you mean submit?; see launcher --help"),
        (
            LAUNCHER,
            ["status", "x", "--timeout", "nan"],
            "launcher status: argument --timeout: 'nan' is not a number of seconds",
        ),
        (LAUNCHER, ["logs", "x", "--rnak", "1"], "launcher logs: '--rnak' is no option here; did you mean --rank?; see"),
    ],
)
def test_a_mistake_on_the_command_line_ends_with_one_line_and_code_2(
    command: list[str], arguments: list[str], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = make_parser() if command is TRAINER else launcher_parser()
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([os.fsdecode(argument) for argument in arguments])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(wanted)


def test_a_mistake_ends_the_process_so() -> None:
    for command, wanted in ((TRAINER, "trainer: 'pretrian' is no"), (LAUNCHER, "launcher: 'pretrian' is no")):
        ended = run(command, "pretrian")
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.startswith(wanted)


def test_both_tell_their_version() -> None:
    for command, name in ((TRAINER, "trainer"), (LAUNCHER, "launcher")):
        assert run(command, "-V").stdout == f"{name} {__version__}\n"


def test_options_may_be_written_with_dashes_or_underscores() -> None:
    parser = make_parser()
    for option in ("--max-tokens=7", "--max_tokens=7"):
        assert parser.parse_args(["generate", option, "--top-p", "0.5"]).max_tokens == 7
    assert parser.parse_args(["pretrain", "--wandb-run-name", "a", "--use-wandb", "-c", "x.yaml"]).wandb_run_name == "a"
    assert parser.parse_args(["plan", "--gpus_per_node", "4", "--gpus", "8"]).gpus_per_node == 4


def test_a_config_may_come_from_standard_input(tmp_path: Path) -> None:
    command = [*TRAINER, "config", "-c", "-"]
    ended = subprocess.run(command, input="seed: 77", capture_output=True, text=True, timeout=60, check=True)
    assert "seed: 77" in ended.stdout.splitlines()
    ended = subprocess.run(command, input="seed: 0x_", capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (
        65, "trainer: standard input:1: '0x_' is no whole number (!!int); a text stands in quotes and has no tag\n",
    )  # fmt: skip
    text = "corpus: {sources: [{name: a, path: '-'}]}"
    command = [*TRAINER, "prepare", "-c", "-"]
    ended = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert (ended.returncode, ended.stderr.splitlines()) == (
        2,
        ["trainer: --config -: a source of the corpus is read from standard input too; give the config as a file"],
    )


@pytest.mark.parametrize("arguments", [["config", "--schema"], ["--help"], ["config", "--preset", "tiny"]])
def test_a_reader_that_leaves_early_gets_no_traceback(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as stdout:
        ended = subprocess.run(
            [*TRAINER, *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_full_disk_behind_standard_output_is_told() -> None:
    with Path("/dev/full").open("wb") as stdout:
        ended = subprocess.run([*TRAINER, "config", "--schema"], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 65
    assert ended.stderr == "trainer: standard output or a file cannot be written: No space left on device\n"


def test_training_goes_on_when_nobody_reads_its_lines_any_more(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data, pretrain__steps=4)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        command = [*TRAINER, "pretrain", "--config", str(config)]
        ended = subprocess.run(command, stdout=pipe, stderr=pipe, timeout=120, check=False)
    assert ended.returncode == 0
    assert (tmp_path / "run" / "DONE").exists()


@pytest.mark.parametrize(
    "changes",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_text_of_any_language_goes_to_an_ascii_terminal(changes: dict[str, str]) -> None:
    ended = run(TRAINER, "config", "--preset", "tiny", "--set", "generate.prompts=[春]".encode(), **changes)
    assert ended.returncode == 0, ended.stderr
    assert "  - \\u6625\n" in ended.stdout


def test_a_checkpoint_that_is_nowhere_is_told_as_such(small_data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", small_data)
    for command in ("chat", "evaluate"):
        ended = run(TRAINER, command, "--config", str(config), "--checkpoint", "nowhere")
        assert ended.returncode == 65
        (line,) = ended.stderr.splitlines()
        assert line.startswith("trainer: --checkpoint nowhere: no such folder; give for example ")
    ended = run(TRAINER, "chat", "--config", str(config), "--checkpoint", str(tmp_path))
    assert ended.stderr.startswith(f"trainer: --checkpoint {tmp_path}: holds no checkpoint; give for example ")


def test_completion_is_a_script_or_the_line_that_installs_what_makes_it() -> None:
    ended = run(TRAINER, "completion", "bash")
    if ended.returncode == 65:
        wanted = "trainer: completion needs shtab, which is not installed: pip install 'pretrain-run[completion]'\n"
        assert ended.stderr == wanted
        return
    asked = (
        'COMP_WORDS=(trainer pret); COMP_CWORD=1; COMP_LINE="trainer pret"; _shtab_trainer; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    bash = subprocess.run(["bash", "-c", f"{ended.stdout}\n{asked}"], capture_output=True, text=True, timeout=60, check=False)
    assert "pretrain" in bash.stdout.split(), bash.stderr
    assert " -F _shtab_launcher launcher" in run(LAUNCHER, "completion", "bash").stdout


def test_the_launcher_tells_a_mistake_in_the_file_before_it_looks_for_a_cluster(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("trainer: {preset: tiny}\nbackned: job\n")
    for command in ("submit", "resume"):
        ended = run(LAUNCHER, command, "-f", str(file))
        assert (ended.returncode, ended.stderr.splitlines()[0]) == (
            65,
            f"launcher: {file}:2: backned: unknown key; did you mean backend?",
        )


@pytest.mark.parametrize("module", ["kubernetes", "torch", "numpy", "zstandard"])
def test_help_and_config_need_no_extra(module: str) -> None:
    probe = f"import sys; sys.modules[{module!r}] = None\nfrom trainer.cli import main\nmain(['config', '--preset', 'tiny'])"
    ended = run([sys.executable, "-c", probe])
    assert ended.returncode == 0, ended.stderr
    probe = f"import sys; sys.modules[{module!r}] = None\nfrom k8s.cli import main\nmain(['--help'])"
    assert run([sys.executable, "-c", probe]).returncode == 0


def test_a_launcher_without_its_extra_says_what_installs_it() -> None:
    probe = "import sys; sys.modules['kubernetes'] = None\nfrom k8s.cli import main\nmain(['list'])"
    ended = run([sys.executable, "-c", probe])
    assert (ended.returncode, ended.stderr) == (
        65, "launcher: kubernetes is not installed: pip install 'pretrain-run[launch]'\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "module", "extra"),
    [
        (["generate", "--prompt", "a"], "torch", "train"),
        (["generate", "--prompt", "a"], "tokenizers", "train"),
        (["chat"], "safetensors", "train"),
        (["tokenizer", "inspect"], "tiktoken", "train"),
        (["prepare", "--explain", "a:b:1"], "zstandard", "train"),
        (["serve"], "uvicorn", "serve"),
        (["serve"], "starlette", "serve"),
    ],
)
def test_every_command_without_its_extra_says_what_installs_it(arguments: list[str], module: str, extra: str) -> None:
    probe = (
        f"import sys; sys.modules[{module!r}] = None\nfrom trainer.cli import main\nmain({[*arguments, '--preset', 'tiny']!r})"
    )
    ended = run([sys.executable, "-c", probe])
    assert (ended.returncode, ended.stderr) == (
        65,
        f"trainer: {module} is not installed: pip install 'pretrain-run[{extra}]'\n",
    )


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({"RANK": "1"}, "trainer: RANK=1 with no WORLD_SIZE; are they left by another launcher? start with torchrun, or unset"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "trainer: WORLD_SIZE=2 without MASTER_ADDR; are they left by another launcher?"),
    ],
)
def test_variables_that_another_launcher_left_end_in_one_line(
    variables: dict[str, str], wanted: str, small_data: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "config.yaml", small_data)
    for command in (["pretrain", "--config", str(config)], ["bench"], ["run", "--config", str(config)]):
        ended = run(TRAINER, *command, **variables)
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        assert line.startswith(wanted)
    assert not (tmp_path / "run").exists()


def test_stdin_that_is_not_utf_8_is_read_all_the_same() -> None:
    from trainer.command_parser import any_terminal

    kept = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO("é".encode("latin-1") + "春".encode()), encoding="ascii")
    try:
        with any_terminal():
            assert sys.stdin.read() == "\N{REPLACEMENT CHARACTER}春"
    finally:
        sys.stdin = kept
