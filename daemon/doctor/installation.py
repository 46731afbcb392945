"""Python, packages, their compiled parts, and who owns the product's import names. Standard library only."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from typing import Final

from daemon.doctor.report import Finding, fail, ok, warn

DISTRIBUTION: Final = "sentinel-loop"
OLDEST_PYTHON: Final = (3, 11)
IMPORT_NAMES: Final = ("sentinel", "consumers", "producers", "daemon", "trainer", "migrations")
"""Our top-level packages; some are ordinary words that another distribution may take."""

PACKAGES: Final[Mapping[str, str]] = {
    "aiohttp": "aiohttp",
    "aiokafka": "aiokafka",
    "alembic": "alembic",
    "asyncpg": "asyncpg",
    "cramjam": "cramjam",
    "msgspec": "msgspec",
    "openai": "openai",
    "opentelemetry-proto": "opentelemetry.proto",
    "orjson": "orjson",
    "pgqueuer": "pgqueuer",
    "prometheus-client": "prometheus_client",
    "protobuf": "google.protobuf",
    "pydantic": "pydantic",
    "pydantic-settings": "pydantic_settings",
    "pyyaml": "yaml",
    "rich": "rich",
    "sqlalchemy": "sqlalchemy",
    "stamina": "stamina",
    "structlog": "structlog",
    "typer": "typer",
    "uvloop": "uvloop",
}
"""What the daemon imports: distribution and module."""

COMPILED: Final[Mapping[str, str]] = {
    "aiokafka.record._crecords": "aiokafka decodes several times slower without it",
    "aiohttp._http_parser": "calls of the guard cost several times more without it",
    "asyncpg.protocol.protocol": "asyncpg cannot work without it",
    "msgspec._core": "events cannot be decoded without it",
    "uvloop.loop": "the event loop is slower without it",
}
"""Extension modules that a source build may lack, and what their absence means."""

CODECS: Final = ("snappy", "lz4", "zstd")
"""Batch compressions that producers may choose, all of them from cramjam."""

_REINSTALL: Final = f"reinstall: pip install --force-reinstall {DISTRIBUTION}"


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> list[Finding]:
    """The interpreter."""
    shown = ".".join(map(str, version[:3]))
    if version[:2] < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return [
            fail(
                "python",
                f"Python {shown} is too old",
                f"install {DISTRIBUTION} with Python {oldest} or later",
            )
        ]
    return [ok("python", f"Python {shown}")]


def check_packages(packages: Mapping[str, str] = PACKAGES) -> list[Finding]:
    """Every package that the daemon imports, with its version against the one asked for."""
    wanted = _wanted_versions()
    found: list[Finding] = []
    versions: list[str] = []
    for distribution, module in packages.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            found.append(fail("packages", f"{distribution} cannot be imported: {error}", _REINSTALL))
            continue
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            found.append(
                warn("packages", f"{distribution} is imported from outside its distribution", _REINSTALL)
            )
            continue
        wish = wanted.get(distribution, "")
        if not satisfies(version, wish):
            found.append(
                fail("packages", f"{distribution} {version} is installed, {wish} is needed", _REINSTALL)
            )
        else:
            versions.append(f"{distribution} {version}")
    if versions:
        found.append(ok("packages", ", ".join(versions)))
    return found


def check_compiled(modules: Mapping[str, str] = COMPILED, codecs: Iterable[str] = CODECS) -> list[Finding]:
    """Compiled parts and compression codecs."""
    found: list[Finding] = []
    for module, consequence in modules.items():
        try:
            importlib.import_module(module)
        except ImportError:
            found.append(
                fail(
                    "compiled parts",
                    f"{module} is missing: {consequence}",
                    f"{_REINSTALL}, from wheels, not sources",
                )
            )
    missing = [codec for codec in codecs if not _codec_works(codec)]
    if missing:
        found.append(
            fail(
                "compiled parts",
                f"batches compressed with {', '.join(missing)} cannot be read",
                "install cramjam: pip install --force-reinstall cramjam",
            )
        )
    return found or [ok("compiled parts", f"extensions present; codecs gzip, {', '.join(codecs)}")]


def check_names(
    names: Iterable[str] = IMPORT_NAMES,
    owners: Callable[[], Mapping[str, Sequence[str]]] = metadata.packages_distributions,
) -> list[Finding]:
    """Our import names: another distribution that has one of them would be imported instead, or overwritten."""
    known = owners()
    found: list[Finding] = []
    for name in names:
        others = sorted({_canonical(owner) for owner in known.get(name, ())} - {DISTRIBUTION})
        if others:
            found.append(
                fail(
                    "import names",
                    f"the distribution {', '.join(others)} owns the import name {name!r} too",
                    f"uninstall it, or give {DISTRIBUTION} a virtual environment of its own",
                )
            )
        elif (place := _shadowed(name)) is not None:
            found.append(
                fail(
                    "import names",
                    f"{name!r} is imported from {place}, which is not this installation",
                    "start the command from another folder, or unset PYTHONPATH",
                )
            )
    return found or [ok("import names", "all of this product's import names are its own")]


def examine_installation() -> list[Finding]:
    """All of the above, in order."""
    return [*check_python(), *check_packages(), *check_compiled(), *check_names()]


def satisfies(version: str, wanted: str) -> bool:
    """Whether ``version`` is within ``wanted`` (clauses of ``>=``, ``<``, ``==`` joined by commas).

    Only release numbers are compared, enough for the bounds that this product declares.
    """
    ours = _release(version)
    for clause in filter(None, (part.strip() for part in wanted.split(","))):
        match = re.fullmatch(r"(>=|<=|==|!=|<|>|~=)\s*([\w.]+)", clause)
        if match is None:
            continue
        bound = _release(match[2])
        width = max(len(ours), len(bound))
        a, b = ours + (0,) * (width - len(ours)), bound + (0,) * (width - len(bound))
        holds = {">=": a >= b, "<=": a <= b, "<": a < b, ">": a > b, "==": a == b, "!=": a != b, "~=": a >= b}
        if not holds[match[1]]:
            return False
    return True


def _wanted_versions() -> dict[str, str]:
    wanted: dict[str, str] = {}
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return wanted
    for line in lines:
        requirement, _, marker = line.partition(";")
        match = re.match(r"\s*([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*\(?([^)]*)\)?", requirement)
        if match is not None and "extra" not in marker:
            wanted[_canonical(match[1])] = match[2].strip()
    return wanted


def _codec_works(name: str) -> bool:
    """Whether a batch of that compression can be opened, by a round trip through aiokafka's own function."""
    try:
        codec = importlib.import_module("aiokafka.codec")
    except ImportError:
        return False
    if not getattr(codec, f"has_{name}")():
        return False
    sample = b"sentinel" * 20
    return bytes(getattr(codec, f"{name}_decode")(getattr(codec, f"{name}_encode")(sample))) == sample


def _shadowed(name: str) -> str | None:
    """Where ``name`` comes from, if not from beside this package."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.origin:
        return f"nowhere ({name} cannot be found)" if spec is None else None
    here = importlib.util.find_spec("daemon")
    if here is None or not here.origin:
        return None
    base = here.origin.removesuffix("daemon/__init__.py")
    return None if spec.origin.startswith(base) else spec.origin


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version.rpartition("!")[2])
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
