"""What ends a run early: a loss that is no number, and the signs of displacement and collapse."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Final

from sentinel.errors import TrainingError
from trainer.finetune.recipe import Limits
from trainer.finetune.validation import Score

WINDOW: Final = 5
"""Steps over which a batch's noise is averaged out."""

_MUST_BE_NUMBERS: Final = ("loss", "grad_norm", "eval_loss")


class Watch:
    """Looks at every step's figures and at every checkpoint's answers."""

    def __init__(self, limits: Limits, beta: float | None) -> None:
        self._limits = limits
        self._beta = beta
        self._falls: deque[float] = deque(maxlen=WINDOW)
        self._margins: deque[float] = deque(maxlen=WINDOW)

    def step(self, step: int, figures: Mapping[str, object]) -> str | None:
        """Why the run must end after this step, None where it may go on.

        Raises:
            TrainingError: a figure is no number: the weights are spoilt already.
        """
        for name in _MUST_BE_NUMBERS:
            value = figures.get(name)
            if isinstance(value, float) and not math.isfinite(value):
                raise TrainingError(
                    f"{name} is {value} at step {step}: lower optimizer.learning_rate, or look at the rows"
                )
        chosen, margin = figures.get("rewards/chosen"), figures.get("rewards/margins")
        if self._beta is None or not isinstance(chosen, float) or not isinstance(margin, float):
            return None
        self._falls.append(-chosen / self._beta)
        self._margins.append(margin)
        if len(self._falls) < WINDOW:
            return None
        fall, width = sum(self._falls) / WINDOW, sum(self._margins) / WINDOW
        if fall > self._limits.chosen_fall:
            return f"the chosen answers lost {fall:.1f} nats at step {step}, the limit is {self._limits.chosen_fall}"
        if width > self._limits.margin:
            return f"the reward margin is {width:.1f} at step {step}, the limit is {self._limits.margin}"
        return None

    def answers(self, step: int, score: Score) -> str | None:
        """Why the run must end after these answers, None where it may go on."""
        least, greatest = self._limits.length
        if not least <= score.length_ratio <= greatest:
            return (
                f"answers are {score.length_ratio:.2f} times as long as the chosen sides at step {step}, "
                f"the limits are {least} and {greatest}"
            )
        return None
