from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from sentinel.settings import Settings, load
from sentinel.settings.example import example
from sentinel.settings.root import keys
from sentinel.settings.show import MASK, defaults, masked_address, rows, shown

ROOT = Path(__file__).resolve().parents[3]
NOWHERE = Path("/nonexistent/sentinel.yaml")


def test_every_key_is_shown_once_with_where_it_came_from(tmp_path: Path) -> None:
    config = tmp_path / "site.yaml"
    config.write_text(
        "served_models: {demo: {public_name: d, base: b, admin_token: hunter2}}\n"
        "database: {url: 'postgresql://u:hunter2@db.local/d'}\n"
        "guard: {api_key: hunter2, base_url: 'http://me:hunter2@guard.local'}\n"
        "kafka: {security: {protocol: SASL_SSL, mechanism: PLAIN, username: u, password: hunter2}}"
    )
    loaded = load(config, ["daemon.instance=2"], environ={}, default_file=NOWHERE)
    table = {row.key: row for row in rows(loaded)}
    expected = {".".join("demo" if part == "*" else part for part in path) for path in keys()}
    assert set(table) == expected
    assert len(rows(loaded)) == len(expected)
    assert "hunter2" not in repr(table)
    assert table["database.url"].value == f"postgresql+asyncpg://u:{MASK}@db.local/d"
    assert table["guard.base_url"].value == f"http://me:{MASK}@guard.local"
    assert table["kafka.security.password"].value == MASK
    assert table["kafka.security.password"].origin.endswith("site.yaml:4")
    assert table["served_models.demo.admin_token"].value == MASK
    assert (table["metrics.port"].value, table["metrics.port"].origin) == (8012, "daemon.instance")
    assert (table["kafka.group_id"].value, table["kafka.group_id"].origin) == ("sentinel", "default")


def test_defaults_leave_out_what_has_none() -> None:
    assert {row.key for row in defaults()} == {".".join(path) for path in keys() if "*" not in path}
    assert {row.origin for row in defaults()} == {"default"}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql+asyncpg://u@h:1/d", "postgresql+asyncpg://u@h:1/d"),
        ("postgresql+asyncpg://u:hunter2@h:1/d?ssl=on", f"postgresql+asyncpg://u:{MASK}@h:1/d?ssl=on"),
        (
            "postgresql+asyncpg://h/d?user=u&password=hunter2&x=1",
            f"postgresql+asyncpg://h/d?user=u&password={MASK}&x=1",
        ),
        ("postgresql+asyncpg://u:hun@ter2@h/d", f"postgresql+asyncpg://u:{MASK}@h/d"),
        ("postgresql+asyncpg://u:hun/ter2@h/d", MASK),
        ("postgresql+asyncpg://u:hun?ter2@h/d", MASK),
        ("postgresql+asyncpg://u:hun#ter2@h/d", MASK),
        ("postgresql+asyncpg:///d?host=/run/postgresql", MASK),
        ("http://[bad", MASK),
    ],
)
def test_addresses_keep_all_but_their_passwords(text: str, masked: str) -> None:
    assert masked_address(text) == masked
    assert "hun" not in shown(SecretStr(text))


def test_the_example_file_is_the_one_in_the_repository() -> None:
    assert (ROOT / "configs" / "sentinel.yaml").read_text() == example(), (
        "make it anew: sentinel settings example > configs/sentinel.yaml"
    )


def test_the_example_file_changes_nothing_until_it_is_edited() -> None:
    loaded = load(ROOT / "configs" / "sentinel.yaml", environ={})
    assert loaded.settings == Settings()
    assert dict(loaded.origins) == {}


def test_the_example_file_without_its_signs_sets_every_key_to_its_default(tmp_path: Path) -> None:
    text = re.sub(r"^( *)#(\S+:)", r"\1\2", example(), flags=re.MULTILINE)
    config = tmp_path / "whole.yaml"
    config.write_text(text)
    loaded = load(config, environ={}, default_file=NOWHERE)
    named = {tuple("*" if part == "assistant" else part for part in path) for path in loaded.origins}
    assert named == set(keys())
    settings = loaded.settings
    assert settings.model_copy(update={"served_models": {}}) == Settings()
    assert settings.served_models["assistant"].public_name == "assistant"


def test_every_key_of_the_example_is_described() -> None:
    lines = example().splitlines()
    named = [number for number, line in enumerate(lines) if re.match(r"^ *#?[a-z_]+:", line)]
    assert len(named) > len(keys())
    for number in named:
        assert re.match(r"^ *# \S", lines[number - 1]) or "#assistant:" in lines[number], lines[number]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.name)
def test_every_yaml_under_configs_is_valid(path: Path) -> None:
    assert yaml.safe_load(path.read_text()) is not None
