from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from daemon import cli
from daemon.plugins import GROUP

ROOT = Path(__file__).resolve().parents[3]

PLUGIN = '''
from typing import Annotated
import typer
from sentinel.command_line import invocation_of, settings_of
from sentinel.errors import CommandError, ConfigurationError, FatalError, UnavailableError

ERRORS = {"command": CommandError, "configuration": ConfigurationError, "fatal": FatalError, "away": UnavailableError}

def group_id(context: typer.Context, fail: str = "") -> None:
    """Print the consumer group."""
    if fail:
        raise ERRORS[fail]("as asked")
    typer.echo(settings_of(context).kafka.group_id)

app = typer.Typer()

@app.callback()
def top() -> None:
    """Several things."""

@app.command()
def inner(context: typer.Context) -> None:
    typer.echo(settings_of(context).kafka.group_id)

def own(context: typer.Context, config: Annotated[str, typer.Option("--config")] = "") -> None:
    """Has a --config of its own."""
    typer.echo(f"{config} {invocation_of(context).config}")

number = 3
'''

ENTRIES = """
[sentinel.commands]
xgroup = xplugin:group_id
xtop = xplugin:app
xown = xplugin:own
xmissing = xplugin_that_is_absent:app
xattribute = xplugin:absent
xnumber = xplugin:number
xbroken = xbroken:app
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A real distribution beside ours, found the way an installed one is."""
    (tmp_path / "xplugin.py").write_text(PLUGIN)
    (tmp_path / "xbroken.py").write_text("raise RuntimeError('no such device')")
    info = tmp_path / "xplugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: xplugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SENTINEL_CONFIG", str(tmp_path / "site.yaml"))
    (tmp_path / "site.yaml").write_text("kafka: {group_id: file}")
    return tmp_path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return caught.value.code if isinstance(caught.value.code, int) else int(caught.value.code is not None)


@pytest.mark.parametrize(
    ("arguments", "group"),
    [
        (["xgroup"], "file"),
        (["--set", "kafka.group_id=a", "xgroup"], "a"),
        (["xgroup", "--set", "kafka.group_id=a"], "a"),
        (["--set", "kafka.group_id=a", "xgroup", "--set", "kafka.group_id=b"], "b"),
        (["xtop", "inner", "--set", "kafka.group_id=c"], "c"),
        (["xtop", "--set", "kafka.group_id=c", "inner"], "c"),
        (["--config", "other.yaml", "xgroup"], "other"),
        (["xgroup", "--config", "other.yaml"], "other"),
        (["--config", "absent.yaml", "xtop", "inner", "--config", "other.yaml"], "other"),
    ],
)
def test_shared_options_stand_before_or_after_the_subcommand(
    plugins: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    group: str,
) -> None:
    monkeypatch.chdir(plugins)
    (plugins / "other.yaml").write_text("kafka: {group_id: other}")
    assert run(*arguments) == 0
    assert capsys.readouterr().out == f"{group}\n"


def test_an_option_of_the_commands_own_wins(plugins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("xown", "--config", "recipe.yaml") == 0
    assert capsys.readouterr().out == "recipe.yaml None\n"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["xgroup", "--fail", "command"], 2, "error: as asked"),
        (["xgroup", "--fail", "configuration"], 78, "error: as asked"),
        (["xgroup", "--fail", "fatal"], 1, "error: as asked"),
        (["xgroup", "--fail", "away"], 1, "error: as asked"),
        (["xgroup", "--set", "kafka.grup_id=a"], 78, "did you mean kafka.group_id?"),
        (["xgroup", "--wrong"], 2, "No such option"),
        (["xgrop"], 2, "No such command 'xgrop'"),
        (["--wrong"], 2, "No such option"),
    ],
)
def test_errors_end_with_their_status_and_without_a_traceback(
    plugins: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    assert run(*arguments) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    "arguments", [["--debug", "xgroup", "--fail", "fatal"], ["xgroup", "--debug", "--fail", "fatal"]]
)
def test_debug_shows_where_an_error_came_from(
    plugins: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(*arguments) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("xmissing", "ModuleNotFoundError: No module named 'xplugin_that_is_absent'"),
        ("xattribute", "AttributeError"),
        ("xnumber", "TypeError: int is neither a function nor a Typer application"),
        ("xbroken", "RuntimeError: no such device"),
    ],
)
def test_a_broken_plug_in_says_so_and_harms_no_other(
    plugins: Path, capsys: pytest.CaptureFixture[str], name: str, cause: str
) -> None:
    assert run(name, "--any", "thing") == 1
    assert f"`sentinel {name}` cannot be loaded: {cause}" in capsys.readouterr().err
    assert run("--help") == 0
    page = capsys.readouterr().out
    assert "Cannot be loaded" in page
    assert "Print the consumer group." in page
    assert run("xgroup") == 0


def test_a_name_that_two_packages_offer_is_nobodys(
    plugins: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    second = tmp_path_factory.mktemp("second")
    info = second / "yplugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: yplugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sentinel.commands]\nxgroup = xplugin:own\n")
    monkeypatch.syspath_prepend(second)
    assert run("xgroup") == 1
    assert "offered more than once: xplugin:group_id, xplugin:own" in capsys.readouterr().err


def test_version_and_bare_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("sentinel ")
    assert run() in {0, 2}
    assert "Usage: sentinel" in "".join(capsys.readouterr())


def test_settings_show_masks_and_names_origins(
    plugins: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENTINEL_DATABASE__URL", "postgresql://u:hunter2@h/d")
    monkeypatch.setenv("SENTINEL_GUARD__API_KEY", "hunter2")
    assert run("settings", "show", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["database.url"] == {
        "value": "postgresql+asyncpg://u:********@h/d",
        "origin": "environment SENTINEL_DATABASE__URL",
    }
    assert document["kafka.group_id"]["origin"].endswith("site.yaml:1")
    assert run("settings", "show") == 0
    table = capsys.readouterr().out
    assert "hunter2" not in table
    # A value in square brackets is text, not markup.
    assert any(line.split()[:2] == ["kafka.topics", '["llm.events"]'] for line in table.splitlines())
    assert len(table.splitlines()) == len(document) + 1
    assert run("settings", "show", "--changed", "--json") == 0
    assert set(json.loads(capsys.readouterr().out)) == {"database.url", "guard.api_key", "kafka.group_id"}
    assert run("settings", "show", "--defaults", "--json") == 0
    assert json.loads(capsys.readouterr().out)["kafka.group_id"]["value"] == "sentinel"


def test_settings_show_remarks_on_nearly_right_credentials(
    plugins: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = plugins / "credentials"
    folder.mkdir()
    (folder / "databse_url").write_text("postgresql://h/d")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert run("settings", "show") == 0
    assert "did you mean database_url?" in capsys.readouterr().err


def test_settings_example_is_the_file_of_the_repository(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("settings", "example") == 0
    assert capsys.readouterr().out == (ROOT / "configs" / "sentinel.yaml").read_text()


HEAVY = (
    "aiohttp",
    "aiokafka",
    "alembic",
    "asyncpg",
    "openai",
    "pydantic",
    "sqlalchemy",
    "torch",
    "trainer.tiny",
    "yaml",
)


def python(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=environ,
    )


def test_the_help_page_imports_nothing_heavy() -> None:
    """Every registered subcommand is loaded for its line of help: each must be light."""
    code = (
        "import sys\nfrom daemon.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', sorted(set(sys.modules).intersection({HEAVY!r})))"
    )
    done = python("-c", code)
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stderr
    assert "Cannot be loaded" not in done.stdout


def test_every_registered_subcommand_of_ours_loads() -> None:
    ours = [
        entry
        for entry in entry_points(group=GROUP)
        if entry.value.split(".")[0] in {"daemon", "trainer", "producers", "sentinel"}
    ]
    assert "settings" in {entry.name for entry in ours}
    for entry in ours:
        assert callable(entry.load()), entry.name
