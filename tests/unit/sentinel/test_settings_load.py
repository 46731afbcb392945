from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.errors import ConfigurationError
from sentinel.settings import Loaded, load, service_manager
from sentinel.settings.document import Reading, parse_value, read_text
from sentinel.settings.layers import credential_names, read_environment
from sentinel.settings.names import nearest, variable_form
from sentinel.settings.root import keys

NOWHERE = Path("/nonexistent/sentinel.yaml")


def loaded(
    tmp_path: Path,
    text: str | None = None,
    *flags: str,
    env: dict[str, str] | None = None,
    credentials: dict[str, str] | None = None,
) -> Loaded:
    config = None
    if text is not None:
        config = tmp_path / "site.yaml"
        config.write_text(text)
    environ = dict(env or {})
    if credentials is not None:
        folder = tmp_path / "credentials"
        folder.mkdir(exist_ok=True)
        for name, content in credentials.items():
            (folder / name).write_text(content)
        environ["CREDENTIALS_DIRECTORY"] = str(folder)
    return load(config, flags, environ=environ, default_file=NOWHERE)


def problems(tmp_path: Path, text: str | None = None, *flags: str, **more: dict[str, str]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, text, *flags, **more)
    return str(caught.value)


def test_each_layer_beats_the_ones_below_it(tmp_path: Path) -> None:
    text = "kafka: {group_id: file}"
    env = {"SENTINEL_KAFKA__GROUP_ID": "environment"}
    credentials = {"kafka_group_id": "credential\n"}
    flag = "kafka.group_id=flag"
    steps = [
        (loaded(tmp_path), "sentinel", None),
        (loaded(tmp_path, text), "file", "site.yaml:1"),
        (loaded(tmp_path, text, credentials=credentials), "credential", "credential kafka_group_id"),
        (
            loaded(tmp_path, text, credentials=credentials, env=env),
            "environment",
            "environment SENTINEL_KAFKA__GROUP_ID",
        ),
        (
            loaded(tmp_path, text, flag, credentials=credentials, env=env),
            "flag",
            "flag --set kafka.group_id",
        ),
    ]
    for result, value, origin in steps:
        assert result.settings.kafka.group_id == value
        named = result.origins.get(("kafka", "group_id"))
        assert named is origin is None or (
            named is not None and origin is not None and named.endswith(origin)
        )


def test_config_file_is_the_flag_then_the_variable_then_the_default(tmp_path: Path) -> None:
    files = {}
    for name in ("flag", "variable", "default"):
        files[name] = tmp_path / f"{name}.yaml"
        files[name].write_text(f"kafka: {{group_id: {name}}}")
    env = {"SENTINEL_CONFIG": str(files["variable"])}
    first = load(files["flag"], environ=env, default_file=files["default"])
    second = load(environ=env, default_file=files["default"])
    third = load(environ={"SENTINEL_CONFIG": ""}, default_file=files["default"])
    assert [r.settings.kafka.group_id for r in (first, second, third)] == ["flag", "variable", "default"]
    assert load(environ={}, default_file=NOWHERE).config_file is None


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_a_named_file_that_is_absent_is_an_error(tmp_path: Path, how: str) -> None:
    absent = tmp_path / "absent.yaml"
    config, environ = (absent, {}) if how == "flag" else (None, {"SENTINEL_CONFIG": str(absent)})
    with pytest.raises(ConfigurationError, match=r"absent\.yaml: cannot be read: No such file"):
        load(config, environ=environ, default_file=NOWHERE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kafka: {bootstrap_server: x}", r"kafka\.bootstrap_server: .*site\.yaml:1\);.* kafka\.bootstrap_servers\?"),
        ("\n\ndatbase:\n  url: x", r"datbase: unknown key \(.*site\.yaml:3\); did you mean database\?"),
        ("kafka:\n  security:\n    pasword: x", r"kafka\.security\.pasword.*site\.yaml:3.*kafka\.security\.password\?"),
        ("bootstrap_servers: x", r"bootstrap_servers: .*did you mean kafka\.bootstrap_servers\?"),
        ("served_models: {a: {public_name: a, base: b, replica: c}}", r"did you mean served_models\.a\.replicas\?"),
        ("on: true", r"on: unknown key"),
        ("1: true", r"1: unknown key"),
    ],
)  # fmt: skip
def test_an_unknown_key_names_its_place_and_the_nearest_known_one(
    tmp_path: Path, text: str, message: str
) -> None:
    assert re.search(message, problems(tmp_path, text))


def test_an_unknown_variable_and_flag_are_errors_at_any_depth(tmp_path: Path) -> None:
    env = {
        "SENTINEL_GROUP_ID": "x",
        "SENTINEL_KAFKA__SECURITY__USRNAME": "x",
        "SENTINEL_API_PORT": "8009",
        "SENTINEL_KAFKA__GROUP_ID__MORE": "x",
    }
    text = problems(tmp_path, None, "guard.bas_url=x", env=env)
    assert "environment SENTINEL_GROUP_ID); did you mean kafka.group_id?" in text
    assert "environment SENTINEL_KAFKA__SECURITY__USRNAME); did you mean kafka.security.username?" in text
    assert "environment SENTINEL_API_PORT); did you mean api.port?" in text
    assert "SENTINEL_KAFKA__GROUP_ID__MORE" in text
    assert "flag --set guard.bas_url); did you mean guard.base_url?" in text
    assert text.startswith("5 problems")


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    env = {
        "SENTINEL_TEST_KAFKA": "x",
        "SENTINEL_TEST_DATABASE_URL": "x",
        "SENTINEL_CONFIG": "",
        "SENTINEL_KAFKA__GROUP_ID": "",
        "SENTINEL_SERVICE_HOST": "10.0.0.1",
        "SENTINEL_API_SERVICE_PORT_HTTP": "80",
        "SENTINEL_PORT": "tcp://10.0.0.1:80",
        "SENTINEL_PORT_80_TCP_ADDR": "10.0.0.1",
        "PATH": "/bin",
    }
    assert dict(loaded(tmp_path, env=env).origins) == {}


def test_everything_wrong_is_said_in_one_pass_and_no_value_is_shown(tmp_path: Path) -> None:
    secret = "hunter2-Zq"
    text = f"""
kafka:
  bootstrap_servers: {secret}
  pasword: {secret}
  security: {{protocol: PLAINTEXT, username: u, password: {secret}}}
database:
  url: mysql://u:{secret}@h/d
  pool_size: {secret}
guard: [{secret}]
policy: {{version: a, version: {secret}}}
"""
    env = {
        "SENTINEL_DATABSE__URL": secret,
        "SENTINEL_CONSUMER__SAMPLING": f"{{{secret}",
        "SENTINEL_RETENTION__KEYS_DAYS": secret,
    }
    message = problems(
        tmp_path,
        text,
        f"{secret}",
        f"consumer.in_flight={secret}",
        env=env,
        credentials={"guard_mode": secret},
    )
    expected = [
        "kafka.bootstrap_servers", "kafka.pasword", "kafka.security", "database.url", "database.pool_size",
        "guard: must be a mapping", "policy.version: written twice", "databse.url", "SENTINEL_CONSUMER__SAMPLING",
        "retention.keys_days", "--set", "consumer.in_flight", "guard.mode",
    ]  # fmt: skip
    for part in expected:
        assert part in message, part
    assert secret not in message.replace(f"--set {secret}", "")


@pytest.mark.parametrize(
    "text", ["a: [1", "password: hunter2\n  x: y: z", "\tkafka: 1", "a: !!python/object:x {}", "&a [*a]"]
)
def test_broken_yaml_is_reported_without_quoting_it(tmp_path: Path, text: str) -> None:
    message = problems(tmp_path, text)
    assert "site.yaml" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("text", ["", "# nothing\n", "kafka:\n", "kafka: ~\nguard: {}"])
def test_empty_files_and_sections_are_fine(tmp_path: Path, text: str) -> None:
    assert loaded(tmp_path, text).settings == loaded(tmp_path).settings


def test_yaml_does_not_guess_at_text(tmp_path: Path) -> None:
    text = """
policy: {version: 1.10}
guard: {name: no, weights: 0123, api_key: 12345e6}
kafka: {group_id: 2026-11-01, instance_id: null, client_id: on}
runs_dir: 2026
"""
    settings = loaded(tmp_path, text).settings
    assert settings.policy.version == "1.10"
    assert (settings.guard.name, settings.guard.weights) == ("no", "0123")
    assert settings.guard.api_key is not None
    assert settings.guard.api_key.get_secret_value() == "12345e6"
    assert (settings.kafka.group_id, settings.kafka.instance_id) == ("2026-11-01", None)
    assert settings.kafka.client_id == "on"
    assert settings.runs_dir == Path("2026")


def test_lists_mappings_and_null_in_variables_and_flags(tmp_path: Path) -> None:
    text = "kafka: {instance_id: a}\nserved_models: {Qwen2.5: {public_name: q, base: b}}"
    env = {
        "SENTINEL_KAFKA__BOOTSTRAP_SERVERS": "a:1, b:2",
        "SENTINEL_KAFKA__TOPICS": '["t.one", "t.two"]',
        "SENTINEL_CONSUMER__SAMPLING": '{"batch*": 0.1}',
        "SENTINEL_SERVED_MODELS__QWEN2_5__ADMIN_TOKEN": "tok",
        "sentinel_kafka__group_id": "not ours: the prefix is upper case",
        "SENTINEL_REPROMPT": "{attempts: 3, concurrency: 2}",
    }
    flags = ("kafka.instance_id=null", "served_models.Qwen2.5.replicas=http://x:1/,http://y:2")
    settings = loaded(tmp_path, text, *flags, env=env).settings
    assert settings.kafka.bootstrap_servers == ("a:1", "b:2")
    assert settings.kafka.topics == ("t.one", "t.two")
    assert settings.kafka.instance_id is None
    assert dict(settings.consumer.sampling) == {"batch*": 0.1}
    assert settings.kafka.group_id == "sentinel"
    assert (settings.reprompt.attempts, settings.reprompt.concurrency) == (3, 2)
    model = settings.served_models["Qwen2.5"]
    assert model.admin_token is not None
    assert model.admin_token.get_secret_value() == "tok"
    assert model.replicas == ("http://x:1", "http://y:2")


def test_credentials_fill_secrets_name_files_and_leave_strangers_alone(tmp_path: Path) -> None:
    text = "served_models: {demo: {public_name: d, base: b}}"
    credentials = {
        "database_url": "postgresql://u:p@h/d\n",
        "served_models_demo_admin_token": "tok\n",
        "kafka_security_ca_file": "-----BEGIN CERTIFICATE-----",
        "guard_api_kee": "x",
        "another_units_file": "x",
    }
    env = {"SENTINEL_KAFKA__SECURITY__PROTOCOL": "SSL"}
    result = loaded(tmp_path, text, credentials=credentials, env=env)
    assert result.settings.database.url.get_secret_value() == "postgresql+asyncpg://u:p@h/d"
    token = result.settings.served_models["demo"].admin_token
    assert token is not None
    assert token.get_secret_value() == "tok"
    assert result.settings.kafka.security.ca_file == tmp_path / "credentials" / "kafka_security_ca_file"
    assert result.notes == ("credential guard_api_kee belongs to no key; did you mean guard_api_key?",)


def test_an_unreadable_credential_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    (folder / "database_url").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match=r"database\.url: cannot be read"):
        load(environ={"CREDENTIALS_DIRECTORY": str(folder)}, default_file=NOWHERE)
    with pytest.raises(ConfigurationError, match="credentials cannot be listed"):
        load(environ={"CREDENTIALS_DIRECTORY": str(tmp_path / "absent")}, default_file=NOWHERE)
    (folder / "database_url").rmdir()
    (folder / "database_url").write_bytes(b"x" * 1_048_577)
    with pytest.raises(ConfigurationError, match="larger than"):
        load(environ={"CREDENTIALS_DIRECTORY": str(folder)}, default_file=NOWHERE)


def test_no_two_keys_share_a_variable_or_a_credential_name() -> None:
    assert len(keys()) > 90
    assert len(credential_names(["m"])) == len(keys())
    assert not [path for path in keys() if any("__" in part for part in path)]


def test_every_key_can_be_set_by_its_variable() -> None:
    for path in keys():
        name = "SENTINEL_" + "__".join(part if part != "*" else "m" for part in path).upper()
        reading = Reading()
        layer = read_environment({name: "1"}, ["m"], reading)
        assert list(layer) == [tuple("m" if part == "*" else part for part in path)], name
        assert reading.problems == []


@settings(deadline=None)
@given(st.sampled_from(sorted(keys())), st.data())
def test_a_key_with_one_letter_lost_is_found_again(path: tuple[str, ...], data: st.DataObject) -> None:
    last = path[-1]
    if len(last) < 5:
        return
    at = data.draw(st.integers(0, len(last) - 1))
    damaged = (*path[:-1], last[:at] + last[at + 1 :])
    known = {".".join(p) for p in keys()}
    if ".".join(damaged) not in known:
        assert nearest(damaged) == ".".join(path)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_as_a_file_loads_or_is_a_configuration_error(text: str) -> None:
    reading = Reading()
    layer = read_text(text, (), "file", reading, numbered=True)
    assert layer == {}, "no key of the settings is that short a random text"


@pytest.mark.parametrize("text", ["2026-13-45", "\x1f", "[" * 5000, "{a: 1", "!!python/object:x {}"])
def test_a_value_that_is_no_yaml_is_a_problem(text: str) -> None:
    reading = Reading()
    assert parse_value(text, "flag", reading) is None
    assert reading.problems == ["flag: not valid YAML or JSON"]


@settings(deadline=None)
@given(st.text())
def test_variable_form_is_stable(name: str) -> None:
    assert variable_form(variable_form(name)) == variable_form(name)


def test_a_number_that_is_none_is_named_once(tmp_path: Path) -> None:
    message = problems(tmp_path, "daemon: {instance: first}")
    assert message.startswith("daemon.instance: Input should be a valid integer")
    assert "\n" not in message


def test_a_section_that_is_no_mapping_is_named(tmp_path: Path) -> None:
    assert "daemon: must be a mapping" in problems(tmp_path, None, "daemon=3")
    assert "site.yaml: is not UTF-8" in problems_of_bytes(tmp_path, b"\xff\xfe")


def problems_of_bytes(tmp_path: Path, content: bytes) -> str:
    config = tmp_path / "site.yaml"
    config.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load(config, environ={})
    return str(caught.value)


def test_the_service_manager_is_heard_only_where_it_speaks_to_this_process() -> None:
    assert service_manager({}).notify_socket is None
    there = service_manager({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000"})
    assert (there.notify_socket, there.watchdog_s) == ("@x", 30.0)
    assert service_manager({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}).watchdog_s is None
    assert service_manager({"WATCHDOG_USEC": "x"}).watchdog_s is None
