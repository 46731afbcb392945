"""Libraries that keep their bars and notes to themselves, so that a command's own progress can be read."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from sentinel.logs import hushed


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no notes of transformers, PEFT and bitsandbytes until the block ends."""
    from transformers.utils import logging as transformers_logging

    level, loading = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        # bitsandbytes asks for a package of faster kernels, which would come from the Hub.
        with hushed("bitsandbytes"), warnings.catch_warnings():
            # PEFT 0.21 asks transformers 5.23 by an attribute's old name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if loading:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def quiet_training() -> Iterator[None]:
    """The same for datasets and TRL too, whose bar of the reference pass heeds an environment variable only."""
    with quiet():
        import datasets
        from trl.trainer import dpo_trainer

        def bare(iterable: Iterable[Any], **_: object) -> Iterable[Any]:
            return iterable

        module: Any = dpo_trainer
        bar, hidden = module.tqdm, datasets.are_progress_bars_disabled()
        module.tqdm = bare
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            module.tqdm = bar
            if not hidden:
                datasets.enable_progress_bars()
