"""Every error that a user of the launcher can meet, as one tree. Each leaf has its exit code.

LauncherError
|-- UsageError           2    the command line is wrong
|-- RunFileError        65    a key, a value or a combination of values in the run file
|-- RenderError         65    Helm is missing or refuses the values
|-- RuleError           65    rendered manifests break a rule
|-- ClusterError         1    the API server refused, or cannot be reached
|   |-- NotThereError    1    no such object, or its kind is not served
`-- DeadlineError       75    a wait took too long
"""

from typing import ClassVar


class LauncherError(Exception):
    """Base of all errors whose message is meant for the user: one line, naming what, why and the way out."""

    exit_code: ClassVar[int] = 65


class UsageError(LauncherError):
    """The command line is wrong."""

    exit_code: ClassVar[int] = 2


class RunFileError(LauncherError):
    """The run file breaks a rule."""


class RenderError(LauncherError):
    """Helm is missing, or refuses the chart or its values."""


class RuleError(LauncherError):
    """Rendered manifests would not run well; the message holds each rule's words."""


class ClusterError(LauncherError):
    """The API server refused a request or cannot be reached."""

    exit_code: ClassVar[int] = 1


class NotThereError(ClusterError):
    """There is no such object, or the cluster does not serve its kind."""


class DeadlineError(LauncherError):
    """What was waited for did not come in time; what was started goes on."""

    exit_code: ClassVar[int] = 75
