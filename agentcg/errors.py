# SPDX-License-Identifier: Apache-2.0
"""The errors agentcg raises for its callers: what was wrong, where, and what to do next."""

__all__ = ["AgentcgError", "InvalidInput", "Unsupported", "missing_extra"]


class AgentcgError(Exception):
    """Base of every error that is meant to be read by a person or an agent.

    :param message: what was wrong and where, one sentence without a final stop
    :param hint: what to do next, or an empty string
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    @property
    def line(self) -> str:
        """The first line, with the hint: further ones are the log of whatever failed."""
        reason = self.message.partition("\n")[0]
        return f"{reason} ({self.hint})" if self.hint else reason


class InvalidInput(AgentcgError, ValueError):
    """A value from outside is not acceptable.

    :param place: where the value stands, such as ``intent.memoryMax`` or ``default.toml: class.test.pids``
    """

    def __init__(self, place: str, message: str, *, hint: str = "") -> None:
        super().__init__(f"{place}: {message}", hint=hint)
        self.place = place
        self.detail = message


class Unsupported(AgentcgError):
    """This host cannot do what was asked; the hint says how to get it."""


def missing_extra(what: str, error: ModuleNotFoundError, extra: str) -> Unsupported:
    """Return what to raise where a package is missing that is installed with one of agentcg's extras.

    :param what: what needs it, such as ``--metrics``
    """
    return Unsupported(f"{what} needs the Python package {error.name}", hint=f"pip install 'agentcg[{extra}]'")
