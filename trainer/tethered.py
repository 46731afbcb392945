"""Run a command that dies with the process that started this one: ``tethered.py PARENT_PID COMMAND…``.

Linux sends the signal when the *thread* that made the child ends; the trainer makes its children in its main
thread. Run as a file of its own (`python -I -S`), since setting it in a forked child of a process with threads
can deadlock. Source: prctl(2), PR_SET_PDEATHSIG.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_GONE = 75
"""Exit status where the parent has ended before this (EX_TEMPFAIL)."""


def main() -> None:
    """Set the signal and become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # It died before the signal was set: nobody would ever end this.
        sys.exit(_GONE)
    os.execvp(command[0], command)  # noqa: S606 -- the command is the caller's


if __name__ == "__main__":
    main()
