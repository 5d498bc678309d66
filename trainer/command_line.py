"""The commands of `trainer` and their options. No torch: `--help` is quick."""

import argparse
from pathlib import Path
from typing import get_args

from trainer.command_parser import Parser, add_basics, add_completion, seconds, unicode_text, whole_number
from trainer.config import StageName
from trainer.config_loading import preset_names
from trainer.planning.hardware import GPUS, LINKS

_STAGE_HELP: dict[StageName, str] = {
    "prepare": "raw text to clean documents: read, clean, drop duplicates, hold some out",
    "tokenizer": "train the tokenizer; `tokenizer inspect` shows its pieces",
    "encode": "clean documents to packed rows of tokens",
    "pretrain": "train the model, from its newest checkpoint if there is one",
    "sft": "teach the model to answer, from conversations",
    "reward": "teach a copy of the model to judge which of two answers is better",
    "dpo": "teach the model to prefer the better of two answers",
    "grpo": "let the model write answers, and teach it those that are judged better than their neighbours",
    "evaluate": "held-out bits per byte beside baselines, and tasks with a right answer",
    "generate": "write text with the trained model",
    "report": "make RUN/report.html",
}


def make_parser() -> Parser:
    parser = Parser(prog="trainer", description="From raw text to a GPT. One config file describes a run.")
    add_basics(parser)
    # deepspeed's launcher puts it in front; the environment says the same
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    shared = _shared_options()
    run_help = "do the config's stages in turn; what is done is skipped"
    commands.add_parser("run", parents=[shared], help=run_help, description=run_help)
    for stage in get_args(StageName):
        command = commands.add_parser(stage, parents=[shared], help=_STAGE_HELP[stage], description=_STAGE_HELP[stage])
        if stage == "prepare":
            _add_preparing(command)
        elif stage == "tokenizer":
            command.add_argument("action", nargs="?", choices=("train", "inspect"), default="train")
            command.add_argument("--text", type=unicode_text, help="with inspect: show how this text is cut")
            command.add_argument("--pieces", type=whole_number(1), default=40, metavar="N", help="with inspect: pieces to show")
            chat_help = "with inspect: show this chat file's rows as tokens, with what is learned between « and »"
            command.add_argument("--chat", metavar="FILE", help=chat_help)
            command.add_argument("--rows", type=whole_number(1), default=3, metavar="N", help="with --chat: rows to show")
        elif stage == "evaluate":
            command.add_argument("--json", action="store_true", help="print the figures as JSON to stdout")
            which = "checkpoints to evaluate, side by side; default: the newest one of each stage"
            command.add_argument("--checkpoint", nargs="+", metavar="PATH", help=which)
        elif stage == "generate":
            command.add_argument(
                "--prompt", type=unicode_text, help="continue this text, streamed to stdout; without it: the config's prompts"
            )
            _add_sampling(command)
    config_help = "print the resolved config, or the schema of configs"
    command = commands.add_parser("config", parents=[shared], help=config_help, description=config_help)
    command.add_argument("--show", action="store_true", help="print the resolved config as YAML (the default)")
    command.add_argument("--schema", action="store_true", help="print the JSON schema")
    explain_help = "tell what one key is, may be and is set to, such as pretrain.optimizer.lr"
    command.add_argument("--explain", metavar="KEY", help=explain_help)
    _add_looking(commands, shared)
    _add_talking(commands, shared)
    _add_export(commands, shared)
    _add_export_tasks(commands, shared)
    _add_plan(commands, shared)
    bench_help = "measure speed on this machine beside a plain loop"
    command = commands.add_parser("bench", help=bench_help, description=bench_help)
    command.add_argument("--presets", nargs="+", default=["tiny", "minimind-26m"], choices=preset_names(), metavar="NAME")
    command.add_argument("--seconds", type=seconds, default=60.0, help="time for each preset's pairs, in s")
    command.add_argument("--compile", action="store_true", help="also measure with torch.compile")
    command.add_argument("--profile", action="store_true", help="also write runs/trace-NAME.json for ui.perfetto.dev")
    command.add_argument("--json", action="store_true", help="print JSON to stdout instead of a table")
    add_completion(commands)
    return parser


def _add_looking(commands: "argparse._SubParsersAction[Parser]", shared: Parser) -> None:
    init_help = "write a commented config to start from; without FILE to stdout"
    command = commands.add_parser("init", help=init_help, description=init_help)
    command.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a new file")
    command.add_argument("--preset", default="tiny", choices=preset_names(), metavar="NAME", help="what it builds on")
    validate_help = "look whether all that the config's stages need is there; changes nothing"
    commands.add_parser("validate", parents=[shared], help=validate_help, description=validate_help)
    status_help = "tell how far a run is, from its folder"
    command = commands.add_parser("status", parents=[shared], help=status_help, description=status_help)
    command.add_argument("run", nargs="?", type=Path, metavar="RUN", help="a run folder, instead of a config")
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_preparing(command: argparse.ArgumentParser) -> None:
    which = command.add_mutually_exclusive_group()
    shard_help = "only clean the units of shard I of N, for an Indexed Job on a shared volume; I is auto there"
    which.add_argument("--shard", type=_shard, metavar="I/N", help=shard_help)
    which.add_argument("--merge", action="store_true", help="after all shards: deduplicate and write what they cleaned")
    explain_help = "tell what became of one document, such as poems:a.jsonl:17 (SOURCE:FILE:LINE)"
    which.add_argument("--explain", metavar="ID", help=explain_help)


def _shard(text: str) -> tuple[int | None, int]:
    number, _, count = text.partition("/")
    if not (number == "auto" or number.isdecimal()) or not count.isdecimal() or int(count) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 1/8")
    return (None if number == "auto" else int(number)), int(count)


def _add_sampling(command: argparse.ArgumentParser) -> None:
    for name, kind in (("max_tokens", int), ("temperature", float), ("top_p", float), ("seed", int)):
        command.add_argument(f"--{name}", type=kind, help=f"generate.{name} of the config")


def _add_talking(commands: "argparse._SubParsersAction[Parser]", shared: Parser) -> None:
    chat_help = "talk with the trained model in the terminal, or answer each line of a pipe"
    command = commands.add_parser("chat", parents=[shared], help=chat_help, description=chat_help)
    checkpoint_help = "a checkpoint; default: the newest of the run's last stage"
    command.add_argument("--checkpoint", type=Path, metavar="PATH", help=checkpoint_help)
    command.add_argument("--system", type=unicode_text, metavar="TEXT", help="the conversation's system message")
    _add_sampling(command)
    serve_help = "serve the trained model: OpenAI's API and a chat page"
    command = commands.add_parser("serve", parents=[shared], help=serve_help, description=serve_help)
    command.add_argument("--checkpoint", type=Path, metavar="PATH", help=checkpoint_help)
    command.add_argument("--host", default="127.0.0.1", help="address to listen on; others than loopback need TRAINER_API_KEY")
    command.add_argument(
        "--port", type=whole_number(0, 65535), default=8000, help="port to listen on (default: 8000); 0: a free one"
    )


def _add_export(commands: "argparse._SubParsersAction[Parser]", shared: Parser) -> None:
    export_help = "write the model as a folder for transformers and vLLM, or as GGUF for llama.cpp"
    command = commands.add_parser("export", parents=[shared], help=export_help, description=export_help)
    command.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="a new folder, or an earlier export of the run"
    )
    command.add_argument("--format", choices=("hf", "gguf"), default="hf", help="hf (the default) or gguf")
    dtypes = ("float32", "bfloat16", "float16")
    command.add_argument("--dtype", choices=dtypes, default="float32", help=f"{', '.join(dtypes)} (default: float32)")
    command.add_argument("--checkpoint", type=Path, metavar="PATH", help="a checkpoint; default: the last stage's newest")


def _add_export_tasks(commands: "argparse._SubParsersAction[Parser]", shared: Parser) -> None:
    tasks_help = "write the config's tasks for lm-evaluation-harness; their names to stdout"
    command = commands.add_parser("export-tasks", parents=[shared], help=tasks_help, description=tasks_help)
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder, for lm_eval --include_path")


def _add_plan(commands: "argparse._SubParsersAction[Parser]", shared: Parser) -> None:
    plan_help = "predict memory, step time and scaling of each engine on given GPUs"
    command = commands.add_parser("plan", parents=[shared], help=plan_help, description=plan_help)
    command.add_argument("--gpus", type=whole_number(1), metavar="N", help="GPUs in all")
    command.add_argument("--gpus-per-node", type=whole_number(1), default=8, metavar="N", help="GPUs of a node (default: 8)")
    command.add_argument("--gpu", default="h100", metavar="NAME", help=f"one of {', '.join(GPUS)} (default: h100)")
    command.add_argument("--link", default="100GbE", metavar="NAME", help=f"of nodes: {', '.join(LINKS)} (default: 100GbE)")
    command.add_argument("--compare", action="store_true", help="print the predictions beside published figures instead")
    command.add_argument("--json", action="store_true", help="print JSON to stdout instead of a table")


def _shared_options() -> "Parser":
    shared = Parser(add_help=False)
    config_help = "a trainer config, or a run file with a trainer section; -: standard input"
    shared.add_argument("--config", "-c", type=Path, metavar="FILE", help=config_help)
    shared.add_argument("--preset", metavar="NAME", help=f"build on a preset: {', '.join(preset_names())}")
    set_help = "override, e.g. pretrain.epochs=2"
    shared.add_argument("--set", action="append", type=unicode_text, default=[], metavar="KEY=VALUE", help=set_help)
    shared.add_argument("--use_wandb", action="store_true", help="send events to Weights & Biases")
    shared.add_argument("--wandb_project", metavar="NAME", help="wandb project")
    shared.add_argument("--wandb_run_name", metavar="NAME", help="wandb run name")
    return shared
