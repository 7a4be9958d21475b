"""Errors that a user can fix. Messages name the object, its value and the fix; assets show them without traceback."""

from __future__ import annotations

from bettersynth_assets.errors.redaction import redacted


class UserError(ValueError):
    """An error in the user's files, settings or data; the message states the fault and the fix.

    Secrets are removed from the message, because it is logged, stored and displayed.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


class ConfigError(UserError):
    """An invalid profile, recipe or environment variable."""


class FetchRefusedError(ConfigError):
    """An operator tried to download or install something; ``words`` continue the message after the operator's name."""

    def __init__(self, words: str) -> None:
        super().__init__(f"a Data-Juicer operator {words}")
        self.words = words


class SeedError(UserError):
    """A seed file that cannot be read or has too many bad lines."""


class EmptySetError(UserError):
    """A stage produced no rows, but a later stage needs at least one."""


class DeviceError(UserError):
    """A requested device that is not available."""
