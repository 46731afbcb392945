"""The image and the compose file, as far as they can be checked without a container engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sentinel.errors import ConfigurationError
from sentinel.settings import load

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# A full version, or a digest: a moving tag makes tomorrow's start another program.
PINNED = re.compile(r".+(?::\d+\.\d+(?:\.\d+)?(?:-[a-z0-9-]+)?|@sha256:[0-9a-f]{64})")
OWN_IMAGE = "sentinel-loop:0.1.0"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def interpolate(text: str, given: dict[str, str]) -> str:
    """What compose makes of `${NAME}`, `${NAME:-default}` and `${NAME:?message}`."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match["name"], match["operator"], match["rest"]
        if given.get(name):
            return given[name]
        if operator == ":-":
            return str(rest)
        raise KeyError(name)

    return re.sub(r"\$\{(?P<name>\w+)(?:(?P<operator>:[-?])(?P<rest>[^}]*))?\}", value, text)


GIVEN = {
    "POSTGRES_PASSWORD": "s3cret",
    "GUARD_URL": "http://guard.example:8002",
    "MODEL_URL": "http://model.example:8001",
    "MODEL_NAME": "assistant",
}


def environment_of(service: dict[str, Any], given: dict[str, str]) -> dict[str, str]:
    return {name: interpolate(str(value), given) for name, value in service.get("environment", {}).items()}


def test_the_parts_are_there(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"kafka", "topics", "postgres", "migrate", "daemon"}
    assert compose["services"]["kafka"]["image"].startswith("apache/kafka:")
    assert compose["services"]["postgres"]["image"].startswith("postgres:17")


def test_images_are_pinned(compose: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in compose["services"].items()}
    assert {name: image for name, image in images.items() if not PINNED.fullmatch(image)} == {}
    assert images["daemon"] == images["migrate"] == OWN_IMAGE
    bases = re.findall(r"^(?:FROM (?!\$)(\S+)|ARG PYTHON_IMAGE=(\S+))", DOCKERFILE, re.MULTILINE)
    assert bases
    assert [base for pair in bases for base in pair if base and not PINNED.fullmatch(base)] == []


def test_every_long_running_service_has_a_health_check(compose: dict[str, Any]) -> None:
    once = {name for name, service in compose["services"].items() if service.get("restart") == "no"}
    assert once == {"topics", "migrate"}
    for name in set(compose["services"]) - once:
        check = compose["services"][name]["healthcheck"]
        assert check["test"][0] == "CMD", name
        assert {"interval", "timeout", "retries"} <= set(check), name


def test_dependencies_wait_for_what_they_need(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for needed, how in service.get("depends_on", {}).items():
            runs_once = compose["services"][needed].get("restart") == "no"
            expected = "service_completed_successfully" if runs_once else "service_healthy"
            assert how["condition"] == expected, f"{name} -> {needed}"


@pytest.mark.parametrize("service", ["daemon", "migrate"])
def test_environment_makes_valid_settings(compose: dict[str, Any], service: str, tmp_path: Path) -> None:
    environ = environment_of(compose["services"][service], GIVEN)
    assert [name for name in environ if not name.startswith("SENTINEL_")] == []
    loaded = load(environ=environ, default_file=tmp_path / "absent.yaml")
    assert loaded.settings.kafka.bootstrap_servers == ("kafka:9092",)
    assert loaded.settings.guard.base_url == GIVEN["GUARD_URL"]
    assert loaded.settings.served_models["main"].replicas == (GIVEN["MODEL_URL"],)
    assert loaded.settings.database.url.get_secret_value().endswith("sentinel:s3cret@postgres:5432/sentinel")
    # 127.0.0.1, the default, would make the published port answer nobody.
    assert loaded.settings.metrics.host == "0.0.0.0"
    port = loaded.settings.metrics.port
    assert compose["services"]["daemon"]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_an_unknown_variable_would_be_seen(compose: dict[str, Any], tmp_path: Path) -> None:
    environ = environment_of(compose["services"]["daemon"], GIVEN) | {
        "SENTINEL_KAFKA__BOOTSTRAP_SERVER": "kafka:9092"
    }
    with pytest.raises(ConfigurationError, match=r"kafka\.bootstrap_servers"):
        load(environ=environ, default_file=tmp_path / "absent.yaml")


@pytest.mark.parametrize("missing", sorted(GIVEN))
def test_what_has_no_default_is_asked_for(compose: dict[str, Any], missing: str) -> None:
    with pytest.raises(KeyError, match=missing):
        environment_of(compose["services"]["daemon"], {k: v for k, v in GIVEN.items() if k != missing})


def test_the_daemon_has_time_to_drain(compose: dict[str, Any], tmp_path: Path) -> None:
    consumer = load(environ={}, default_file=tmp_path / "absent.yaml").settings.consumer
    grace = int(compose["services"]["daemon"]["stop_grace_period"].removesuffix("s"))
    assert grace > consumer.stop_intake_s + consumer.drain_s + consumer.flush_s


def test_the_image_runs_as_nobody_and_installs_by_hash() -> None:
    final = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    user = re.findall(r"^USER (\S+)", final, re.MULTILINE)
    assert user, "the last stage names no user"
    assert not user[-1].startswith(("0", "root"))
    installs = re.findall(r"pip install [^&\n]+", DOCKERFILE)
    assert len(installs) == 3
    for install in installs:
        assert "--require-hashes" in install or "--no-index" in install, install


def test_what_the_image_copies_exists() -> None:
    kept = re.findall(r"^!(\S+?)/?$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert [name for name in kept if not (ROOT / name).exists()] == []
