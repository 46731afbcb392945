"""The image and the compose file, as far as they can be checked without a container engine."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from sentinel.errors import ConfigurationError
from sentinel.settings import Settings, load

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# A full version, or a digest: a moving tag makes tomorrow's start another program.
PINNED = re.compile(r".+(?::\d+\.\d+(?:\.\d+)?(?:-[a-z0-9-]+)?|@sha256:[0-9a-f]{64})")
OWN_IMAGE = "sentinel-loop:0.1.0"
TRAINER_IMAGE = "sentinel-loop-trainer:0.1.0"


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
    assert set(compose["services"]) == {"kafka", "topics", "postgres", "migrate", "daemon", "trainer"}
    assert compose["services"]["kafka"]["image"].startswith("apache/kafka:")
    assert compose["services"]["postgres"]["image"].startswith("postgres:17")


def test_images_are_pinned(compose: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in compose["services"].items()}
    assert {name: image for name, image in images.items() if not PINNED.fullmatch(image)} == {}
    assert images["daemon"] == images["migrate"] == OWN_IMAGE
    assert images["trainer"] == TRAINER_IMAGE
    assert OWN_IMAGE.rpartition(":")[2] == TRAINER_IMAGE.rpartition(":")[2] == version("sentinel-loop")
    bases = re.findall(r"^(?:FROM (?!\$)(\S+)|ARG PYTHON_IMAGE=(\S+))", DOCKERFILE, re.MULTILINE)
    assert bases
    named = [base for pair in bases for base in pair if base and base not in stages()]
    assert [base for base in named if not PINNED.fullmatch(base)] == []


def test_every_long_running_service_has_a_health_check(compose: dict[str, Any]) -> None:
    once = {name for name, service in compose["services"].items() if service.get("restart") == "no"}
    assert once == {"topics", "migrate"}
    # The trainer has no port: who takes jobs is in the database, and `sentinel doctor` reads it there.
    for name in set(compose["services"]) - once - {"trainer"}:
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


TRAINING = {
    "EVALUATION_URL": "http://evaluation.example:8001",
    "JUDGE_URL": "http://judge.example:8002",
    "JUDGE_NAME": "another-guard",
    "JUDGE_WEIGHTS": "f00",
    "GUARD_WEIGHTS": "ba5",
    "EVALUATION_SETS": '[{"name": "harmful", "kind": "harmful", "path": "/etc/sentinel/sets/harmful.jsonl"}]',
    "EVALUATION_UTILITY": "judge",
    "ADAPTERS_SEEN": "/adapters",
}


def test_the_trainer_starts_only_when_asked_for(compose: dict[str, Any]) -> None:
    services = compose["services"]
    profiled = {name for name, service in services.items() if service.get("profiles")}
    assert profiled == {"trainer"}
    assert services["trainer"]["profiles"] == ["train"]
    assert services["trainer"]["build"]["target"] in stages()
    assert services["trainer"]["command"] == ["trainer"]
    assert services["trainer"]["restart"] == "unless-stopped"


@pytest.mark.parametrize("given", [GIVEN, GIVEN | TRAINING], ids=["defaults", "all"])
def test_the_trainers_environment_makes_valid_settings(
    compose: dict[str, Any], given: dict[str, str], tmp_path: Path
) -> None:
    trainer, daemon = (
        load(
            environ=environment_of(compose["services"][name], given), default_file=tmp_path / "absent"
        ).settings
        for name in ("trainer", "daemon")
    )
    # What they read differently would be promoted into nowhere.
    assert trainer.database == daemon.database
    assert trainer.guard == daemon.guard
    assert trainer.served_models == daemon.served_models
    assert trainer.adapters == daemon.adapters
    assert trainer.runs_dir == daemon.runs_dir
    mounted = {
        Path(target): source
        for source, target, *_ in (
            volume.rsplit(":") for volume in compose["services"]["trainer"]["volumes"][:3]
        )
    }
    assert mounted[trainer.runs_dir] == "runs"
    assert mounted[trainer.adapters.store] == "adapters"
    if given is GIVEN:
        assert (trainer.evaluation.server_url, trainer.evaluation.sets) == (None, ())
        return
    assert trainer.evaluation.server_url == TRAINING["EVALUATION_URL"]
    assert trainer.evaluation.remote_prefix == TRAINING["ADAPTERS_SEEN"]
    assert trainer.served_models["main"].remote_prefix == (TRAINING["ADAPTERS_SEEN"],)
    assert trainer.evaluation.judge.weights != trainer.guard.weights
    assert [source.kind for source in trainer.evaluation.sets] == ["harmful"]
    assert trainer.evaluation.utility == "judge"


def test_what_the_trainer_writes_outlives_its_container(compose: dict[str, Any]) -> None:
    service = compose["services"]["trainer"]
    assert service["read_only"] is True
    named = {volume.split(":")[0] for volume in service["volumes"] if not volume.startswith("${")}
    assert named == {"runs", "adapters", "models"} <= set(compose["volumes"])
    stage = stages()["trainer"]
    for volume in service["volumes"]:
        *_, target = volume.removesuffix(":ro").rsplit(":", 1)
        if volume.split(":")[0] in named:
            # A fresh volume takes the owner of the image's folder; root's could not be written.
            assert f'"{target}"' in stage
            assert re.search(rf"install -d -o sentinel .*{target}\b", stage), target
    # The base comes from the Hub into a folder that can be written.
    assert "HF_HOME=/var/lib/sentinel/models" in stage


def test_the_trainer_has_time_to_stop(compose: dict[str, Any]) -> None:
    grace = int(compose["services"]["trainer"]["stop_grace_period"].removesuffix("s"))
    assert grace >= Settings().training.kill_grace_s + 15


def stages() -> dict[str, str]:
    """The stages of the image's file by their names; the last one has none and is the daemon's."""
    found = {}
    for text in re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]:
        name = re.match(r"\S+ AS (\S+)", text)
        found["" if name is None else name[1]] = text
    return found


@pytest.mark.parametrize("stage", ["", "trainer"], ids=["daemon", "trainer"])
def test_the_images_run_as_nobody(stage: str) -> None:
    assert list(stages())[-1] == ""
    user = re.findall(r"^USER (\S+)", stages()[stage], re.MULTILINE)
    assert user, "the stage names no user"
    assert not user[-1].startswith(("0", "root"))


def test_the_images_install_by_hash() -> None:
    installs = re.findall(r"pip install [^&\n]+", DOCKERFILE)
    assert len(installs) == 5
    # torch alone is named by its version: its build depends on the machine.
    unhashed = [
        install for install in installs if "--require-hashes" not in install and "--no-index" not in install
    ]
    assert [re.findall(r'"(.+)"', install) for install in unhashed] == [["$torch"]]
    assert "torch" not in stages()[""]
    assert "requirements/models.txt" in stages()["build-trainer"]


def test_what_the_image_copies_exists() -> None:
    kept = re.findall(r"^!(\S+?)/?$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert [name for name in kept if not (ROOT / name).exists()] == []
