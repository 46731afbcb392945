"""``sentinel train gate``: decide on a candidate, verify a verdict, make a key, look at a policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sentinel.command_line import settings_of
from sentinel.errors import CommandError

if TYPE_CHECKING:
    import asyncpg

    from sentinel.settings import Settings
    from sentinel.store.tries import Try
    from trainer.evidence import Evidence
    from trainer.gate.policy import GatePolicy
    from trainer.gate.report import GateReport

    Connection = asyncpg.Connection[Any]

app = typer.Typer(no_args_is_help=True, help="Whether a candidate may go into service.")

EX_NO = 1
"""Exit status of a no: of `decide` where the candidate does not pass, of `verify` where something is wrong."""


@app.callback()
def gate() -> None:
    """Whether a candidate may go into service."""


@app.command()
def decide(
    context: typer.Context,
    evidence_file: Annotated[
        Path, typer.Argument(metavar="EVIDENCE", help="evidence.json of an evaluation, or its folder.")
    ],
    policy: Annotated[
        str | None, typer.Option(help="Shipped policy or file; else gate.policy.", metavar="NAME|FILE")
    ] = None,
    family: Annotated[str, typer.Option(help="Family that the run was started for.")] = "",
    what_if: Annotated[
        int | None,
        typer.Option(
            "--what-if", min=1, metavar="K", help="Only print what try K would give; no database, no bundle."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
) -> None:
    """Decide on an evaluated candidate, write its signed bundle, store the report.

    The try is counted in the database; the candidate keeps the number that it got before it was asked. The bundle goes
    to the folder gate/ beside the evaluation's. Of a run, policy and family must be those that it wrote down before
    training. Exit status: 0 pass, 1 fail or inconclusive.

    Example: sentinel train gate decide runs/chat-1a2b3c4d/evaluation
    """
    from trainer.gate import decision
    from trainer.gate.policy import load_policy

    settings = settings_of(context)
    rules = load_policy(policy or settings.gate.policy)
    file = evidence_file / "evidence.json" if evidence_file.is_dir() else evidence_file
    evidence = _read(file)
    if what_if is not None:
        report = decision.decide(evidence, rules, _try(evidence, what_if), family=family)
    else:
        report = _decide_and_store(settings, evidence, file, rules, family)
    _show(report, as_json)
    if not report.passed:
        raise typer.Exit(EX_NO)


@app.command()
def verify(
    context: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="bundle.json, or the folder that holds it.")],
    public_key: Annotated[
        list[Path] | None,
        typer.Option(
            "--public-key", metavar="FILE", help="Key that must have signed (PEM or base64); repeatable."
        ),
    ] = None,
    outputs: Annotated[
        list[Path] | None, typer.Option("--outputs", metavar="DIR", help="Where raw answers lie; repeatable.")
    ] = None,
) -> None:
    """Check a bundle and decide again on its evidence: no network, no database, no model.

    Without --public-key the keys of gate.public_keys and the own signing key are trusted; where there are none, the
    signature is checked, and it is said that nobody vouches for the signer. Exit status: 0 verified, 1 not.

    Example: sentinel train gate verify runs/chat-1a2b3c4d/gate --public-key gate.pub
    """
    from trainer.gate.signing import read_public_key, trusted_keys
    from trainer.gate.tables import show, table
    from trainer.gate.verification import verify_bundle

    trusted = (
        tuple(read_public_key(path) for path in public_key)
        if public_key
        else trusted_keys(settings_of(context))
    )
    found = verify_bundle(bundle, trusted=trusted or None, folders=outputs or ())
    made = table(f"{found.path} sha256 {found.sha256}", ("", "checked", "what"))
    for finding in found.findings:
        made.add_row({True: "ok", False: "WRONG", None: "-"}[finding.holds], finding.name, finding.text)
    show(made)
    report = found.report
    typer.echo(
        f"{'verified' if found.verified else 'NOT verified'}: {report.candidate} {report.verdict.value},"
        f" try {report.k}, level {report.level:.3g}"
    )
    if not found.verified:
        raise typer.Exit(EX_NO)


@app.command()
def keygen(
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where the private key goes (mode 0600).")
    ],
) -> None:
    """Make an Ed25519 key for gate.signing_key_file and print its public key, for gate.public_keys elsewhere.

    A file that is there already is never replaced.

    Example: sentinel train gate keygen --out /etc/sentinel/gate-signing-key.pem > gate.pub
    """
    from trainer.gate.signing import make_key

    typer.echo(make_key(out))


@app.command()
def policy(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Argument(metavar="NAME|FILE", help="Shipped policy or file; else gate.policy.")
    ] = None,
) -> None:
    """Check a policy and print every value, its hash, and the level of each try.

    Example: sentinel train gate policy demo
    """
    from sentinel.store.tries import spent
    from trainer.gate.policy import load_policy
    from trainer.gate.tables import show, table

    found = load_policy(source or settings_of(context).gate.policy)
    made = table(f"{found.name} sha256 {found.sha256}", ("key", "value"))
    for key, value in _flat(found.model_dump(mode="json")):
        made.add_row(key, str(value))
    show(made)
    levels = (f"{k}: {spent(found.alpha, k):.3g}" for k in range(1, found.max_tries + 1))
    typer.echo(f"level of try {', '.join(levels)}")


@app.command()
def power(
    prompts: Annotated[int, typer.Argument(min=1, help="Benign prompts that are asked.")] = 1000,
    margin: Annotated[float, typer.Option(min=0.001, max=0.5, help="Margin, as a share.")] = 0.02,
    differing: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="Share of the prompts on which the two models differ.")
    ] = 0.04,
    alpha: Annotated[float, typer.Option(min=0.001, max=0.2, help="The policy's alpha.")] = 0.05,
) -> None:
    """How likely an equally good candidate is found "not worse", by try, and how many prompts 80 % takes.

    Example: sentinel train gate power 1000 --margin 0.02
    """
    from trainer.gate import simulation
    from trainer.gate.tables import show, table

    made = table(
        f"{prompts} prompts, margin {margin}, differing {differing}, alpha {alpha} (exact)",
        ("try", "power", "prompts for 80 %"),
    )
    for k in (1, 2, 3, 5, 10, 20):
        made.add_row(
            str(k),
            f"{simulation.power(prompts, margin, differing, k, alpha=alpha):.3f}",
            f"{simulation.needed(margin, differing, k, alpha=alpha):,}",
        )
    show(made)


def _read(file: Path) -> Evidence:
    import msgspec

    from trainer.evidence import Evidence

    try:
        return msgspec.json.decode(file.read_bytes(), type=Evidence)
    except OSError as error:
        raise CommandError(
            f"cannot read {file} ({error.strerror}): `sentinel train evaluate` writes it"
        ) from error
    except msgspec.DecodeError as error:
        raise CommandError(f"{file} is no evidence: {error}") from error


def _try(evidence: Evidence, k: int) -> Try:
    from sentinel.store.tries import Try

    return Try(
        served_model=evidence.served_model,
        version=evidence.sets_version,
        candidate_sha256=evidence.candidate_sha256,
        k=k,
    )


def _decide_and_store(
    settings: Settings, evidence: Evidence, file: Path, rules: GatePolicy, family: str
) -> GateReport:
    from sentinel.store.tries import next_try
    from trainer.connections import with_database
    from trainer.gate import decision
    from trainer.gate.bundle import write_bundle
    from trainer.gate.signing import signing_key
    from trainer.gate.storing import store_report
    from trainer.preregistration import Hypothesis, written

    key = signing_key(settings)

    async def work(conn: Connection) -> GateReport:
        if (before := await written(conn, evidence.run_id)) is not None:
            # Of a run the question was fixed before training; another policy by hand would be another question.
            before.require_same(
                Hypothesis(
                    safer_than=evidence.incumbent,
                    family=family,
                    policy=rules.name,
                    policy_sha256=rules.sha256,
                    sets_version=evidence.sets_version,
                )
            )
        counted = await next_try(
            conn, evidence.served_model, evidence.sets_version, evidence.candidate_sha256
        )
        report = decision.decide(evidence, rules, counted, family=family)
        bundle = write_bundle(
            file.parent.parent / "gate",
            evidence,
            rules,
            report,
            counted,
            outputs=sorted(file.parent.glob("outputs-*.jsonl")),
            key=key,
        )
        stored = await store_report(conn, evidence, report, bundle.sha256)
        typer.echo(f"{bundle.path} sha256 {bundle.sha256}\nstored as report {stored}", err=True)
        return report

    return with_database(settings, work)


def _show(report: GateReport, as_json: bool) -> None:
    import msgspec

    from trainer.gate.tables import report_tables, show

    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(report)).decode())
        return
    show(*report_tables(report))
    for reason in report.reasons:
        typer.echo(f"no: {reason}")
    for note in report.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"{report.candidate}: {report.verdict.value}")


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value
