"""The command line: parse, build the config, call one stage, turn errors into one line and an exit code.

Human text goes to stderr, results to stdout or files. torch is imported by the stages that need it, so `--help` is quick.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, get_args

from trainer import __version__
from trainer.config import Config, StageName
from trainer.config_loading import config_schema, dump_config, load_config, preset_names
from trainer.errors import RunFolderError, TrainerError, UsageError
from trainer.events import Failed, Record
from trainer.extras import missing_package
from trainer.planning.hardware import GPUS, LINKS, Cluster, gpu_named, link_named
from trainer.planning.job import Job
from trainer.planning.measured import compare
from trainer.planning.plan import make_plan
from trainer.planning.table import compare_json, compare_lines, plan_json, plan_lines
from trainer.run_folder import RunFolder
from trainer.signals import StopRequest
from trainer.tracking.json_lines import JsonLines
from trainer.world import World

if TYPE_CHECKING:
    from trainer.running import Session

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


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> NoReturn:
    """Run one command and exit."""
    environment = os.environ if environment is None else environment
    stop = StopRequest()
    stop.install()
    call = _Call(stop, environment)
    try:
        _command(_parser().parse_args(arguments), call)
        exit_code = 0
    except (TrainerError, ModuleNotFoundError) as raised:
        error = missing_package(raised) if isinstance(raised, ModuleNotFoundError) else raised
        if error is None:
            raise
        exit_code = error.exit_code
        print(f"trainer: {error}", file=sys.stderr, flush=True)
        # a folder in which another process works has that one's log: the refusal is not its failure
        if call.session is not None and not error.retry_helps and not isinstance(error, RunFolderError):
            _note_failure(call.session, error)
    stop.ignore_from_now_on()
    sys.exit(exit_code)


@dataclass
class _Call:
    """One call of the command line, and the session that it opened once it did."""

    stop: StopRequest
    environment: Mapping[str, str]
    session: "Session | None" = None


def _command(options: argparse.Namespace, call: _Call) -> None:
    if options.command == "config" and options.schema:
        print(config_schema())
        return
    if options.command == "bench":
        from trainer.bench.table import bench

        world = World.of(call.environment)
        trace_folder = Path("runs") if options.profile else None
        flags = {"compiled": options.compile, "as_json": options.json}
        bench(options.presets, options.seconds, world, trace_folder=trace_folder, **flags)
        return
    if options.command == "plan" and options.compare:
        _print_comparison(as_json=options.json)
        return
    config = _config(options)
    if options.command == "plan":
        _print_plan(config, options)
    elif options.command == "config":
        print(dump_config(config), end="")
    elif options.command == "tokenizer" and options.action == "inspect":
        from trainer.tokens.inspecting import inspect_chat, inspect_tokenizer

        folder = RunFolder.of(config)
        if options.chat is not None:
            print("\n".join(inspect_chat(folder, options.chat, options.rows)))
        else:
            print("\n".join(inspect_tokenizer(config, folder, options.text, options.pieces)))
    elif options.command == "prepare" and options.explain is not None:
        from trainer.corpus.explaining import explain

        print("\n".join(explain(RunFolder.of(config).corpus, options.explain)))
    elif options.command == "prepare" and options.shard is not None:
        _clean_shard(config, options.shard, call)
    elif options.command == "generate" and options.prompt is not None:
        _generate(config, options.prompt)
    elif options.command == "chat":
        from trainer.inference.chatting import chat

        chat(config, options.checkpoint, options.system, sys.stdin, sys.stdout)
    elif options.command == "serve":
        _serve(config, options, call)
    elif options.command == "export":
        _export(config, options)
    elif options.command == "export-tasks":
        from trainer.evaluation.harness import export_tasks

        print("\n".join(export_tasks(config, options.out)))
    else:
        world = World.of(call.environment)
        _check_early(config, options, world, call)
        from trainer.elastic.local import SHARED_STORE_HINT
        from trainer.running import Session, merge_corpus, run_stage, run_stages

        session = call.session = Session.open(config, world, call.stop, call.environment)
        if world.shares_store:
            print(f"trainer: {SHARED_STORE_HINT}", file=sys.stderr)
        if options.command == "run":
            run_stages(session)
        elif options.command == "prepare" and options.merge:
            merge_corpus(session)
        else:
            run_stage(session, options.command)
        if options.command == "evaluate" and options.json and world.is_first:
            print(session.folder.evaluation.read_text(encoding="utf-8"), end="")


def _check_early(config: Config, options: argparse.Namespace, world: World, call: _Call) -> None:
    """What the stages will need, looked at by the first process before anything is written. Raises TrainerError."""
    if not world.is_first:
        return
    from trainer.preflight import check_run

    is_run = options.command == "run"
    is_merge = options.command == "prepare" and options.merge
    stages: tuple[StageName, ...] = config.stages if is_run else () if is_merge else (options.command,)
    processes = here = config.launch.processes if is_run else 1
    if world.size > 1:
        processes, here = world.size, int(call.environment.get("LOCAL_WORLD_SIZE", "1"))
    try:
        check_run(config, stages, processes, here, alone=not is_run)
    except TrainerError:
        if world.may_restart:  # the agent reads there that no restart helps
            from trainer.running import Session

            call.session = Session(config, RunFolder.of(config), world, call.stop, call.environment)
        raise


def _config(options: argparse.Namespace) -> Config:
    if options.config is None and options.preset is None:
        raise UsageError("no config: give --config FILE or --preset NAME")
    overrides = list(options.set)
    if options.use_wandb:
        overrides.append("tracking.wandb.enabled=true")
    for key in ("project", "run_name"):
        value = getattr(options, f"wandb_{key}")
        if value is not None:
            overrides.append(f"tracking.wandb.{key}={json.dumps(value)}")
    if options.command in ("generate", "chat"):
        for key in ("max_tokens", "temperature", "top_p", "seed"):
            value = getattr(options, key)
            if value is not None:
                overrides.append(f"generate.{key}={value}")
    if options.command == "evaluate" and options.checkpoint:
        overrides.append(f"evaluate.checkpoints={json.dumps(options.checkpoint)}")
    return load_config(options.config, overrides, options.preset)


def _print_plan(config: Config, options: argparse.Namespace) -> None:
    """What the config needs and how fast it is on the GPUs of the options."""
    if options.gpus is None:
        raise UsageError("plan needs --gpus N, or --compare")
    job = Job.of(config)
    cluster = Cluster(gpu_named(options.gpu), options.gpus, options.gpus_per_node, link_named(options.link))
    plan = make_plan(job, cluster)
    if options.json:
        print(plan_json(job, cluster, plan))
    else:
        print("\n".join(plan_lines(job, cluster, plan, options.gpu, options.link)))


def _print_comparison(*, as_json: bool) -> None:
    """The plan's model beside published figures."""
    print(compare_json(compare()) if as_json else "\n".join(compare_lines(compare())))


def _clean_shard(config: Config, shard: tuple[int | None, int], call: _Call) -> None:
    """Phase 1 of prepare for some units. Touches the work folder alone: many such processes share a volume."""
    from trainer.corpus.preparing import clean_shard

    number, count = shard
    if number is None:
        completion_index = call.environment.get("JOB_COMPLETION_INDEX", "")
        if not completion_index.isdecimal():
            raise UsageError("--shard auto/N needs JOB_COMPLETION_INDEX, which an Indexed Job sets; else give --shard I/N")
        number = int(completion_index) + 1
    if not 1 <= number <= count:
        raise UsageError(f"--shard {number}/{count}: the shards of {count} are 1 to {count}")
    done = clean_shard(config.corpus, RunFolder.of(config).corpus, number - 1, count)
    print(f"prepare: shard {number}/{count}: {done} units are clean", file=sys.stderr)


def _generate(config: Config, prompt: str) -> None:
    """Stream one text to stdout."""
    from trainer.inference.generation import generate_text
    from trainer.tokens.tokenizer import TOKENIZER_FILE, TextEncoder

    folder = RunFolder.of(config)
    folder.check(config)
    encoder = TextEncoder(folder.tokenizer / TOKENIZER_FILE)
    for _, _, pieces in generate_text(config, folder, encoder, [prompt]):
        print(prompt, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()


def _serve(config: Config, options: argparse.Namespace, call: _Call) -> None:
    """Serve until a stop signal."""
    from trainer.inference.serving.server import serve

    serve(config, options.checkpoint, options.host, options.port, call.environment, call.stop)


def _export(config: Config, options: argparse.Namespace) -> None:
    """A folder for other tools; its path to stdout."""
    from trainer.export.exporting import export

    folder = RunFolder.of(config)
    folder.check(config)
    print(export(config, folder, options.out, options.format, options.dtype, options.checkpoint))


def _note_failure(session: "Session", error: TrainerError) -> None:
    """Tell the failure to whoever watches the run folder; the disk may be what fails."""
    events = session.folder.events
    event = Failed(kind=type(error).__name__, exit_code=error.exit_code, reason=str(error))
    try:
        with closing(JsonLines(events)) as sink:
            sink.write(Record(time.time(), session.config.hash(), event))
    except (OSError, TrainerError) as trouble:
        print(f"trainer: {events}: {trouble}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Ends with one line on stderr and exit code 2."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(UsageError.exit_code)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="trainer", description="From raw text to a GPT. One config file describes a run.")
    parser.add_argument("--version", action="version", version=__version__)
    # deepspeed's launcher puts it in front; the environment says the same
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    shared = _shared_options()
    run_help = "do the config's stages in turn; what is done is skipped"
    commands.add_parser("run", parents=[shared], help=run_help, description=run_help)
    for stage in get_args(StageName):
        command = commands.add_parser(stage, parents=[shared], help=_STAGE_HELP[stage], description=_STAGE_HELP[stage])
        if stage == "prepare":
            _add_preparing(command)
        elif stage == "tokenizer":
            command.add_argument("action", nargs="?", choices=("train", "inspect"), default="train")
            command.add_argument("--text", help="with inspect: show how this text is cut")
            command.add_argument("--pieces", type=int, default=40, metavar="N", help="with inspect: pieces to show")
            chat_help = "with inspect: show this chat file's rows as tokens, with what is learned between « and »"
            command.add_argument("--chat", metavar="FILE", help=chat_help)
            command.add_argument("--rows", type=_positive, default=3, metavar="N", help="with --chat: rows to show")
        elif stage == "evaluate":
            command.add_argument("--json", action="store_true", help="print the figures as JSON to stdout")
            which = "checkpoints to evaluate, side by side; default: the newest one of each stage"
            command.add_argument("--checkpoint", nargs="+", metavar="PATH", help=which)
        elif stage == "generate":
            command.add_argument("--prompt", help="continue this text, streamed to stdout; without it: the config's prompts")
            _add_sampling(command)
    config_help = "print the resolved config, or the schema of configs"
    command = commands.add_parser("config", parents=[shared], help=config_help, description=config_help)
    command.add_argument("--show", action="store_true", help="print the resolved config as YAML (the default)")
    command.add_argument("--schema", action="store_true", help="print the JSON schema")
    _add_talking(commands, shared)
    _add_export(commands, shared)
    _add_export_tasks(commands, shared)
    _add_plan(commands, shared)
    bench_help = "measure speed on this machine beside a plain loop"
    command = commands.add_parser("bench", help=bench_help, description=bench_help)
    command.add_argument("--presets", nargs="+", default=["tiny", "minimind-26m"], choices=preset_names(), metavar="NAME")
    command.add_argument("--seconds", type=float, default=60.0, help="time for each preset's pairs, in s")
    command.add_argument("--compile", action="store_true", help="also measure with torch.compile")
    command.add_argument("--profile", action="store_true", help="also write runs/trace-NAME.json for ui.perfetto.dev")
    command.add_argument("--json", action="store_true", help="print JSON to stdout instead of a table")
    return parser


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


def _add_talking(commands: "argparse._SubParsersAction[_Parser]", shared: _Parser) -> None:
    chat_help = "talk with the trained model in the terminal, or answer each line of a pipe"
    command = commands.add_parser("chat", parents=[shared], help=chat_help, description=chat_help)
    checkpoint_help = "a checkpoint; default: the newest of the run's last stage"
    command.add_argument("--checkpoint", type=Path, metavar="PATH", help=checkpoint_help)
    command.add_argument("--system", metavar="TEXT", help="the conversation's system message")
    _add_sampling(command)
    serve_help = "serve the trained model: OpenAI's API and a chat page"
    command = commands.add_parser("serve", parents=[shared], help=serve_help, description=serve_help)
    command.add_argument("--checkpoint", type=Path, metavar="PATH", help=checkpoint_help)
    command.add_argument("--host", default="127.0.0.1", help="address to listen on; others than loopback need TRAINER_API_KEY")
    command.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000); 0: a free one")


def _add_export(commands: "argparse._SubParsersAction[_Parser]", shared: _Parser) -> None:
    export_help = "write the model as a folder for transformers and vLLM, or as GGUF for llama.cpp"
    command = commands.add_parser("export", parents=[shared], help=export_help, description=export_help)
    command.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="a new folder, or an earlier export of the run"
    )
    command.add_argument("--format", choices=("hf", "gguf"), default="hf", help="hf (the default) or gguf")
    dtypes = ("float32", "bfloat16", "float16")
    command.add_argument("--dtype", choices=dtypes, default="float32", help=f"{', '.join(dtypes)} (default: float32)")
    command.add_argument("--checkpoint", type=Path, metavar="PATH", help="a checkpoint; default: the last stage's newest")


def _add_export_tasks(commands: "argparse._SubParsersAction[_Parser]", shared: _Parser) -> None:
    tasks_help = "write the config's tasks for lm-evaluation-harness; their names to stdout"
    command = commands.add_parser("export-tasks", parents=[shared], help=tasks_help, description=tasks_help)
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder, for lm_eval --include_path")


def _add_plan(commands: "argparse._SubParsersAction[_Parser]", shared: _Parser) -> None:
    plan_help = "predict memory, step time and scaling of each engine on given GPUs"
    command = commands.add_parser("plan", parents=[shared], help=plan_help, description=plan_help)
    command.add_argument("--gpus", type=_positive, metavar="N", help="GPUs in all")
    command.add_argument("--gpus-per-node", type=_positive, default=8, metavar="N", help="GPUs of a node (default: 8)")
    command.add_argument("--gpu", default="h100", metavar="NAME", help=f"one of {', '.join(GPUS)} (default: h100)")
    command.add_argument("--link", default="100GbE", metavar="NAME", help=f"of nodes: {', '.join(LINKS)} (default: 100GbE)")
    command.add_argument("--compare", action="store_true", help="print the predictions beside published figures instead")
    command.add_argument("--json", action="store_true", help="print JSON to stdout instead of a table")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def _shared_options() -> "_Parser":
    shared = _Parser(add_help=False)
    shared.add_argument("--config", type=Path, metavar="FILE", help="a trainer config, or a run file with a trainer section")
    shared.add_argument("--preset", metavar="NAME", help=f"build on a preset: {', '.join(preset_names())}")
    shared.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override, e.g. pretrain.epochs=2")
    shared.add_argument("--use_wandb", action="store_true", help="send events to Weights & Biases")
    shared.add_argument("--wandb_project", metavar="NAME", help="wandb project")
    shared.add_argument("--wandb_run_name", metavar="NAME", help="wandb run name")
    return shared
