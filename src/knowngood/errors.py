"""What can go wrong, by whose doing: the caller's settings, the data, the run, or a saved model.

Each error class carries the exit status the command line ends with.
"""


class KnowngoodError(Exception):
    """Base of every error this library raises on purpose."""

    exit_code = 4


class SettingsError(KnowngoodError, ValueError):
    """A setting is unknown, has the wrong type, or contradicts another."""

    exit_code = 2


class DataError(KnowngoodError, ValueError):
    """The data cannot be used as asked: unreadable, contradictory, or too little of it."""

    exit_code = 3


class NotEnoughNormals(DataError):
    """A false-alarm rate was asked for that this many calibration normals cannot promise.

    `missing` is the number of further calibration normals that would do.
    """

    def __init__(self, message: str, missing: int) -> None:
        super().__init__(message)
        self.missing = missing


class BatchWarning(UserWarning):
    """A batch of items is not like the calibration items, so that the false-alarm rate does not hold for it."""


class ArtifactError(KnowngoodError, ValueError):
    """A saved model is damaged, foreign, or written by a newer version."""

    exit_code = 3


class TrainingError(KnowngoodError, RuntimeError):
    """Training stopped: for example a loss that is not finite."""

    exit_code = 4


class PluginError(KnowngoodError, RuntimeError):
    """A plug-in of another package failed; its own error is the cause."""

    exit_code = 4


class OutputError(KnowngoodError, OSError):
    """A file cannot be written: no space, no permission, a read-only file system."""

    exit_code = 4


class StoreError(KnowngoodError):
    """An object store does not answer. Nothing is known of its objects, so none is set aside: the run ends."""

    exit_code = 4


class Interrupted(BaseException):
    """A command was asked to end, by SIGTERM or Ctrl-C. Its exit status is 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by signal {number}")
        self.exit_code = 128 + number
