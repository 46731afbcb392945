"""The limit: an aiohttp server that hands every byte to an aiohttp client and back, and looks at nothing.

python -m benchmarks.proxies.bare_proxy --upstream http://127.0.0.1:8001 --port 9000
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Final

import aiohttp
import uvloop
from aiohttp import web
from yarl import URL

_HOP: Final = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})


async def serve(upstream: str, port: int) -> None:
    """Pass everything on until the process ends."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    ) as session:

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            url = URL(upstream + request.path_qs, encoded=True)
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
            body = await request.read()
            async with session.request(request.method, url, headers=headers, data=body) as reply:
                passed = {name: value for name, value in reply.headers.items() if name.lower() not in _HOP}
                if "event-stream" not in reply.headers.get("Content-Type", ""):
                    return web.Response(status=reply.status, headers=passed, body=await reply.read())
                response = web.StreamResponse(status=reply.status, headers=passed)
                await response.prepare(request)
                async for chunk in reply.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response

        runner = web.ServerRunner(web.Server(handle, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()


def main() -> None:
    """Serve from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    uvloop.run(serve(options.upstream, options.port))


if __name__ == "__main__":
    main()
