"""Errors that a user can mend. Each names the thing, its value and the fix; assets show them without a traceback."""

from __future__ import annotations

from bettersynth_assets.errors.redaction import redacted


class UserError(ValueError):
    """Something in the user's files, settings or data is wrong; the message says what it is and how to fix it.

    Secrets are removed from the message, because it is logged, stored and shown.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


class ConfigError(UserError):
    """A profile, recipe or environment variable that cannot be used as it is written."""


class FetchRefusedError(ConfigError):
    """An operator that would fetch or install something; ``words`` go on after the operator's name."""

    def __init__(self, words: str) -> None:
        super().__init__(f"a Data-Juicer operator {words}")
        self.words = words


class SeedError(UserError):
    """A seed file that cannot be read, or that holds too many bad lines to go on."""


class EmptySetError(UserError):
    """A stage that left no rows, where a later stage needs at least one."""


class DeviceError(UserError):
    """A device that was asked for and is not there."""
