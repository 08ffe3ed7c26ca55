"""What can go wrong, as one exception tree: every error that marey raises on purpose.

A message says what was given, where, what is allowed and what to do. The command line prints it
as one line and exits with the class's `exit_code`.
"""


class MareyError(Exception):
    """Base of every error raised on purpose."""

    exit_code = 1


class SettingError(MareyError):
    """A setting is unknown, out of range or contradicts another; nothing has started."""

    exit_code = 2


class UsageError(MareyError):
    """A command was given arguments that cannot mean anything; nothing has started."""

    exit_code = 2


class InputError(MareyError):
    """A file, folder, table or video cannot be used as given."""


class UnfinishedError(MareyError):
    """What may pass kept some work from its end; the same command goes on with what is left."""

    exit_code = 4


class StoreError(UnfinishedError):
    """An object store, or one file of it, gave no answer for as long as anybody waits."""


class DependencyError(MareyError):
    """An optional package or system library that the request needs is not installed."""


def error_named(kind: str, message: str) -> MareyError:
    """The error that another process raised, told by the name of its class."""
    known = (SettingError, UsageError, InputError, UnfinishedError, StoreError, DependencyError)
    return {error.__name__: error for error in known}.get(kind, MareyError)(message)
