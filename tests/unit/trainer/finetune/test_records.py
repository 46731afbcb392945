"""What a run writes down about its steps."""

from __future__ import annotations

from pathlib import Path

import orjson

from sentinel.clock import SystemClock
from trainer.finetune.records import METRICS, Records


def test_steps_that_will_be_done_again_are_forgotten_and_so_is_half_a_line(tmp_path: Path) -> None:
    records = Records(tmp_path, SystemClock(), writes=True)
    for step in (1, 2, 3):
        records.metrics(step, {"loss": 1 / step})
    with (tmp_path / METRICS).open("ab") as file:
        file.write(b'{"ts": "2026-')
    records.forget_after(2)
    kept = [orjson.loads(line)["step"] for line in (tmp_path / METRICS).read_bytes().splitlines()]
    assert kept == [1, 2]
