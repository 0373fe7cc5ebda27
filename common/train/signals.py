"""Stopping between two steps when the terminal or the cluster asks for it."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import torch
import torch.distributed as dist


class StopRequest:
    """Within the block SIGINT and SIGTERM only set a flag; `agreed()` says whether any process got one.

    A second SIGINT in a single-process run raises KeyboardInterrupt at once; launchers of several processes may send
    it twice, so there it does not. Outside the main thread no handler can be set and signals keep their meaning.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}
        # A group on the CPU of its own: asking every step must not make the GPU wait.
        self._group = dist.new_group(backend="gloo") if dist.is_available() and dist.is_initialized() else None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if self._group is not None:
            dist.destroy_process_group(self._group)  # type: ignore[arg-type]

    def agreed(self) -> bool:
        """Whether any process was asked to stop. Collective: every process must call it after the same step."""
        if self._group is None:
            return self.requested
        flag = torch.tensor([int(self.requested)])
        dist.all_reduce(flag, group=self._group)
        return bool(flag.item())

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT and self._group is None:
            raise KeyboardInterrupt
        self.requested = True
