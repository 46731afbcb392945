"""The configurations for several processes are ones that accelerate reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel.resources import data_path

FILES = sorted(data_path("configs", "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_takes_it(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    # It refuses keys that it does not know.
    loaded = load_config_from_file(str(path))
    assert loaded.num_processes == 2
    assert loaded.distributed_type.value == {"ddp": "MULTI_GPU", "fsdp": "FSDP"}[path.stem]
    # The recipe's precision decides, but for FSDP, which casts what it shards.
    assert loaded.mixed_precision == ("bf16" if path.stem == "fsdp" else "no")


def test_there_is_one_of_each() -> None:
    assert [path.stem for path in FILES] == ["ddp", "fsdp"]
