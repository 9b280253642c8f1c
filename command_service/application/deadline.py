"""The deadline of what goes beside the writers: its caller hears in time, and what was given up is never sent afterwards."""

import asyncio

from command_service.application.line import overdue
from shared_kernel.errors import DaybookError, Unavailable


class Deadline:
    """Until when, by the loop's clock, a request may be given up; once it is sent its answer is waited for, whatever the time."""

    def __init__(self, at: float) -> None:
        self.at = at
        self.is_sent = False
        self.held_up_by: DaybookError | None = None
        """What the last try failed with, where there was one."""
        self._is_given_up = False

    def send(self) -> None:
        """The last moment to give up. Unavailable `deadline_passed` where time is over, or the caller was told so."""
        if self._is_given_up or asyncio.get_running_loop().time() > self.at:
            raise Unavailable("deadline_passed")
        self.is_sent = True

    def give_up(self) -> None:
        """The caller is told that its time is over, and nothing is sent any more. Unavailable `deadline_passed`."""
        self._is_given_up = True
        raise overdue(self.held_up_by)
