"""A Python environment per compared program, made from its locked requirements.

They live in `.cache/bench/<name>` of the checkout and are made anew when the lock changes. Peers cannot share
the product's environment: they pin other versions of the same libraries.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import ROOT

CACHE = ROOT / ".cache" / "bench"

ASK_VERSIONS = """
import importlib.metadata, json, sys
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""


def prepare(name: str, lock: Path, cache: Path = CACHE) -> Path:
    """Make the environment of a lock file unless it stands already; returns its Python.

    Every distribution is checked against the hashes in `lock`. Raises `subprocess.CalledProcessError` when
    the installer fails; a half-made environment is made again the next time.
    """
    home = cache / name
    python = home / "bin" / "python"
    stamp = home / "lock.sha256"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    home.parent.mkdir(parents=True, exist_ok=True)
    uv = shutil.which("uv")
    if uv:
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    else:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, "--require-hashes", "-r", str(lock)], check=True)
    stamp.write_text(wanted)
    return python


def versions(python: Path, distributions: Sequence[str]) -> dict[str, str]:
    """The installed versions of `distributions` in the environment of `python`."""
    answer = subprocess.run(
        [str(python), "-c", ASK_VERSIONS, *distributions], capture_output=True, text=True, check=True
    )
    found: dict[str, str] = json.loads(answer.stdout)
    return found


def write_lock(requirements: Path, lock: Path) -> None:
    """Resolve `requirements` anew into `lock`, with hashes and without index addresses (needs uv)."""
    subprocess.run(
        [
            "uv", "pip", "compile", "--quiet", "--upgrade", "--python-version", "3.11", "--generate-hashes",
            "--no-emit-index-url", "--custom-compile-command", "python -m benchmarks.peers --lock",
            str(requirements), "--output-file", str(lock),
        ],
        check=True,
    )  # fmt: skip
