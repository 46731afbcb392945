"""An installation without the extra ``demo``: the embedded servers say what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("module", "server"),
    [("postgres", "EmbeddedPostgres(pathlib.Path(sys.argv[1]))"), ("broker", "EmbeddedBroker()")],
)
def test_the_error_names_the_extra(tmp_path: Path, module: str, server: str) -> None:
    program = f"import pathlib, sys; from sentinel.embedded.{module} import *; {server}.start()"
    done = subprocess.run(
        # -S leaves out every installed distribution.
        [sys.executable, "-S", "-c", program, str(tmp_path)],
        env={"PYTHONPATH": str(_CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("sentinel.errors.ConfigurationError: ")
    assert "pip install 'sentinel-loop[demo]'" in last
