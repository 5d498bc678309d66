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
from typing import TYPE_CHECKING, NoReturn

from trainer.checkpoint.format import MANIFEST, steps_in
from trainer.command_line import make_parser
from trainer.command_parser import any_terminal, completion_script, say, told
from trainer.config import Config, StageName
from trainer.config_help import explain_key, starter
from trainer.config_loading import config_schema, dump_config, load_config
from trainer.config_text import STANDARD_INPUT
from trainer.elastic.process_log import LOG_VARIABLE, divert, note_end
from trainer.errors import CheckpointError, RunFolderError, TrainerError, UsageError
from trainer.events import Failed, Record
from trainer.files import write_file
from trainer.planning.hardware import Cluster, gpu_named, link_named
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


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> NoReturn:
    """Run one command and exit."""
    environment = os.environ if environment is None else environment
    stop = StopRequest()
    stop.install()
    call = _Call(stop, environment)
    exit_code = 0
    tell = say
    if LOG_VARIABLE in environment and divert(environment, is_first=environment.get("RANK", "0") == "0"):
        tell = note_end
    try:
        with any_terminal():
            _command(make_parser().parse_args(arguments), call)
    except (TrainerError, OSError, ModuleNotFoundError) as raised:
        error = told(raised)
        if error is None:
            raise
        exit_code = error.exit_code
        tell(f"trainer: {error}")
        # a folder in which another process works has that one's log: the refusal is not its failure
        if (
            call.session is not None
            and isinstance(raised, TrainerError)
            and not (error.retry_helps or isinstance(error, RunFolderError))
        ):
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
    if options.command == "completion":
        print(completion_script(make_parser(), options.shell))
        return
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
    if options.command == "init":
        _init(options)
        return
    if options.command == "config" and options.explain and options.config is None and options.preset is None:
        print("\n".join(explain_key(load_config(None, options.set), options.explain)))
        return
    if options.command == "status" and options.run is not None:
        options.config = options.run / "config.yaml"
    config = _config(options)
    _check_options(config, options, call)
    if options.command == "plan":
        _print_plan(config, options)
    elif options.command == "config" and options.explain:
        print("\n".join(explain_key(config, options.explain)))
    elif options.command in ("status", "validate"):
        _look(config, options, call)
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


def _init(options: argparse.Namespace) -> None:
    """Write a config to start from. Raises UsageError rather than writing over a file."""
    text = starter(options.preset)
    if options.file is None:
        print(text, end="")
        return
    if options.file.exists():
        raise UsageError(f"{options.file}: is there already; choose another name, or remove it")
    write_file(options.file, text.encode())
    say(f"trainer: {options.file} written; look into it, then: trainer run -c {options.file}")


def _look(config: Config, options: argparse.Namespace, call: _Call) -> None:
    """Tell of a run without changing it. Raises what the run would end with."""
    from trainer.overview import Overview

    if options.command == "validate":
        from trainer.preflight import check_run

        world = World.of(call.environment)
        processes = max(world.size, config.launch.processes)
        check_run(config, config.stages, processes, processes, alone=False)
    overview = Overview.of(config)
    print(overview.to_json() if getattr(options, "json", False) else "\n".join(overview.lines()))
    if options.command == "validate":
        say(f"trainer: all that {', '.join(config.stages)} need is there")


def _check_options(config: Config, options: argparse.Namespace, call: _Call) -> None:
    """What options and config must be together. Raises UsageError, CheckpointError."""
    if options.config is not None and str(options.config) == STANDARD_INPUT:
        if World.of(call.environment).size > 1:
            raise UsageError("--config -: several processes cannot share standard input; give a file")
        if options.command in ("run", "prepare") and any(source.path == "-" for source in config.corpus.sources):
            raise UsageError("--config -: a source of the corpus is read from standard input too; give the config as a file")
    given = getattr(options, "checkpoint", None) or ()
    for path in [given] if isinstance(given, Path) else given:
        example = f"give for example {config.run_folder}/checkpoints/step-00000008"
        if not Path(path).exists():
            raise CheckpointError(f"--checkpoint {path}: no such folder; {example}")
        if not (Path(path) / MANIFEST).exists() and not steps_in(Path(path)):
            raise CheckpointError(f"--checkpoint {path}: holds no checkpoint; {example}")


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
        say(f"trainer: {events}: {trouble}")
