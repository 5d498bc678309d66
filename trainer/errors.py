"""Every error that a user can meet, as one tree. Each leaf knows its exit code and whether the same command may help.

    TrainerError
    |-- UsageError               2    the command line is wrong
    |-- ConfigError             65    a key, a value or a combination of values in the config
    |-- CorpusError             65    raw text: missing files, bad lines, nothing left
    |-- TokenizerError          65    tokenizer files missing, damaged, or of another vocabulary
    |-- ShardError              65    token shards missing, truncated, or of another tokenizer
    |-- CheckpointError         65    no usable checkpoint, or one of another model or run
    |-- TaskError               65    an evaluation task's file is missing or breaks a rule
    |-- RewardError             65    the function that grpo takes rewards from is missing, raises, or gives no number
    |-- RunFolderError          65    the run folder belongs to another run, or another process works in it
    |-- StorageError            65    the disk is full, read-only or failing
    |-- MissingDependencyError  65    an optional package is not installed
    |-- DivergedError           65    the loss stopped being a number and stayed so
    |-- PeerLostError             1    another process of the run died or fell silent
    |-- BudgetError             75    the restart budget or a deadline is spent
    |-- NotReadyError          166    the other machines of the run cannot be found
    |-- HungError              134    training made no progress for too long and was ended
    |-- KilledError            137    a signal asked us to stop, and there was no time to save
    `-- Preempted              143    a signal asked us to stop; the state is saved

Anything else is a bug in this project: it ends with a traceback and exit code 1.
"""

from typing import ClassVar


class TrainerError(Exception):
    """Base of all errors whose message is meant for the user: one line, naming what, why and the way out."""

    exit_code: ClassVar[int] = 65
    retry_helps: ClassVar[bool] = False


class UsageError(TrainerError):
    """The command line is wrong."""

    exit_code: ClassVar[int] = 2


class ConfigError(TrainerError):
    """A key, a value or a combination of values in the config breaks a rule."""


class CorpusError(TrainerError):
    """Raw text cannot be used: files are missing, too many lines are bad, or nothing is left."""


class TokenizerError(TrainerError):
    """Tokenizer files are missing or damaged, or their vocabulary is not the model's."""


class ShardError(TrainerError):
    """Token shards are missing, truncated, altered, or were made by another tokenizer."""


class CheckpointError(TrainerError):
    """No usable checkpoint, or one that belongs to another model, data set or run."""


class TaskError(TrainerError):
    """An evaluation task's file is missing, breaks a rule, or has nothing that this run may be asked."""


class RewardError(TrainerError):
    """The function that grpo takes rewards from is missing, raises, or gives something that is no number."""


class RunFolderError(TrainerError):
    """The run folder belongs to another run, or another process works in it."""


class StorageError(TrainerError):
    """The disk is full, read-only or failing."""


class MissingDependencyError(TrainerError):
    """An optional package is not installed; the message holds the line that installs it."""


class DivergedError(TrainerError):
    """The loss or its gradient stopped being a finite number and stayed so."""


class BudgetError(TrainerError):
    """The restart budget or a deadline is spent."""

    exit_code: ClassVar[int] = 75


class NotReadyError(TrainerError):
    """The other machines of the run cannot be found, or not enough of them; a later start may find them."""

    exit_code: ClassVar[int] = 166
    """Not 128, which container runtimes say of a container that cannot start."""
    retry_helps: ClassVar[bool] = True


class HungError(TrainerError):
    """Training made no progress for too long and was ended; another start goes on from the last checkpoint."""

    exit_code: ClassVar[int] = 134
    retry_helps: ClassVar[bool] = True


class KilledError(TrainerError):
    """A signal asked the run to stop and there was no time to save: steps since the last checkpoint are done again."""

    exit_code: ClassVar[int] = 137
    retry_helps: ClassVar[bool] = True


class PeerLostError(TrainerError):
    """Another process of the run died or fell silent; a restart goes on from the last checkpoint, or from what is prepared."""

    exit_code: ClassVar[int] = 1
    retry_helps: ClassVar[bool] = True


class Preempted(TrainerError):
    """A signal asked the run to stop and its state is saved; starting it again continues it."""

    exit_code: ClassVar[int] = 143
    retry_helps: ClassVar[bool] = True
