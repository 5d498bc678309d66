"""The pod's own loop: start the agent, watch it and the run's events, and turn every end into one error or none.

Torch's agent mends failures by itself and never gives up (placement.NO_END); this loop counts them against the budget of the
whole run, ends an agent that must not go on, and starts another where an agent lost its group.

    the run is finished (FINISHED, or DONE)       the end, well
    a process told a failure that stays           the end: its own error, on all pods
    a process ended badly                         one failure of the run for all pods that see it; the agent goes on
    ... after a signal to any process of the run  no failure: all have saved, and meet again without the pod that leaves
    the agent found no others, or lost its store  no failure: another agent, until the join timeout has passed
    the agent ended otherwise                     one failure, another agent
    failures or time of the run are spent         the end: BudgetError, on all pods and at each later start
    a signal to this pod                          the end: Preempted once saved, KilledError after the grace period
    no progress while training for watchdog_s     one failure and the end: HungError; a new pod may get a better machine
"""

import queue
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from trainer.config import TRAINING_STAGES, Config
from trainer.elastic.budget import Budget
from trainer.elastic.child import Child
from trainer.elastic.finish import is_finished
from trainer.elastic.names import wait_for_names
from trainer.elastic.outcome import ProcessEnd, Progress, Tracebacks, error_of, lacks_group, root_cause
from trainer.elastic.output import Output
from trainer.elastic.placement import Placement
from trainer.elastic.settings import Settings
from trainer.errors import HungError, KilledError, NotReadyError, Preempted, StorageError, TrainerError, UsageError
from trainer.events import read_events
from trainer.heartbeat import VARIABLE, Pulse
from trainer.run_folder import RunFolder
from trainer.signals import StopRequest

POLL_S = 0.1
_VOLUME_POLL_S = 1.0
"""How often the shared volume is asked whether another pod has spent the budget."""
_CLOCK_POLL_S = 30.0
_STOP_S = 10.0
"""How long processes may take to end once the run is over for good."""
_DEAF_S = 3.0
"""An agent that waits for others within torch hears no signal; without processes of its own it has nothing to save."""
_TOLD_S = 10.0
"""Another machine's last event may take this long to be seen through a network file system."""
_STEP = re.compile(r"\bstep [\d,]+\b")
"""In a line of a training process: steps or a measure were told."""
_PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Before another agent, by how many have ended since a round began."""


class Supervisor:
    """One pod's part in one run."""

    def __init__(
        self,
        settings: Settings,
        placement: Placement,
        arguments: Sequence[str],
        config: Config,
        stop: StopRequest,
        output: Output,
        scratch: Path,
    ) -> None:
        self._settings = settings
        self._placement = placement
        self._arguments = arguments
        self._config = config
        self._folder = RunFolder.of(config)
        self._stop = stop
        self._output = output
        self._scratch = scratch
        self._budget = Budget(settings.budget, settings.member, settings.max_restarts, settings.deadline_s)
        self._command = arguments[0] if arguments else ""
        self._ended_well = False
        self._progress = Progress()
        self._ends: queue.SimpleQueue[ProcessEnd] = queue.SimpleQueue()
        self._tracebacks = Tracebacks()
        self._offset = 0
        self._attempts = 0
        self._forgiven_round = -1
        now = time.monotonic()
        self._progress_at = self._volume_at = self._clock_at = now
        self._pulse: Pulse | None = None
        self._alone_since: float | None = None
        self._signalled_at: float | None = None
        self._takes_part = False
        self._mute: set[str] = set()

    def run(self, environment: Mapping[str, str], threads: int) -> None:
        """Until the run is over. Raises the TrainerError that this pod ends with. Signals must be deferred meanwhile."""
        if self._is_over():
            self._output.say("this run is finished")
            return
        lost = self._budget.begin()
        if lost:
            self._output.say(f"failure: {lost}")
        self._budget.check_deadline()
        self._read_events()
        self._progress.failure, self._progress.training = None, False  # of earlier lives
        self._budget.note_life(self._progress.rounds, running=True)
        try:
            while not self._is_over():
                wait_for_names(self._placement.names, self._names_timeout_s(), self._stop.raise_if_requested)
                self._attempt(self._placement.environment(environment, threads) | self._watched())
        except TrainerError:
            self._on_volume(lambda: self._budget.note_life(self._progress.rounds, running=False))
            raise
        self._on_volume(lambda: self._budget.note_life(self._progress.rounds, running=False))

    def _is_over(self) -> bool:
        """Whether this command's work is done, by this pod or before."""
        if self._command == "run":  # whose processes do not all end together
            return is_finished(self._config, self._folder)
        done = next((self._folder.done_of(stage) for stage in TRAINING_STAGES if stage == self._command), None)
        return self._ended_well or (done is not None and done.exists())

    def _attempt(self, environment: Mapping[str, str]) -> None:
        """One agent, from its start to its end."""
        self._output.last.clear()
        started, rounds = time.monotonic(), self._progress.rounds
        child = Child(self._placement.command(self._arguments, self._scratch), environment, self._take_line)
        grace_s = _STOP_S
        try:
            while (code := child.poll()) is None:
                time.sleep(POLL_S)
                self._look(child)
            if self._signalled_at is None:
                self._look(child)
        except HungError:
            grace_s = 0.0
            raise
        finally:
            child.stop(grace_s)
        for line in self._tracebacks.rest():
            self._output.write(line)
        if self._signalled_at is not None:
            self._leave()
        if self._progress.rounds > rounds:
            self._alone_since = None
        self._judge(code, started if self._progress.rounds == rounds else time.monotonic())

    def _watched(self) -> dict[str, str]:
        """A new file in which this machine's processes show progress, and the variable that names it."""
        try:
            self._pulse = Pulse(self._scratch / "heartbeat", self._placement.processes)
        except OSError as error:
            self._pulse = None
            self._output.say(f"{error}; the watchdog goes by what the processes tell")
            return {}
        return {VARIABLE: str(self._pulse.path)}

    def _names_timeout_s(self) -> float:
        """The pod that hosts the store may be replaced, and waits for a machine like any other."""
        settings = self._settings
        return settings.dns_timeout_s if self._progress.rounds == 0 else max(settings.dns_timeout_s, settings.join_timeout_s)

    def _take_line(self, line: str) -> None:
        """In the reading thread."""
        for ready in [line] if self._output.is_of_process(line) else self._tracebacks.take(line):
            self._output.write(ready)
        if self._output.is_of_process(line) and _STEP.search(line):
            self._progress_at = time.monotonic()
        end = ProcessEnd.in_line(line)
        if end is not None:
            self._ends.put(end)

    def _look(self, child: Child) -> None:
        """What happened since the last look, and what follows from it. Raises TrainerError where it is the end."""
        now = time.monotonic()
        self._read_events()
        if self._stop.requested:
            self._hand_on_signal(child, now)
            return
        if self._progress.failure is not None:
            raise error_of(self._progress.failure)
        with suppress(queue.Empty):
            while True:
                self._take_end(self._ends.get_nowait())
        if now - self._volume_at >= _VOLUME_POLL_S:
            self._volume_at = now
            self._on_volume(self._budget.check)
        if now - self._clock_at >= _CLOCK_POLL_S:
            self._clock_at = now
            self._on_volume(self._budget.check_deadline)
        self._watch_for_hang(now)

    def _read_events(self) -> None:
        rounds = self._progress.rounds
        for offset, record in read_events(self._folder.events, self._offset):
            self._offset = offset
            self._progress.take(record)
            self._progress_at = time.monotonic()
        if self._progress.rounds > rounds:
            self._attempts = 0
            self._on_volume(lambda: self._budget.note_life(self._progress.rounds, running=True))

    def _take_end(self, end: ProcessEnd) -> None:
        """A process of this pod ended badly; torch's agent starts the next round by itself."""
        self._progress.training = False
        if end.is_usage:
            raise UsageError(root_cause(self._output.last).removeprefix("trainer: ") or end.words(()))
        if not self._is_forgiven(saved=end.saved):
            self._note_failure(end.words(self._output.last))

    def _is_forgiven(self, *, saved: bool) -> bool:
        """Whether an end follows from a signal to some pod. Once a round: what fails before the next one is a failure."""
        if saved:
            return True
        forgiven = self._progress.stopped and self._forgiven_round != self._progress.rounds
        if forgiven:
            self._forgiven_round = self._progress.rounds
        return forgiven

    def _note_failure(self, reason: str) -> None:
        self._output.say(f"failure in round {self._progress.rounds}: {reason}")
        self._on_volume(lambda: self._budget.note_failure(self._progress.rounds, reason))

    def _judge(self, code: int, alone_since: float) -> None:
        """The agent is gone and nobody sent it a signal; if it was for want of others, they are missing since `alone_since`."""
        self._progress.training = False
        self._ended_well = code == 0
        if self._is_over():
            return
        last = list(self._output.last)
        if code == UsageError.exit_code:
            raise UsageError(root_cause(last).removeprefix("trainer: ") or f"the command line is wrong: {self._arguments}")
        if lacks_group(last):
            self._alone_since = self._alone_since or alone_since
            if time.monotonic() - self._alone_since > self._settings.join_timeout_s:
                raise NotReadyError(
                    f"the pods did not find each other within {self._settings.join_timeout_s:.0f} s; are enough running?"
                )
        elif not self._is_forgiven(saved=code == Preempted.exit_code):
            self._note_failure(root_cause(last) or f"the agent ended with code {code} before the run was finished")
        pause_s = _PAUSES_S[min(self._attempts, len(_PAUSES_S) - 1)]
        self._attempts += 1
        self._output.say(f"the agent ended with code {code}; another one starts in {pause_s:g} s")
        self._pause(pause_s)

    def _pause(self, pause_s: float) -> None:
        end = time.monotonic() + pause_s
        while time.monotonic() < end:
            self._stop.raise_if_requested()
            time.sleep(min(POLL_S, pause_s))

    def _hand_on_signal(self, child: Child, now: float) -> None:
        """A signal to this pod: the processes save and end, or are killed when the grace period is over."""
        if self._signalled_at is None:
            self._signalled_at = now
            self._takes_part = child.has_descendants()  # a pod that only waits to join has nothing to save
            self._output.say(f"{self._stop.signal_name}: stopping within {self._settings.grace_s:.0f} s")
            child.signal(self._placement.stop_signal)
        waited_s = now - self._signalled_at
        if waited_s > self._settings.grace_s or (waited_s > _DEAF_S and not child.has_descendants()):
            child.kill()

    def _leave(self) -> None:
        """After a signal to this pod. Raises Preempted if nothing is lost, or KilledError."""
        assert self._signalled_at is not None
        deadline = min(self._signalled_at + self._settings.grace_s, time.monotonic() + _TOLD_S)
        while self._takes_part and self._progress.training and time.monotonic() < deadline:
            time.sleep(POLL_S)
            self._read_events()
        name = self._stop.signal_name
        if self._takes_part and self._progress.training:
            raise KilledError(
                f"{name}: the state was not saved within {self._settings.grace_s:.0f} s; the next start goes on from the last "
                "checkpoint; raise terminationGracePeriodSeconds"
            )
        raise Preempted(f"{name}: stopped, and nothing is lost; start again to go on")

    def _watch_for_hang(self, now: float) -> None:
        """Progress is what the processes do: their events may have no way to the volume, which ends no healthy run."""
        if self._pulse is not None and self._pulse.moved():
            self._progress_at = now
        watchdog_s = self._settings.watchdog_s
        if watchdog_s is None or not self._progress.training or now - self._progress_at < watchdog_s:
            return
        reason = f"training made no progress for {watchdog_s:.0f} s and was ended"
        self._note_failure(reason)
        raise HungError(f"{reason}; the next start goes on from the last checkpoint")

    def _on_volume(self, act: Callable[[], None]) -> None:
        """Do something on the shared volume; training does not end for its trouble. Raises BudgetError."""
        try:
            act()
        except (OSError, StorageError) as error:
            if str(error) not in self._mute:
                self._mute.add(str(error))
                self._output.say(f"{error}; training goes on without the budget's files")
