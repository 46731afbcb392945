"""Real vLLM on the CPU, from the environment that scripts/setup-vllm makes."""

from __future__ import annotations

import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from sentinel.embedded.tether import TetheredProcess
from tests.support.kafka_server import free_port

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".cache/vllm/bin/python"
READY = ROOT / ".cache/vllm/.setup-stamp"
START_S = 280
"""It takes 40 s on an idle machine."""


def why_no_vllm() -> str | None:
    """What is missing, or None."""
    return None if READY.is_file() else f"no vLLM in {READY.parent}: run scripts/setup-vllm"


def require_vllm() -> None:
    """Skip the test where vLLM is missing; fail it where the environment says that it must not be."""
    reason = why_no_vllm()
    if reason is None:
        return
    if os.environ.get("SENTINEL_TEST_REQUIRE_VLLM") == "1":
        pytest.fail(f"real vLLM is required: {reason}", pytrace=False)
    pytest.skip(reason)


class VllmServer:
    """One API-server process with runtime LoRA loading."""

    def __init__(self, model: Path, folder: Path, *, name: str, max_len: int, max_lora_rank: int = 0) -> None:
        """``max_lora_rank`` 0: without adapters."""
        self._folder = folder
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.log = folder / "vllm.log"
        self._command: list[str | Path] = [
            PYTHON, "-m", "vllm.entrypoints.openai.api_server",
            "--host", "127.0.0.1", "--port", str(self._port), "--model", model, "--served-model-name", name,
            "--dtype", "float32", "--max-model-len", str(max_len), "--enforce-eager", "--api-server-count", "1",
        ]  # fmt: skip
        if max_lora_rank:
            self._command += ["--enable-lora", "--max-loras", "4", "--max-lora-rank", str(max_lora_rank)]
        self._process: TetheredProcess | None = None

    def start(self) -> None:
        """Start and wait until it answers; raises AssertionError with the log's end when it does not."""
        self._process = TetheredProcess(
            self._command,
            log=self.log,
            cwd=self._folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self._folder),
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                "TORCHDYNAMO_DISABLE": "1",  # else the first log-probability compiles for half a minute
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_NO_USAGE_STATS": "1",
            },
        )
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._process.exit_status() is not None or time.monotonic() > deadline:
                self._process.end(signal.SIGTERM, 30)
                self._process = None
                raise AssertionError(f"vLLM did not start:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.5)

    def stop(self) -> None:
        """End it and its engine process; raises RuntimeError with the log where the engine had died before."""
        if self._process is None:
            return
        log = self.log.read_text(errors="replace")
        self._process.end(signal.SIGTERM, 30)
        self._process = None
        died = log.find("EngineCore encountered a fatal error")
        if died >= 0:
            raise RuntimeError(f"vLLM's engine died:\n{log[max(died - 10_000, 0) : died + 500]}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
