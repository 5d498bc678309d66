"""The launcher's command line: parse, call one function, turn errors into one line and an exit code.

Results go to stdout, what a person should know to stderr. The client library is imported by commands that need a cluster.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from k8s.errors import LauncherError, RuleError, UsageError
from k8s.helm import find_helm
from k8s.render import Manifest, dump, render, run_object
from k8s.rules import Finding, check
from k8s.run import Run, load_run
from trainer.command_parser import (
    Parser,
    add_basics,
    add_completion,
    any_terminal,
    completion_script,
    say,
    seconds,
    told,
    unicode_text,
    whole_number,
)
from trainer.config_text import STANDARD_INPUT
from trainer.errors import TrainerError

if TYPE_CHECKING:
    from k8s.control import Runs

DAY_S = 86400.0


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> NoReturn:
    """Run one command and exit."""
    environment = os.environ if environment is None else environment
    code = 0
    try:
        with any_terminal():
            options = _parser().parse_args(arguments)
            code = _COMMANDS[options.command](options, environment)
    except (LauncherError, TrainerError, OSError, ModuleNotFoundError) as raised:
        error = raised if isinstance(raised, LauncherError) else told(raised)
        if error is None:
            raise
        say(f"launcher: {error}")
        code = error.exit_code
    except KeyboardInterrupt:
        say("launcher: stopped looking; the run itself goes on")
        code = 130
    sys.exit(code)


def _rendered(
    options: argparse.Namespace, environment: Mapping[str, str], extra: Sequence[str] = ()
) -> tuple[Run, tuple[Manifest, ...]]:
    """The run and its objects; risks go to stderr. Raises RuleError if a rule is broken."""
    run = load_run(options.file, [*options.set, *extra])
    objects = render(run, options.namespace or "default", find_helm(environment))
    findings = check(objects)
    errors = [finding for finding in findings if finding.level == "error"]
    for finding in findings:
        if finding.level == "risk":
            print(f"risk: {finding}", file=sys.stderr)
    if errors:
        raise RuleError("; ".join(map(str, errors)))
    return run, objects


def _render(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    run, objects = _rendered(options, environment)
    if options.out is None:
        print(dump(objects), end="")
        return 0
    from k8s.identity import write_run

    if not run.values.gitops:
        print(
            "risk: gitops is false: the file carries no digest, and nothing keeps a tool from pruning the run", file=sys.stderr
        )
    path, new = write_run(objects, options.out)
    print(path)
    print(f"{path}: {'new: a commit of it starts this run' if new else 'there already; nothing to start'}", file=sys.stderr)
    return 0


def _runs(options: argparse.Namespace) -> "Runs":
    from k8s.cluster import Cluster
    from k8s.control import Runs

    return Runs(Cluster.connect(options.namespace, options.context, options.kubeconfig, options.request_timeout))


def _runs_of_file(options: argparse.Namespace) -> "Runs":
    """A mistake in the run file is told before the cluster is looked for. Raises RunFileError, ClusterError."""
    if options.file is not None:
        load_run(options.file, options.set)
    return _runs(options)


def _submit(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    runs = _runs_of_file(options)
    options.namespace = runs.cluster.namespace
    _, objects = _rendered(options, environment)
    return _start(runs, objects, options)


def _start(runs: "Runs", objects: Sequence[Manifest], options: argparse.Namespace) -> int:
    for line in runs.submit(objects):
        print(line, file=sys.stderr)
    name = run_object(objects)["metadata"]["name"]
    print(name)
    return 0 if options.detach else _follow(runs, name, options.timeout)


def _follow(runs: "Runs", name: str, timeout_s: float) -> int:
    from k8s.control import is_over
    from k8s.showing import Follower

    with Follower() as follower:
        status = runs.wait(runs.find(name), is_over, timeout_s, follower.show)
    return 0 if status.phase == "Succeeded" else 1


def _status(options: argparse.Namespace, _environment: Mapping[str, str]) -> int:
    from k8s.showing import status_lines

    runs = _runs(options)
    if options.follow:
        return _follow(runs, runs.find(options.run)["metadata"]["name"], options.timeout)
    status = runs.status(runs.find(options.run))
    print(json.dumps(status.to_json()) if options.json else "\n".join(status_lines(status)))
    return 0


def _list(options: argparse.Namespace, _environment: Mapping[str, str]) -> int:
    from k8s.showing import run_table

    runs = _runs(options)
    statuses = [runs.status(run) for run in runs.all()]
    print(json.dumps([status.to_json() for status in statuses]) if options.json else "\n".join(run_table(statuses)))
    return 0


def _logs(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    from k8s.logs import follow_logs, read_logs
    from k8s.volume_logs import volume_logs

    runs = _runs(options)
    run = runs.find(options.run)
    pods = [pod for pod in runs.pods(run) if pod.get("status", {}).get("phase") != "Pending"]
    if options.volume or not pods:
        lines = volume_logs(runs.cluster, run, options.timeout, options.rank)
    elif options.follow:
        lines = follow_logs(runs.cluster, pods, options.timeout, options.since, options.rank)
    else:
        lines = read_logs(runs.cluster, pods, options.since, options.rank)
    for line in lines:
        print(line, flush=options.follow)
    return 0


def _scale(options: argparse.Namespace, _environment: Mapping[str, str]) -> int:
    runs = _runs(options)
    print(runs.scale(runs.find(options.run), options.nodes))
    return 0


def _stop(options: argparse.Namespace, _environment: Mapping[str, str]) -> int:
    runs = _runs(options)
    run = runs.find(options.run)
    print(runs.stop(run))
    if not options.detach:
        runs.wait(run, lambda _: not runs.pods(run), options.timeout, lambda _: None)
        print(f"{run['metadata']['name']}: stopped", file=sys.stderr)
    return 0


def _resume(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    runs = _runs_of_file(options)
    options.namespace = runs.cluster.namespace
    if options.file is None:
        if options.run is None:
            raise UsageError("resume needs a run that was stopped, or -f FILE of one that has ended")
        print(runs.resume(runs.find(options.run)))
        return 0
    from k8s.status import is_finished

    _, objects = _rendered(options, environment)
    live = runs.find(run_object(objects)["metadata"]["name"])
    if not is_finished(live):
        print(runs.resume(live))
        return 0
    attempt = _attempt_of(live) + 1
    _, objects = _rendered(options, environment, [f"attempt={attempt}"])
    runs.ask(objects, but_the_run=True)
    runs.remove(live, options.timeout)
    print(f"{live['metadata']['name']}: attempt {attempt}, from its last checkpoint", file=sys.stderr)
    return _start(runs, objects, options)


def _attempt_of(run: Manifest) -> int:
    from k8s.rules.finding import pod_templates, trainer_container

    for _, template in pod_templates(run):
        for variable in trainer_container(template).get("env", []):
            if variable["name"] == "PRETRAIN_RUN_ATTEMPT":
                return int(variable["value"])
    return 0


def _diff(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    runs = _runs_of_file(options)
    options.namespace = runs.cluster.namespace
    _, objects = _rendered(options, environment)
    text = runs.diff(objects)
    if text:
        print(text)
    return 1 if text else 0


def _doctor(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    from k8s.doctor import examine

    runs = _runs_of_file(options)
    options.namespace = runs.cluster.namespace
    objects: Sequence[Manifest] = _rendered(options, environment)[1] if options.file is not None else ()
    findings = examine(runs.cluster, objects)
    if options.json:
        print(json.dumps([{key: getattr(finding, key) for key in Finding.__slots__} for finding in findings]))
    else:
        for finding in findings:
            print(f"{finding.level}: {finding.code} {finding.where}: {finding.message}; {finding.fix}")
        print(f"{len(findings)} findings in {runs.cluster.context}, namespace {runs.cluster.namespace}", file=sys.stderr)
    return 1 if any(finding.level == "error" for finding in findings) else 0


def _verify(options: argparse.Namespace, _environment: Mapping[str, str]) -> int:
    from k8s.identity import read_run, verify

    if options.path is not None:
        objects = read_run(options.path)
        run = run_object(objects)
        wanted = run["metadata"].get("annotations", {}).get("pretrain-run/config")
        maps = [item for item in objects if item["kind"] == "ConfigMap" and item["metadata"]["name"] == wanted]
        if not maps:
            raise UsageError(f"{options.path}: holds no ConfigMap {wanted}")
        config_map = maps[0]
    elif options.run is not None:
        runs = _runs(options)
        run = runs.find(options.run)
        config_map = runs.cluster.get("ConfigMap", run["metadata"]["annotations"].get("pretrain-run/config", ""), "v1")
    else:
        raise UsageError("verify needs a run, or --path FILE")
    troubles = verify(run, config_map)
    print("\n".join(troubles) if troubles else f"{run['metadata']['name']}: is what its name says")
    return 65 if troubles else 0


def _retire(options: argparse.Namespace, _environment: Mapping[str, str]) -> int:
    from k8s.identity import retirable, run_files
    from k8s.status import is_finished

    runs = _runs(options)
    live = {run["metadata"]["name"]: run for run in runs.all()}
    files = run_files(options.dir)
    files.sort(key=lambda file: live[file.stem]["metadata"]["creationTimestamp"] if file.stem in live else "")
    for file in retirable(files, {name: is_finished(run) for name, run in live.items()}, options.keep):
        if not options.dry_run:
            file.unlink()
        print(file)
    return 0


def _local(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    from k8s.local import local_command

    if str(options.file) == STANDARD_INPUT:
        raise UsageError("local needs a file: the trainer's processes read it themselves")
    run, objects = _rendered(options, environment)
    command, variables = local_command(
        run, run_object(objects)["metadata"]["name"], options.file, options.set, options.processes
    )
    print("launcher: " + " ".join(command), file=sys.stderr, flush=True)
    os.execvpe(command[0], command, {**environment, **variables})


def _completion(options: argparse.Namespace, _environment: Mapping[str, str]) -> int:
    print(completion_script(_parser(), options.shell))
    return 0


_COMMANDS = {
    "completion": _completion,
    "render": _render, "submit": _submit, "status": _status, "list": _list, "logs": _logs, "scale": _scale, "stop": _stop,
    "resume": _resume, "diff": _diff, "doctor": _doctor, "verify": _verify, "retire": _retire, "local": _local,
}  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="launcher", description="A run file to a training run on Kubernetes, and all about it while it lives.")
    add_basics(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    where, waiting = _shared_where(), _shared_waiting()
    named = Parser(add_help=False)
    named.add_argument("run", metavar="RUN", help="its name, its hash, or its base name where that is clear")

    def add(name: str, text: str, *parents: Parser) -> Parser:
        return commands.add_parser(name, parents=[*parents, where], help=text, description=text)

    add("render", "print the manifests, or write them as one file per run", _FileParser(required=True)).add_argument(
        "--out", type=Path, metavar="DIR", help="write DIR/NAME-HASH.yaml if it is not there"
    )
    add("submit", "start the run and follow it", _FileParser(required=True), waiting)
    command = add("status", "phase, nodes, step, loss, speed, and why it waits", named, waiting)
    command.add_argument("--follow", action="store_true", help="until it ends")
    command.add_argument("--json", action="store_true", help="print JSON")
    add("list", "all runs of the namespace").add_argument("--json", action="store_true", help="print JSON")
    command = add("logs", "lines of all ranks, from live pods or from the volume", named, waiting)
    command.add_argument("--follow", action="store_true", help="until the pods end")
    command.add_argument("--rank", type=whole_number(0), metavar="N", help="only this rank's lines")
    command.add_argument("--since", type=whole_number(1), metavar="S", help="only lines of the last S seconds")
    command.add_argument("--volume", action="store_true", help="from the run's volume, although pods are there")
    add("scale", "change the number of nodes of an elastic run", named).add_argument(
        "nodes", type=whole_number(1), help="how many"
    )
    add("stop", "save, then take all pods away", named, waiting)
    command = add(
        "resume", "go on with a stopped run, or with -f FILE with one that has ended", _FileParser(required=False), waiting
    )
    command.add_argument("run", nargs="?", metavar="RUN", help="a run that was stopped")
    add("diff", "what `submit` would change; exit code 1 if anything", _FileParser(required=True))
    command = add("doctor", "what in the cluster would keep runs, or this run, from going well", _FileParser(required=False))
    command.add_argument("--json", action="store_true", help="print JSON")
    command = add("verify", "recompute a run's hash from what its pods really get")
    command.add_argument("run", nargs="?", metavar="RUN", help="a run of the cluster")
    command.add_argument("--path", type=Path, metavar="FILE", help="a rendered file instead")
    command = add("retire", "delete files of runs that have ended")
    command.add_argument("--dir", type=Path, default=Path("runs"), metavar="DIR", help="where `render --out` wrote them")
    command.add_argument("--keep", type=whole_number(0), default=3, metavar="N", help="ended runs to keep (default: 3)")
    command.add_argument("--dry-run", action="store_true", help="only print them")
    command = add("local", "the same run under torchrun on this machine", _FileParser(required=True))
    command.add_argument("--processes", type=whole_number(1), metavar="N", help="instead of processesPerNode")
    add_completion(commands)
    return parser


def _shared_where() -> Parser:
    shared = Parser(add_help=False)
    shared.add_argument("--namespace", "-n", metavar="NAME", help="default: the context's")
    shared.add_argument("--context", metavar="NAME", help="of the kubeconfig; default: its current one")
    shared.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: KUBECONFIG, or the home folder's")
    silence_help = "seconds that the API server may be silent (default: 10, and 30 while it changes something)"
    shared.add_argument("--request-timeout", type=seconds, metavar="S", help=silence_help)
    return shared


class _FileParser(Parser):
    """The options of commands that read a run file."""

    def __init__(self, *, required: bool) -> None:
        super().__init__(add_help=False)
        self.add_argument("--file", "-f", type=Path, required=required, metavar="FILE", help="the run file; -: standard input")
        self.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", type=unicode_text, help="override, e.g. nodes=4"
        )


def _shared_waiting() -> Parser:
    shared = Parser(add_help=False)
    shared.add_argument("--timeout", type=seconds, default=DAY_S, metavar="S", help="seconds to wait (default: a day)")
    shared.add_argument("--detach", action="store_true", help="do not wait")
    return shared
