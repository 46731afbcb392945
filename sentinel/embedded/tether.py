"""Children that end with their owner, however the owner ends.

A process that is killed cannot clean up, so the child itself must notice. Linux's parent-death signal is
bound to the *thread* that started the child (it fires when a worker thread ends), therefore a pipe is used:
the owner holds its write end, the kernel closes it with the owner, and a shell waiting on the read end then
signals the child. The shell costs one small process and works on every POSIX system.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

# $0 is the signal's name, $$ stays the pid of the outer shell, which becomes the child by `exec`. The waiting
# shell is detached by a second fork, so that it is no child of a server that counts its own children. A line
# on the pipe means "the child has ended": without it a late signal could hit a process that reused the pid.
_SCRIPT: Final = (
    'exec 3<&0 </dev/null; ({ read -r _ <&3 || kill -s "$0" $$; } >/dev/null 2>&1 &); exec 3<&- "$@"'
)

MINIMAL_ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
"""What a server is started with: settings of the user's shell (PGDATA, JAVA_TOOL_OPTIONS) change nothing."""


class TetheredProcess:
    """One child process that receives ``on_owner_death`` when this process is gone.

    ``pid`` is the child's own, so signals sent to it need no detour.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        on_owner_death: str = "TERM",
        cwd: Path | None = None,
        env: Mapping[str, str] = MINIMAL_ENVIRONMENT,
        user: int | None = None,
        group: int | None = None,
    ) -> None:
        """Start ``command`` with both outputs appended to ``log``.

        ``on_owner_death`` is a POSIX signal name without ``SIG``. ``user`` and ``group`` (ids) drop
        privileges before anything is executed.

        Raises:
            OSError: the command, the folder or the log cannot be opened.
        """
        with log.open("ab") as output:
            self._popen: subprocess.Popen[bytes] = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, on_owner_death, *map(str, command)],
                stdin=subprocess.PIPE,
                bufsize=0,  # a buffered pipe whose reader is gone cannot be closed without an error
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=dict(env),
                # A Ctrl-C in the owner's terminal is for the owner, which stops its children in order.
                start_new_session=True,
                user=user,
                group=group,
                extra_groups=None if group is None else [],
            )

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._popen.pid

    def exit_status(self) -> int | None:
        """The status once it has ended (negative: the signal), ``None`` while it runs. Never blocks."""
        return self._popen.poll()

    def signal(self, number: int) -> None:
        """Send a signal; a child that has ended is left alone."""
        self._popen.send_signal(number)

    def end(self, number: int, timeout: float) -> None:
        """Send ``number`` (a frozen child is woken first) and SIGKILL if that took over ``timeout`` seconds."""
        self.signal(signal.SIGCONT)
        self.signal(number)
        if not self.wait(timeout):
            self.signal(signal.SIGKILL)
            self.wait(timeout)

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds; whether it has ended."""
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout)
            self._release()
            return True
        return False

    def _release(self) -> None:
        pipe: IO[bytes] | None = self._popen.stdin
        if pipe is None or pipe.closed:
            return
        # The waiting shell may be gone already (killed with everything else).
        with suppress(BrokenPipeError):
            pipe.write(b"\n")
        pipe.close()
