"""The doctor's parts that need no server: report, running of checks, installation, files."""

from __future__ import annotations

import asyncio
import json
from collections import namedtuple
from pathlib import Path

import pytest

from daemon.doctor import configuration, installation
from daemon.doctor.examination import Check, Question, ask, examine
from daemon.doctor.report import (
    Finding,
    Level,
    as_json,
    as_lines,
    exit_status,
    fail,
    masked,
    most_severe_first,
    ok,
    warn,
)
from sentinel.settings import Loaded, Settings, load

ALL = [
    ok("a", "fine"),
    fail("c", "gone", "bring it back"),
    warn("b", "soon", "look"),
    fail("b", "broken", "mend"),
]


def levels(found: list[Finding]) -> list[Level]:
    return [finding.level for finding in found]


# -- report


def test_the_most_severe_comes_first() -> None:
    assert [f.message for f in most_severe_first(ALL)] == ["broken", "gone", "soon", "fine"]


@pytest.mark.parametrize(
    ("found", "strict", "status"),
    [
        (ALL, False, 1),
        (ALL[:1], False, 0),
        (ALL[:1], True, 0),
        ([ALL[2]], False, 0),
        ([ALL[2]], True, 1),
        ([], True, 0),
    ],
)
def test_the_exit_status(found: list[Finding], strict: bool, status: int) -> None:
    assert exit_status(found, strict=strict) == status


def test_json_counts_and_carries_every_remedy() -> None:
    made = json.loads(as_json(ALL, status=1))
    assert {key: made[key] for key in ("status", "fail", "warn", "ok")} == {
        "status": 1,
        "fail": 2,
        "warn": 1,
        "ok": 1,
    }
    assert made["findings"][1] == {"level": "fail", "part": "c", "message": "gone", "remedy": "bring it back"}


def test_plain_lines_name_the_remedy() -> None:
    assert "fail c: gone\n     -> bring it back" in as_lines(ALL)


def test_secrets_are_masked_in_message_and_remedy() -> None:
    found = [fail("database", "postgresql://u:word1@db refused p4ss", "try p4ss-long or p4ss")]
    (shown,) = masked(found, ["p4ss", "p4ss-long", "x"])
    assert "word1" not in shown.message
    assert "p4ss" not in shown.message + shown.remedy
    assert "try *** or ***" in shown.remedy


# -- running


async def test_neither_a_hanging_nor_a_broken_check_hides_another() -> None:
    async def hangs() -> list[Finding]:
        await asyncio.sleep(60)
        return []

    async def breaks() -> list[Finding]:
        raise RuntimeError("no such device")

    async def fine() -> list[Finding]:
        return [ok("fine", "yes")]

    found = await examine([Check("slow", hangs, limit_s=0.05), Check("broken", breaks), Check("fine", fine)])
    assert [(f.part, f.level) for f in found] == [
        ("slow", Level.FAIL),
        ("broken", Level.FAIL),
        ("fine", Level.OK),
    ]
    assert "no answer within 0.05 s" in found[0].message
    assert "RuntimeError" in found[1].message
    assert all(f.remedy for f in found[:2])


async def test_questions_share_a_subject_and_go_on_after_a_failure() -> None:
    async def good(subject: list[int]) -> list[Finding]:
        subject.append(len(subject))
        return [ok("good", str(len(subject)))]

    async def bad(subject: list[int]) -> list[Finding]:
        raise KeyError(subject[0])

    found = await ask([], [Question("good", good), Question("bad", bad), Question("good", good)])
    assert [f.message for f in found if f.level is Level.OK] == ["1", "2"]
    assert [f.part for f in found if f.level is Level.FAIL] == ["bad"]


# -- installation


def test_this_installation_is_in_order() -> None:
    assert set(levels(installation.examine_installation())) == {Level.OK}


def test_every_runtime_dependency_is_looked_at() -> None:
    assert set(installation.PACKAGES) == set(installation._wanted_versions())


def test_an_old_python_is_named() -> None:
    (found,) = installation.check_python((3, 10, 4))
    assert found.level is Level.FAIL
    assert "3.10.4" in found.message
    assert "3.11" in found.remedy


def test_a_missing_package_is_named() -> None:
    found = installation.check_packages({"orjson": "orjson", "left-pad": "left_pad_that_is_absent"})
    assert levels(found) == [Level.FAIL, Level.OK]
    assert "left-pad" in found[0].message
    assert "pip install" in found[0].remedy


def test_a_missing_extension_and_codec_are_named() -> None:
    found = installation.check_compiled({"aiokafka.record._absent": "it is slow without it"}, codecs=["zstd"])
    assert levels(found) == [Level.FAIL]
    assert "it is slow without it" in found[0].message


@pytest.mark.parametrize("name", ["daemon", "trainer", "consumers", "migrations"])
def test_another_owner_of_an_import_name_is_named(name: str) -> None:
    owners = {"daemon": ["Sentinel.Loop"], name: ["sentinel-loop", "Other_Thing"]}
    found = installation.check_names(owners=lambda: owners)
    assert levels(found) == [Level.FAIL]
    assert "other-thing" in found[0].message
    assert repr(name) in found[0].message
    assert "uninstall" in found[0].remedy


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("3.12.1", ">=3.12,<4", True),
        ("4.0", ">=3.12,<4", False),
        ("0.14.0", ">=0.14,<0.15", True),
        ("0.15.0.dev1", ">=0.14,<0.15", False),
        ("1.6.9", ">=1.6,<1.7", True),
        ("2.9", ">=2.11", False),
        ("5", "", True),
        ("5.29.0", ">=5.29", True),
    ],
)
def test_bounds(version: str, wanted: str, fits: bool) -> None:
    assert installation.satisfies(version, wanted) is fits


# -- settings and files


def read(tmp_path: Path, text: str, mode: int = 0o600, **variables: str) -> Loaded:
    file = tmp_path / "site.yaml"
    file.write_text(text)
    file.chmod(mode)
    return load(file, environ=variables)


def test_settings_name_their_origins(tmp_path: Path) -> None:
    loaded = read(tmp_path, "kafka: {group_id: x}\nguard: {name: y}", SENTINEL_METRICS__PORT="0")
    (found,) = configuration.check_settings(loaded)
    assert found.level is Level.OK
    assert "1 from the environment, 2 from the settings file" in found.message
    assert str(tmp_path) in found.message


def test_a_secret_as_a_flag_is_warned_about() -> None:
    loaded = load(flags=["guard.api_key=sk-123456"], environ={"SENTINEL_CONFIG": "/dev/null"})
    found = [f for f in configuration.check_settings(loaded) if f.level is Level.WARN]
    assert [f.message.split()[0] for f in found] == ["guard.api_key"]
    assert "sk-123456" not in str(found)


@pytest.mark.parametrize(
    ("mode", "level"), [(0o644, Level.FAIL), (0o640, Level.OK), (0o660, Level.WARN), (0o600, Level.OK)]
)
def test_a_settings_file_with_a_secret_must_not_be_open(tmp_path: Path, mode: int, level: Level) -> None:
    loaded = read(tmp_path, "database: {url: 'postgresql://u:pw@h/d'}", mode)
    (found,) = configuration.check_secret_files(loaded)
    assert found.level is level
    assert level is Level.OK or f"{tmp_path}/site.yaml" in found.remedy


def test_an_open_settings_file_without_a_secret_is_fine(tmp_path: Path) -> None:
    assert (
        configuration.check_secret_files(read(tmp_path, "database: {url: 'postgresql://u@h/d'}", 0o644)) == []
    )


def test_an_open_credential_is_found(tmp_path: Path) -> None:
    (tmp_path / "guard_api_key").write_text("sk-123456")
    (tmp_path / "guard_api_key").chmod(0o604)
    loaded = load(environ={"SENTINEL_CONFIG": "/dev/null", "CREDENTIALS_DIRECTORY": str(tmp_path)})
    (found,) = configuration.check_secret_files(loaded)
    assert found.level is Level.FAIL
    assert found.remedy == f"chmod 0600 {tmp_path}/guard_api_key"


def test_an_open_key_file_is_found(tmp_path: Path) -> None:
    for name in ("key.pem", "cert.pem"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o644)
    text = f"kafka: {{security: {{protocol: SSL, key_file: {tmp_path}/key.pem, cert_file: {tmp_path}/cert.pem}}}}"
    (found,) = configuration.check_secret_files(read(tmp_path, text))
    assert found.level is Level.FAIL
    assert "kafka.security.key_file" in found.message


Usage = namedtuple("Usage", "free")


@pytest.mark.parametrize(("free", "level"), [(1 << 20, Level.WARN), (1 << 40, Level.OK)])
def test_a_full_disk_is_warned_about(tmp_path: Path, free: int, level: Level) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(free)

    (found,) = configuration.check_disk(tmp_path / "not" / "made", usage=usage)
    assert found.level is level
    assert asked == [tmp_path], "the nearest folder that exists"


def test_the_unit_is_found_where_it_is(tmp_path: Path) -> None:
    assert "not installed" in configuration.check_unit([tmp_path])[0].message
    (tmp_path / configuration.UNIT).touch()
    assert str(tmp_path) in configuration.check_unit([tmp_path])[0].message


def test_all_secrets_of_the_settings_are_known() -> None:
    settings = Settings(
        database={"url": "postgresql://u:pw-one@h/d"},
        guard={"api_key": "pw-two"},
        kafka={
            "security": {
                "protocol": "SASL_SSL",
                "mechanism": "PLAIN",
                "username": "u",
                "password": "pw-three",
            }
        },
        served_models={"m": {"public_name": "m", "base": "b", "admin_token": "pw-four"}},
    )
    assert set(configuration.secrets_of(settings)) == {"pw-one", "pw-two", "pw-three", "pw-four"}
