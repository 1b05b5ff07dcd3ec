"""Turns a report into what JSON can hold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from binxent import __version__
from binxent.report import measures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from binxent.report import Report


def _number(value: float | None) -> float | str | None:
    """The number, or the text Infinity: JSON has no infinite number, and a loss may be one."""
    return "Infinity" if value == math.inf else value


def _figures(values: dict[str, float | int | None]) -> dict[str, float | int | str | None]:
    """The figures. An average precision that is not exact is rounded to the decimals that hold."""
    error, average_precision = values["average_precision_error"], values["average_precision"]
    if error and average_precision is not None:
        values = {**values, "average_precision": round(average_precision, measures.digits(error, most=15))}
    return {name: _number(value) for name, value in values.items()}


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the loss. A weight is a list; a NaN is the text nan, as --ignore-index takes it."""
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in given.items()}
    return {name: "nan" if value != value else value for name, value in plain.items()}


def as_dict(report: Report, predictions: str, labels: str) -> dict[str, Any]:
    count, probability, target = report.calibration()
    scores = report.scores()
    figures = scores.as_dict()
    return {
        "binxent": __version__,
        "predictions": predictions,
        "labels": labels,
        "rows": report.rows,
        "probabilities": report.probabilities,
        "threshold": report.threshold,
        "reduction": report.reduction,
        "options": _options(report.loss_options.given()),
        "overall": _figures(report.overall(scores)),
        "per_label": [
            {"label": name, **_figures({key: values[i] for key, values in figures.items()})}
            for i, name in enumerate(report.names)
        ],
        "calibration": {
            "count": count.tolist(),
            "probability_sum": probability.tolist(),
            "target_sum": target.tolist(),
        },
    }
