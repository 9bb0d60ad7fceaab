"""Where an agent's trials run: a supervised process, or this one."""

from collections.abc import Mapping
from typing import Any, Protocol

from disttune.runtime.supervisor import Death


class TrialHost(Protocol):
    """A trial process under supervision, or its stand-in within this process."""

    memory_limit_bytes: int | None

    def start(self) -> None: ...

    def descriptors(self) -> list[int]: ...

    def send(self, message: object) -> None: ...

    def poll(self) -> tuple[list[Any], Death | None]: ...

    def kill(self, status: str, reason: str) -> Death: ...

    def take_log(self) -> str: ...

    def mark_tail(self) -> None: ...

    def tail(self) -> str: ...

    def close(self) -> None: ...


def inline_host(handed: Mapping[str, Any] | None) -> TrialHost:
    """Trials within this process; it brings onnxruntime, which an agent otherwise does without."""
    from disttune.runtime.inline import InlineHost

    return InlineHost(handed)
