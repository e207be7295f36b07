"""Bodies and path values that callers send. Refuses unknown fields, and every value out of its bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from service.domain.deployment import Deployment
from service.domain.model import checked_name
from service.domain.recipe import (
    LOWEST_PERCENTILE,
    MAX_BATCH_ROWS,
    MAX_CALIBRATION_ROWS,
    MAX_LOSS,
    MAX_SPEEDUP,
    BatchProfile,
    Budget,
    Calibration,
    Recipe,
    Tuning,
)
from service.quantization.recipes import MAX_KEEP_FLOAT, MAX_KEEP_FLOAT_CHARACTERS

# The same language as domain.model.NAME_PATTERN without "..", in words that any JSON Schema tool understands.
NAME_SCHEMA = {"type": "string", "pattern": r"^[a-z0-9](\.?[a-z0-9_-])*\.?$", "minLength": 1, "maxLength": 63}
# A database integer; a larger number could not name any version.
MAX_VERSION = 2**31 - 1


def _model_name(name: str) -> str:
    return checked_name(name, "model")


def _dataset_name(name: str) -> str:
    return checked_name(name, "dataset")


def _variant_name(name: str) -> str:
    return checked_name(name, "variant")


ModelName = Annotated[str, AfterValidator(_model_name), WithJsonSchema(NAME_SCHEMA)]
DatasetName = Annotated[str, AfterValidator(_dataset_name), WithJsonSchema(NAME_SCHEMA)]
VariantName = Annotated[str, AfterValidator(_variant_name), WithJsonSchema(NAME_SCHEMA)]


def _whole(value: object) -> object:
    """JSON knows one kind of number: 8.0 is the integer 8, while "8" and true are none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
PathVersion = Annotated[int, Path(ge=1, le=MAX_VERSION)]
QueryVersion = Annotated[int | None, Query(ge=1, le=MAX_VERSION)]
JobId = Annotated[str, Path(pattern=r"^[A-Za-z0-9-]{1,64}$")]


class RequestBody(BaseModel):
    """What callers send: every field known, of its own JSON type, and in bounds."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def shown_as(example: dict[str, Any]) -> ConfigDict:
    """Settings of a body whose schema shows this example, as a page made from the document does."""
    return ConfigDict(json_schema_extra={"examples": [example]})


class CalibrationBody(RequestBody):
    method: Literal["minmax", "entropy", "percentile", "mse"] = "entropy"
    rows: Annotated[int, Field(ge=1, le=MAX_CALIBRATION_ROWS), WHOLE] = 256
    percentile: Annotated[float, Field(gt=LOWEST_PERCENTILE, le=100)] = 99.99

    def to_domain(self) -> Calibration:
        return Calibration(self.method, self.rows, self.percentile)


class BatchBody(RequestBody):
    """Batch sizes in rows, min <= opt <= max."""

    min: Annotated[int, Field(ge=1, le=MAX_BATCH_ROWS), WHOLE] = 1
    opt: Annotated[int, Field(ge=1, le=MAX_BATCH_ROWS), WHOLE] = 8
    max: Annotated[int, Field(ge=1, le=MAX_BATCH_ROWS), WHOLE] = 32

    @model_validator(mode="after")
    def _in_order(self) -> BatchBody:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"min {self.min}, opt {self.opt}, max {self.max} must rise; send min <= opt <= max")
        return self

    def to_domain(self) -> BatchProfile:
        return BatchProfile(self.min, self.opt, self.max)


class TuningBody(RequestBody):
    """Steps that make INT8 lose less. Each is judged by simulation and undone where it does not help."""

    fold_batch_norm: Annotated[bool, Field(description="Fold batch normalisation into the operator before it.")] = True
    ranges: Annotated[bool, Field(description="Also try the other calibration methods; the best one stays.")] = True
    equalization: Annotated[bool, Field(description="Even out channels where the float model stays the same.")] = True
    weight_clipping: Annotated[bool, Field(description="Search each output channel's weight range.")] = True
    rounding: Annotated[bool, Field(description="Round weights by their effect on outputs, not to the nearest.")] = True
    bias_correction: Annotated[bool, Field(description="Remove the mean error of each output channel.")] = True
    mixed_precision: Annotated[bool, Field(description="Keep in floating point what costs most, by measurement.")] = (
        True
    )

    def to_domain(self) -> Tuning:
        return Tuning(**self.model_dump())


class RecipeBody(RequestBody):
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "int8"
    runtime: Literal["auto", "onnxruntime", "openvino", "tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt"] = "auto"
    scheme: Literal["symmetric", "asymmetric"] = "asymmetric"
    granularity: Literal["per_channel", "per_tensor"] = "per_channel"
    calibration: CalibrationBody = CalibrationBody()
    keep_float: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_KEEP_FLOAT_CHARACTERS)]],
        Field(max_length=MAX_KEEP_FLOAT, description="Node-name globs and op:Type entries that stay float."),
    ] = []
    batch: BatchBody = BatchBody()
    tuning: TuningBody = TuningBody()
    around: Annotated[
        Literal["auto", "fp32", "fp16", "bf16"],
        Field(description="The type around INT8 operators; auto is FP16 on a GPU and FP32 elsewhere."),
    ] = "auto"
    weights: Annotated[
        Literal["fixed", "refittable", "stripped"],
        Field(description="TensorRT on a GPU: a plan whose weights can be changed, or are put in when it is loaded."),
    ] = "fixed"
    sparsity: Annotated[
        Literal["none", "2:4"],
        Field(description="TensorRT: zero the two smallest of every four weights before anything is measured."),
    ] = "none"

    def to_domain(self) -> Recipe:
        return Recipe(
            self.precision,
            self.runtime,
            self.scheme,
            self.granularity,
            self.calibration.to_domain(),
            tuple(self.keep_float),
            self.batch.to_domain(),
            self.tuning.to_domain(),
            self.around,
            self.weights,
            self.sparsity,
        )


class BudgetBody(RequestBody):
    """`max_loss` is a share for the ratio metrics and an absolute error for mae."""

    metric: Literal["top1", "top5", "agreement", "mae", "cosine"] | None = None
    max_loss: Annotated[float, Field(ge=0, le=MAX_LOSS, allow_inf_nan=False)] = 0.01
    min_speedup: (
        Annotated[
            float,
            Field(
                gt=0, le=MAX_SPEEDUP, allow_inf_nan=False, description="Times the reference's speed, at `batch.opt`."
            ),
        ]
        | None
    ) = None

    def to_domain(self) -> Budget:
        return Budget(self.metric, self.max_loss, self.min_speedup)


class QuantizeBody(RequestBody):
    """A build asked for. The version defaults to the newest, and every other field but `model` has a default."""

    model_config = shown_as(
        {
            "model": "digits",
            "recipe": {"precision": "int8"},
            "calibration": "rows",
            "validation": "unseen",
            "budget": {"metric": "top1", "max_loss": 0.01},
            "deploy": "promote",
        }
    )

    model: ModelName
    version: Annotated[int, Field(ge=1, le=MAX_VERSION), WHOLE] | None = None
    recipe: RecipeBody = RecipeBody()
    calibration: DatasetName | None = None
    validation: DatasetName | None = None
    budget: BudgetBody = BudgetBody()
    deploy: Literal["none", "promote", "canary", "shadow"] = "none"


class RouteBody(RequestBody):
    variant: VariantName


class CanaryBody(RequestBody):
    """`weight` is the canary's share of requests in percent."""

    variant: VariantName
    weight: Annotated[int, Field(ge=0, le=100), WHOLE]


class DeploymentBody(RequestBody):
    """Which variants answer, if it is loaded. Answers carry the same fields, so one can be sent back as it is."""

    model_config = shown_as(
        {
            "version": 1,
            "stable": {"variant": "fp32-onnxruntime"},
            "canary": {"variant": "int8-onnxruntime", "weight": 10},
        }
    )

    version: Annotated[int, Field(ge=1, le=MAX_VERSION), WHOLE]
    stable: RouteBody
    canary: CanaryBody | None = None
    shadow: RouteBody | None = None
    loaded: bool = True

    def to_domain(self, model: str) -> Deployment:
        canary, shadow = self.canary, self.shadow
        return Deployment(
            model,
            self.version,
            self.stable.variant,
            canary.variant if canary else None,
            canary.weight if canary else 0,
            shadow.variant if shadow else None,
            loaded=self.loaded,
        )

    @staticmethod
    def of(deployment: Deployment) -> DeploymentBody:
        return DeploymentBody.model_validate(deployment.to_json())
