"""Options of the commands that find a threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from datasentinel.calibration import THRESHOLD_METHODS

if TYPE_CHECKING:
    from collections.abc import Callable

_METHOD = click.option(
    "--threshold-method",
    type=click.Choice(THRESHOLD_METHODS),
    default="conformal",
    show_default=True,
    help="How to choose the threshold from the scores of held-out normal rows.",
)
_TARGET = click.option(
    "--target-fpr",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="Share of normal rows that may be called anomalies.",
)


def threshold_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how to find a threshold."""
    return _METHOD(_TARGET(command))
