"""Every error a user can meet. Messages name the value, what is allowed, and the next step."""


class LogitboxError(Exception):
    """Base of all errors raised on purpose; its message is written for the user."""


class InputError(LogitboxError, ValueError):
    """An argument has the wrong shape, type or value."""


class DumpError(LogitboxError):
    """A dump cannot be opened, read or written."""


class NotADumpError(DumpError):
    """The path holds no dump."""


class NewerFormatError(DumpError):
    """The dump was written by a newer logitbox than this one."""


class DamagedDumpError(DumpError):
    """Shards that the journal lists are missing, truncated or altered."""


class LockedError(DumpError):
    """Another live Recorder writes this (dump, rank)."""


class WriterError(DumpError):
    """The background writer failed; raised in the training loop at the next call."""
