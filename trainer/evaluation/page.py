"""tmp"""

from pathlib import Path

from trainer.evidence import Evidence


def write_report(folder: Path, evidence: Evidence, sets: object) -> None:
    """Tmp."""
