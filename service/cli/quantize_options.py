"""The options of `octavo quantize`. The server fills in what is left out, so its defaults are told here, not sent."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

import typer

from service.cli.arguments import number_above
from service.domain.recipe import (
    AROUND,
    DEPLOY_MODES,
    GRANULARITIES,
    LOWEST_PERCENTILE,
    MAX_BATCH_ROWS,
    MAX_CALIBRATION_ROWS,
    MAX_LOSS,
    MAX_SPEEDUP,
    METHODS,
    METRICS,
    PRECISIONS,
    RUNTIMES,
    SCHEMES,
    SPARSITIES,
    WEIGHTS,
    Budget,
    Recipe,
)

_DEFAULTS = Recipe()
_CALIBRATION = "Calibration"
_ACCURACY = "Accuracy"
_BATCHES = "Batch sizes"


def _told(text: str, default: object) -> str:
    return f"{text} Default: {default}."


def _one_of(allowed: tuple[str, ...]) -> Callable[[str | None], str | None]:
    def check(value: str | None) -> str | None:
        if value is not None and value not in allowed:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(allowed)}")
        return value

    return check


def _words(allowed: tuple[str, ...], text: str, panel: str | None = None) -> Any:
    return typer.Option(callback=_one_of(allowed), metavar="|".join(allowed), help=text, rich_help_panel=panel)


def _key(value: str | None) -> str | None:
    # As the server takes it in a header.
    if value is not None and not re.fullmatch(r"[\x21-\x7e]{1,255}", value):
        raise typer.BadParameter(f"{value!r} is no key; give 1 to 255 visible ASCII characters without spaces")
    return value


def _rows(text: str, panel: str, most: int) -> Any:
    return typer.Option(min=1, max=most, help=text, rich_help_panel=panel)


Precision = Annotated[str | None, _words(PRECISIONS, _told("What to build.", _DEFAULTS.precision))]
Runtime = Annotated[
    str | None, _words(RUNTIMES, _told("For which runtime; auto is the fastest in the budget.", _DEFAULTS.runtime))
]
Scheme = Annotated[str | None, _words(SCHEMES, _told("How INT8 places zero.", _DEFAULTS.scheme))]
Granularity = Annotated[str | None, _words(GRANULARITIES, _told("Scales of weights.", _DEFAULTS.granularity))]
Around = Annotated[
    str | None, _words(AROUND, _told("Type around INT8; auto is FP16 on a GPU, FP32 elsewhere.", _DEFAULTS.around))
]
Weights = Annotated[str | None, _words(WEIGHTS, _told("Weights of a TensorRT plan.", _DEFAULTS.weights))]
Sparsity = Annotated[
    str | None, _words(SPARSITIES, _told("Zero the smallest weights, for TensorRT.", _DEFAULTS.sparsity))
]
KeepFloat = Annotated[
    list[str] | None, typer.Option(help="Node-name pattern or op:Type to keep in floating point; repeatable.")
]
DeployMode = Annotated[str | None, _words(DEPLOY_MODES, _told("What to do with an engine in the budget.", "none"))]

IdempotencyKey = Annotated[str | None, typer.Option(callback=_key, help="Key that makes repeated requests one job.")]

CalibrationSet = Annotated[
    str | None, typer.Option(help="Dataset to calibrate with; INT8 needs one.", rich_help_panel=_CALIBRATION)
]
Method = Annotated[
    str | None, _words(METHODS, _told("How ranges are found.", _DEFAULTS.calibration.method), _CALIBRATION)
]
CalibrationRows = Annotated[
    int | None, _rows(_told("Rows to calibrate with.", _DEFAULTS.calibration.rows), _CALIBRATION, MAX_CALIBRATION_ROWS)
]
Percentile = Annotated[
    float | None,
    number_above(
        LOWEST_PERCENTILE,
        100,
        _told("Percent of values inside the range.", _DEFAULTS.calibration.percentile),
        _CALIBRATION,
    ),
]

BatchMin = Annotated[int | None, _rows(_told("Smallest batch in rows.", _DEFAULTS.batch.min), _BATCHES, MAX_BATCH_ROWS)]
BatchOpt = Annotated[int | None, _rows(_told("Usual batch in rows.", _DEFAULTS.batch.opt), _BATCHES, MAX_BATCH_ROWS)]
BatchMax = Annotated[int | None, _rows(_told("Largest batch in rows.", _DEFAULTS.batch.max), _BATCHES, MAX_BATCH_ROWS)]

ValidationSet = Annotated[str | None, typer.Option(help="Dataset to judge the engine by.", rich_help_panel=_ACCURACY)]
Metric = Annotated[
    str | None,
    _words(
        METRICS,
        "What may be lost. Default: top1 with labels, agreement without, cosine without class scores.",
        _ACCURACY,
    ),
]
MaxLoss = Annotated[
    float | None,
    typer.Option(
        min=0, max=MAX_LOSS, help=_told("How much may be lost.", Budget().max_loss), rich_help_panel=_ACCURACY
    ),
]
MinSpeedup = Annotated[
    float | None,
    number_above(
        0,
        MAX_SPEEDUP,
        "How many times as fast as FP32 the engine must be on the server's host. Default: any.",
        _ACCURACY,
    ),
]
