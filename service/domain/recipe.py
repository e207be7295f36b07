"""The declarative input of a build: what to make, how to calibrate, and what it may cost."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from service.domain.engine import GPU_RUNTIMES

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
RUNTIMES = ("auto", "onnxruntime", "openvino", "tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt")
SCHEMES = ("symmetric", "asymmetric")
GRANULARITIES = ("per_channel", "per_tensor")
# The type around INT8 operators; auto is the runtime's own: FP16 on a GPU, FP32 elsewhere.
AROUND = ("auto", "fp32", "fp16", "bf16")
# Where a TensorRT plan has its weights: in itself; in itself, to be changed later; or beside it, put in at load.
WEIGHTS = ("fixed", "refittable", "stripped")
SPARSITIES = ("none", "2:4")
METHODS = ("minmax", "entropy", "percentile", "mse")
METRICS = ("top1", "top5", "agreement", "mae", "cosine")
# No precision makes an engine faster than this; a larger number is a mistake of units.
MAX_SPEEDUP = 1000.0
# Of an absolute error; no share comes near it.
MAX_LOSS = 1e9
MAX_CALIBRATION_ROWS = 100_000
MAX_BATCH_ROWS = 1024
# It has to be above: at half of the values the rest is clipped.
LOWEST_PERCENTILE = 50.0
DEPLOY_MODES = ("none", "promote", "canary", "shadow")
# The share of requests that a job gives its canary.
CANARY_WEIGHT_PERCENT = 10


# What `auto` tries where nothing else is installed.
_LEAST_TRIED = ("onnxruntime",)
# Fields that earlier releases did not have, with their defaults.
_LATER = {"around": "auto", "weights": "fixed", "sparsity": "none"}


@dataclass(frozen=True, slots=True)
class Calibration:
    """How activation ranges are found, from at most `rows` rows; `percentile` serves that method only."""

    method: str = "entropy"
    rows: int = 256
    percentile: float = 99.99


@dataclass(frozen=True, slots=True)
class BatchProfile:
    """Batch sizes in rows that an engine is built, warmed and measured for."""

    min: int = 1
    opt: int = 8
    max: int = 32


@dataclass(frozen=True, slots=True)
class Tuning:
    """The steps that make INT8 lose less. Each can be switched off; none needs training or labels.

    `fold_batch_norm` works on the float graph before calibration; `ranges` tries the other calibration methods too;
    `mixed_precision` keeps in floating point what costs most.
    """

    fold_batch_norm: bool = True
    ranges: bool = True
    equalization: bool = True
    weight_clipping: bool = True
    rounding: bool = True
    bias_correction: bool = True
    mixed_precision: bool = True

    @staticmethod
    def none() -> Tuning:
        """Plain rounding onto the recipe's own ranges."""
        return Tuning(**dict.fromkeys((step.name for step in fields(Tuning)), False))


@dataclass(frozen=True, slots=True)
class Recipe:
    """`keep_float` holds node-name globs and `op:Type` entries that stay in floating point; `around` is the type that
    operators next to INT8 compute in; `weights` and `sparsity` are TensorRT's.
    """

    precision: str = "int8"
    runtime: str = "auto"
    scheme: str = "asymmetric"
    granularity: str = "per_channel"
    calibration: Calibration = field(default_factory=Calibration)
    keep_float: tuple[str, ...] = ()
    batch: BatchProfile = field(default_factory=BatchProfile)
    tuning: Tuning = field(default_factory=Tuning)
    around: str = "auto"
    weights: str = "fixed"
    sparsity: str = "none"

    def companion(self, runtime: str) -> str:
        """The type around INT8 on one of the runtimes that the recipe tries: fp32, fp16 or bf16."""
        if self.around != "auto":
            return self.around
        return "fp16" if runtime in GPU_RUNTIMES else "fp32"

    def to_json(self) -> dict[str, Any]:
        """Without what is left to the default since later releases: digests of earlier recipes stay as they were."""
        value = asdict(self) | {"keep_float": list(self.keep_float)}
        return {name: found for name, found in value.items() if _LATER.get(name) != found}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Recipe:
        parts = {
            "calibration": Calibration(**value["calibration"]),
            "batch": BatchProfile(**value["batch"]),
            "keep_float": tuple(value["keep_float"]),
            # Recipes of older requests have none.
            "tuning": Tuning(**value.get("tuning", {})),
        }
        return Recipe(**(value | parts))


@dataclass(frozen=True, slots=True)
class Budget:
    """The allowance: `metric` may lose at most `max_loss` (P_loss = 1 - P(engine)/P(reference); for mae, its value).

    A metric of None picks top1 where the validation set has labels, and agreement where it has none. The engine must be
    at least `min_speedup` times as fast as the reference (p50 of a call at the optimal batch); None asks nothing.
    """

    metric: str | None = None
    max_loss: float = 0.01
    min_speedup: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Without what nobody asked for: digests of requests of earlier releases stay as they were."""
        value = asdict(self)
        if self.min_speedup is None:
            del value["min_speedup"]
        return value


@dataclass(frozen=True, slots=True)
class QuantizeRequest:
    """One asked-for build: model version, recipe, datasets by name and content, budget, what to do on success.

    `host`, a fingerprint's digest, is what a build is asked for again on: one job a kind of host. `tries` are the
    runtimes that `auto` stood for when the build was asked for: with another one installed it is another request.
    """

    model: str
    version: int
    model_sha256: str
    recipe: Recipe
    calibration: str | None
    calibration_sha256: str | None
    validation: str | None
    validation_sha256: str | None
    budget: Budget
    deploy: str = "none"
    host: str | None = None
    tries: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Without a host that nobody named, and without `tries` that say nothing beyond the default runtime."""
        value = asdict(self) | {"recipe": self.recipe.to_json(), "budget": self.budget.to_json()}
        value["tries"] = list(self.tries)
        if self.host is None:
            del value["host"]
        if self.tries in ((), _LEAST_TRIED):
            del value["tries"]
        return value

    @staticmethod
    def from_json(value: dict[str, Any]) -> QuantizeRequest:
        parts = {
            "recipe": Recipe.from_json(value["recipe"]),
            "budget": Budget(**value["budget"]),
            "tries": tuple(value.get("tries", ())),
        }
        return QuantizeRequest(**(value | parts))

    def digest(self) -> str:
        """SHA-256 of the request; equal requests over equal bytes give equal digests."""
        return digest_of(self.to_json())

    def recipe_digest(self) -> str:
        """SHA-256 of what shapes the artifact itself: recipe and calibration bytes, not budget or deployment."""
        return digest_of({"recipe": self.recipe.to_json(), "calibration": self.calibration_sha256})


def digest_of(value: dict[str, Any]) -> str:
    """SHA-256, in hex, of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
