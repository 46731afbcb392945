from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from sentinel.settings import Daemon, MetricsServer, Settings
from sentinel.settings.root import keys


def test_the_defaults_are_those_that_the_operator_pages_name() -> None:
    settings = Settings()
    assert settings.kafka.bootstrap_servers == ("127.0.0.1:9092",)
    assert (settings.kafka.topics, settings.kafka.group_id) == (("llm.events",), "sentinel")
    assert (settings.kafka.start, settings.kafka.instance_id) == ("earliest", None)
    assert settings.consumer.span == 2048
    assert (settings.metrics.port, settings.api.port, settings.route.port) == (8000, 8003, 8004)
    assert settings.guard.base_url == "http://127.0.0.1:8002"
    assert settings.promotion.mode == "manual"
    assert not settings.findings.include_text
    assert not settings.logging.include_text
    assert settings.served_models == {}


def test_nothing_can_be_changed_afterwards() -> None:
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.runs_dir = settings.adapters.store  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        settings.kafka.group_id = "other"  # type: ignore[misc]


def test_the_environment_is_not_read_behind_the_callers_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA", "RUNS_DIR", "runs_dir", "kafka"):
        monkeypatch.setenv(name, "{}")
    assert Settings() == Settings.model_validate({})


@pytest.mark.parametrize(("instance", "port"), [(0, 8000), (1, 8011), ("7", 8017)])
def test_each_instance_has_a_metrics_port(instance: int | str, port: int) -> None:
    settings = Settings.model_validate({"daemon": {"instance": instance}})
    assert settings.metrics.port == port
    chosen = Settings.model_validate({"daemon": {"instance": instance}, "metrics": {"port": 9000}})
    assert chosen.metrics.port == 9000


def test_the_metrics_port_follows_the_instance_of_ready_made_sections_too() -> None:
    settings = Settings(daemon=Daemon(instance=3), metrics=MetricsServer(host="::1"))
    assert (settings.metrics.host, settings.metrics.port) == ("::1", 8013)
    assert Settings(daemon=Daemon(instance=3), metrics=MetricsServer(port=0)).metrics.port == 0


TLS = {"protocol": "SSL"}
SASL = {"protocol": "SASL_SSL", "mechanism": "PLAIN", "username": "u", "password": "p"}


@pytest.mark.parametrize(
    "security",
    [
        TLS,
        SASL,
        TLS | {"ca_file": "a", "cert_file": "b", "key_file": "c"},
        SASL | {"protocol": "SASL_PLAINTEXT"},
    ],
)
def test_kafka_security_that_belongs_together(security: Mapping[str, str]) -> None:
    assert (
        Settings.model_validate({"kafka": {"security": security}}).kafka.security.protocol
        == security["protocol"]
    )


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (
            "kafka",
            {"security": {"protocol": "SASL_SSL", "username": "u"}},
            "needs mechanism, username and password",
        ),
        ("kafka", {"security": {"password": "p"}}, "not used by protocol PLAINTEXT"),
        ("kafka", {"security": {"ca_file": "x"}}, "not used by protocol PLAINTEXT"),
        ("kafka", {"security": TLS | {"cert_file": "x"}}, "belong together"),
        ("kafka", {"heartbeat_interval_ms": 20_000}, "three times heartbeat_interval_ms"),
        ("kafka", {"topics": ["a", "sentinel.findings"]}, "own output: sentinel.findings"),
        ("kafka", {"findings_topic": "sentinel.promotions"}, "must differ"),
        ("kafka", {"topics": []}, "at least 1 item"),
        ("kafka", {"topics": "a b"}, "249 letters"),
        ("kafka", {"topic_formats": {"other": "otlp"}}, "not consumed: other"),
        ("kafka", {"bootstrap_servers": "localhost"}, "host:port"),
        ("kafka", {"bootstrap_servers": "localhost:99999"}, "host:port"),
        ("kafka", {"group_id": " "}, "at least 1 character"),
        ("consumer", {"max_record_bytes": 2**30}, "max_buffered_bytes must be at least"),
        ("consumer", {"sampling": {"a*": 0}}, "greater than 0"),
        ("consumer", {"sampling": {"a*": 1.5}}, "less than or equal to 1"),
        ("consumer", {"commit_interval_s": math.inf}, "finite"),
        ("consumer", {"in_flight": 0}, "greater than or equal to 1"),
        ("guard", {"base_url": "127.0.0.1:8002"}, "http://"),
        ("guard", {"base_url": "http://"}, "http://"),
        ("guard", {"window_overlap_chars": 13_000}, "at most half"),
        ("guard", {"mode": "fast"}, "'auto', 'batch' or 'single'"),
        ("retention", {"keys_days": 10}, "keys_days >= interactions_days >= texts_days"),
        ("retention", {"texts_days": 95}, "keys_days >= interactions_days >= texts_days"),
        ("database", {"url": "mysql://h/d"}, r"must start with postgresql\+asyncpg://"),
        ("metrics", {"port": 65_536}, "less than or equal to 65535"),
        ("adapters", {"delivery": "resolver_dir"}, "resolver_dir is not supported"),
        ("adapters", {"delivery": "hub"}, "hub is not supported"),
        ("promotion", {"approvals": 0}, "greater than or equal to 1"),
        ("logging", {"level": "LOUD"}, "'DEBUG', 'INFO'"),
        ("served_models", {"a": {"base": "b"}}, "Field required"),
        (
            "served_models",
            {"a": {"public_name": "x", "base": "b"}, "b": {"public_name": "x", "base": "c"}},
            "used twice: x",
        ),
    ],
)
def test_what_cannot_work_is_refused(section: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings.model_validate({section: values})


@pytest.mark.parametrize("scheme", ["postgresql://", "postgres://", "postgresql+asyncpg://"])
def test_the_database_address_names_the_async_driver(scheme: str) -> None:
    settings = Settings.model_validate({"database": {"url": f"{scheme}u:p@h/d"}})
    assert settings.database.url.get_secret_value() == "postgresql+asyncpg://u:p@h/d"


def test_addresses_and_levels_are_normalised() -> None:
    settings = Settings.model_validate(
        {
            "guard": {"base_url": "http://h:1/"},
            "logging": {"level": "debug"},
            "kafka": {"bootstrap_servers": "[::1]:1"},
        }
    )
    assert (settings.guard.base_url, settings.logging.level) == ("http://h:1", "DEBUG")
    assert settings.kafka.bootstrap_servers == ("[::1]:1",)


def test_secrets_do_not_show_in_a_printed_object() -> None:
    settings = Settings.model_validate(
        {"kafka": {"security": SASL}, "database": {"url": "postgresql://u:hunter2@h/d"}}
    )
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings.model_dump())


def test_every_field_is_described_and_every_secret_is_a_secret() -> None:
    assert len(keys()) > 90
    for path, key in keys().items():
        assert key.field.description, path
        if any(word in path[-1] for word in ("password", "token", "api_key")) and path[-1] != "max_tokens":
            assert SecretStr in key.types, path


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        (None, (None, None)),
        ("/mnt/adapters", ("/mnt/adapters", "/mnt/adapters")),
        (["/mnt/one", "/mnt/other"], ("/mnt/one", "/mnt/other")),
        ("/mnt/one,/mnt/other", ("/mnt/one", "/mnt/other")),
    ],
)
def test_each_replica_may_see_the_adapters_elsewhere(written: object, seen: tuple[str | None, ...]) -> None:
    urls = ("http://h:1", "http://h:2")
    served: dict[str, object] = {"public_name": "c", "base": "b", "replicas": urls}
    if written is not None:
        served["remote_prefix"] = written
    settings = Settings.model_validate({"served_models": {"chat": served}})
    assert settings.served_models["chat"].seen_from == tuple(zip(urls, seen, strict=True))
    with pytest.raises(ValidationError, match="3 paths and there are 2 replicas"):
        Settings.model_validate({"served_models": {"chat": served | {"remote_prefix": ["/1", "/2", "/3"]}}})
