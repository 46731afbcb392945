"""``python -m sentinel.embedded.model_server --model DIR``: prints its address, then serves until a signal."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from sentinel.embedded.model_server.app import ModelServer
from sentinel.embedded.model_server.loading import load
from sentinel.embedded.model_server.threaded import listen, uvicorn_server
from sentinel.errors import EX_CONFIG, ConfigurationError


def main() -> int:
    """Serve one model; the exit status is 1 after a failure of the model, 78 for a wrong configuration."""
    parser = argparse.ArgumentParser(prog="sentinel.embedded.model_server", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--served-name", help="name of the base; default: the folder's name")
    parser.add_argument("--max-model-len", type=int, help="tokens of prompt and answer together")
    parser.add_argument("--max-lora-rank", type=int, default=16)
    parser.add_argument("--max-loras", type=int, default=8)
    parser.add_argument("--max-batch", type=int, default=64, help="sequences decoded together")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument(
        "--admin-token-file", type=Path, help="whoever loads adapters must bear what is in it"
    )
    options = parser.parse_args()
    token = None
    if options.admin_token_file is not None:
        token = options.admin_token_file.read_text(encoding="utf-8").strip()
    with listen(options.host, options.port) as bound:
        try:
            loaded = load(options.model, max_len=options.max_model_len, threads=options.threads)
        except ConfigurationError as error:
            sys.stderr.write(f"{error}\n")
            return EX_CONFIG
        server = ModelServer(
            loaded,
            name=options.served_name or options.model.resolve().name,
            root=options.model,
            max_lora_rank=options.max_lora_rank,
            max_loras=options.max_loras,
            max_batch=options.max_batch,
            admin_token=token,
            on_failure=lambda: setattr(running, "should_exit", True),
        )
        running = uvicorn_server(server)
        host = f"[{options.host}]" if ":" in options.host else options.host
        sys.stdout.write(f"http://{host}:{bound.getsockname()[1]}\n")
        sys.stdout.flush()
        asyncio.run(running.serve(sockets=[bound]))
    if server.engine.failure is not None:
        sys.stderr.write(f"{server.engine.failure}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
