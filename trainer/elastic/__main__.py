"""`python -m trainer.elastic ARGUMENTS`: what a pod's container runs. The arguments are those of `python -m trainer`.

Variables: see trainer.elastic.settings, placement and mpi. Exit codes: see trainer.errors. It imports no torch, so it starts
in a moment and needs little memory beside the processes that train.
"""

import argparse
import os
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from trainer.config import Config
from trainer.config_loading import load_config
from trainer.config_text import STANDARD_INPUT
from trainer.cores import cores
from trainer.elastic.child import adopt_orphans
from trainer.elastic.mpi import HOSTFILE, MpiRank, hosts_of, run_rank
from trainer.elastic.outcome import one_line
from trainer.elastic.output import Output
from trainer.elastic.placement import Placement, placement_of
from trainer.elastic.settings import Settings, termination_log_of
from trainer.elastic.supervising import Supervisor
from trainer.errors import ConfigError, NotReadyError, TrainerError, UsageError
from trainer.run_folder import RunFolder
from trainer.signals import StopRequest

_MOST_MESSAGE_BYTES = 4096
"""What Kubernetes keeps of a termination message."""


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit code of the run, as far as this pod is concerned."""
    stop = StopRequest()
    stop.install()
    output: Output | None = None
    try:
        settings = Settings.of(environment, socket.gethostname())
        placement = placement_of(settings, environment, _hosts(environment))
        if isinstance(placement, MpiRank):
            return run_rank(placement.command(arguments), placement.environment(environment, _threads(placement.local_size)))
        output = Output(settings.pod, settings.state / "logs" / f"{settings.pod}.log")
        _supervise(settings, placement, arguments, environment, stop, output)
        exit_code = 0
    except TrainerError as error:
        exit_code = error.exit_code
        _leave_message(str(error), output, termination_log_of(environment))
    except OSError as error:  # of the volume: a stale handle, a lost connection
        exit_code = NotReadyError.exit_code
        _leave_message(f"{type(error).__name__}: {error}", output, termination_log_of(environment))
    finally:
        if output is not None:
            output.close()
    stop.ignore_from_now_on()
    return exit_code


def _supervise(
    settings: Settings,
    placement: Placement,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    stop: StopRequest,
    output: Output,
) -> None:
    config = _config_of(arguments)
    RunFolder.of(config).check(config)
    if config.num_micro_batches < placement.most_processes:
        raise ConfigError(
            f"{placement.most_processes} processes would share the {config.num_micro_batches} micro-batches of a "
            "step; allow fewer nodes or processes, or lower the micro_batch of the training stage that has fewest"
        )
    output.open()
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="agent-", ignore_cleanup_errors=True) as scratch, stop.deferred():
        supervisor = Supervisor(settings, placement, arguments, config, stop, output, Path(scratch))
        supervisor.run(environment, _threads(placement.processes))


def _config_of(arguments: Sequence[str]) -> Config:
    """The config that the trainer will make of these arguments, but for what changes no result. Raises ConfigError."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", "-c", type=Path)
    parser.add_argument("--preset")
    parser.add_argument("--set", action="append", default=[])
    try:
        options, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    if options.config is not None and str(options.config) == STANDARD_INPUT:
        raise UsageError("--config -: several processes cannot share standard input; give a file")
    if options.config is None and options.preset is None:
        raise UsageError("no config: give --config FILE or --preset NAME")
    return load_config(options.config, options.set, options.preset)


def _hosts(environment: Mapping[str, str]) -> list[str]:
    """mpirun's hosts, where a hostfile is named."""
    try:
        return hosts_of(Path(environment.get(HOSTFILE, "/nonexistent")).read_text(encoding="utf-8"))
    except OSError:
        return []


def _threads(processes: int) -> int:
    """CPU threads of each process of this machine."""
    return max(1, cores() // processes)


def _leave_message(text: str, output: Output | None, path: Path | None) -> None:
    """The last line, and where there is a place for it, the same for the pod's status."""
    if output is not None:
        output.say(text)
    else:
        print(f"trainer: {text}", file=sys.stderr, flush=True)
    if path is None:
        return
    with suppress(OSError):
        path.write_text(one_line(text, _MOST_MESSAGE_BYTES), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
