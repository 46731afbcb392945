"""The daemon of this configuration, asked over its own health address."""

from __future__ import annotations

from typing import Final

import aiohttp
import orjson

from daemon.doctor.fetching import fetch
from daemon.doctor.report import Finding, fail, ok, warn

_REQUEST_S: Final = 3.0


async def examine_daemon(host: str, port: int) -> list[Finding]:
    """Whether it runs here, and what it says of itself. One that does not run is no fault."""
    if port == 0:
        return []
    # The wildcard is where it listens, not where it is asked.
    place = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    url = f"http://[{place}]:{port}" if ":" in place else f"http://{place}:{port}"
    try:
        status, body = await fetch(f"{url}/readyz", limit_s=_REQUEST_S)
    except aiohttp.ClientConnectorError:
        return [ok("daemon", f"none runs on {host}:{port}")]
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        return [
            fail(
                "daemon",
                f"what listens on {host}:{port} gives no answer: {type(error).__name__}",
                "look whether the daemon hangs (its watchdog would restart it), or another program has metrics.port",
            )
        ]
    problems = _problems(body)
    if status not in {200, 503} or problems is None:
        return [
            fail("daemon", f"another program listens on {host}:{port}", "set metrics.port to a free one"),
        ]
    if status == 200:
        return [ok("daemon", f"runs on {host}:{port} and takes records in")]
    said = "; ".join(problems) or "no reason given"
    return [
        warn("daemon", f"runs on {host}:{port} and takes nothing in: {said}", "see the finding of that part")
    ]


def _problems(body: bytes) -> list[str] | None:
    """What /readyz complains about; None where this is not its answer."""
    try:
        said = orjson.loads(body)
        return [str(problem) for problem in said["problems"]]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
