"""POST /models/{name}/predict: a picture in, labels out. Refuses models that take no picture or give no classes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from fastapi import APIRouter, Query, Request
from starlette.routing import BaseRoute

from service.api.image_body import read_image
from service.api.schemas import Body, errors
from service.api.schemas_requests import ModelName
from service.domain.inference import Array, InferRequest, InferResult
from service.domain.limits import InferLimits
from service.domain.model import Preprocessing
from service.errors import InvalidPreprocessing, OctavoError, QueueFull
from service.router.router import Router
from service.router.routes import ModelRoutes

# Decoding holds the processor, not the event loop; more threads than two would only take it from the engines.
_THREADS = 2
_MAX_WAITING = 256
_PROBABILITY_SLACK = 1e-3


class Prediction(Body):
    """One class and how sure the model is of it, from 0 to 1."""

    index: int
    label: str
    score: float


class PredictBody(Body):
    """The answer: the most likely classes, most likely first."""

    model: str
    version: int
    variant: str
    predictions: list[Prediction]


class Predictor:
    """Turns pictures into inputs in a few threads of its own, and answers into labels."""

    def __init__(self, router: Router, limits: InferLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._router = router
        self._limits = limits
        self._clock = clock
        self._threads = ThreadPoolExecutor(_THREADS, "octavo-image")
        self._waiting = 0

    async def predict(self, model: str, image: bytes, top_k: int) -> PredictBody:
        """Raises what decoding, preprocessing and the router raise."""
        began = self._clock()
        routes = self._router.routes(model)
        try:
            while True:
                request = InferRequest({_input_name(routes): await self._tensor(image, routes)})
                now = self._router.routes(model)
                if now.served.version == routes.served.version:
                    break
                # The version changed while the picture was decoded; the new one may want it otherwise.
                routes = now
            result = await self._router.infer(model, None, request)
            body = _body(routes, result, top_k)
        except OctavoError as error:
            routes.stable.route.metrics.record_failure(error.code, self._clock() - began)
            raise
        metrics = routes.metrics_of(result.route)
        metrics.request.observe(self._clock() - began)
        metrics.answered.value += 1
        return body

    async def _tensor(self, image: bytes, routes: ModelRoutes) -> Array:
        if self._waiting >= _MAX_WAITING:
            raise QueueFull(f"{self._waiting} pictures wait for decoding; try again after the seconds in Retry-After")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            preprocessing = _preprocessing(routes)
            return await loop.run_in_executor(self._threads, _image_to_tensor, image, preprocessing, self._limits)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Ends the threads after the pictures they hold."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def predict_routes(predictor: Predictor, limits: InferLimits) -> list[BaseRoute]:
    """The predict route, ready to be added to an application."""
    routes = APIRouter(tags=["inference"])

    @routes.post(
        "/models/{name}/predict",
        responses=errors(400, 404, 413, 422, 429, 500, 503),
        openapi_extra=_REQUEST_BODY,
        summary="Classify a picture",
    )
    async def predict(
        name: ModelName, request: Request, top_k: int = Query(5, ge=1, le=limits.max_top_k)
    ) -> PredictBody:
        """The body is a JPEG or PNG, or a multipart form with the picture as its `file`."""
        return await predictor.predict(name, await read_image(request, limits), top_k)

    return list(routes.routes)


def _image_to_tensor(image: bytes, preprocessing: Preprocessing, limits: InferLimits) -> Array:
    from service.quantization.data.preprocessing import decode_image, preprocess_image

    return preprocess_image(decode_image(image, limits), preprocessing)


def _preprocessing(routes: ModelRoutes) -> Preprocessing:
    version = routes.served.version
    if version.preprocessing is None:
        raise InvalidPreprocessing(
            f"version {version.version} of model {version.name!r} has no preprocessing, so it takes no pictures; "
            "upload it with 'preprocessing', or send tensors to its /v2 infer path"
        )
    return version.preprocessing


def _input_name(routes: ModelRoutes) -> str:
    inputs = routes.stable.replica.inputs
    if len(inputs) != 1 or inputs[0].datatype != "FP32":
        raise InvalidPreprocessing(
            f"model {routes.served.name!r} takes {', '.join(f'{i.name!r} as {i.datatype}' for i in inputs)}, where a "
            "picture becomes one FP32 input; send tensors to its /v2 infer path"
        )
    return inputs[0].name


def _body(routes: ModelRoutes, result: InferResult, top_k: int) -> PredictBody:
    scores = class_scores(next(iter(result.outputs.values())))
    labels = routes.served.labels
    best = np.argsort(-scores, kind="stable")[:top_k]
    predictions = [
        Prediction(index=int(i), label=labels[i] if i < len(labels) else str(i), score=float(scores[i])) for i in best
    ]
    return PredictBody(
        model=routes.served.name, version=result.version, variant=result.variant, predictions=predictions
    )


def class_scores(output: Array) -> Array:
    """A classifier's output for one picture as probabilities, FP64 [classes]: softmax, unless it is that already.

    Raises InvalidPreprocessing for an output that is no row of classes.
    """
    if output.ndim < 2 or output.shape[0] != 1 or output.size < 1 or output.size != max(output.shape):
        raise InvalidPreprocessing(
            f"the model's first output has shape {list(output.shape)}, which is no row of classes; "
            "send tensors to its /v2 infer path"
        )
    values = output.reshape(-1).astype(np.float64)
    if np.all(values >= 0) and abs(float(values.sum()) - 1.0) <= _PROBABILITY_SLACK:
        return values
    # Not a number in a row of logits leaves no order to report; it scores nothing instead of breaking the JSON.
    values = np.nan_to_num(values, nan=-np.inf, posinf=np.finfo(np.float64).max)
    exponentials = np.exp(values - values.max()) if np.isfinite(values.max()) else np.ones_like(values)
    return np.asarray(exponentials / exponentials.sum())


_PICTURE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/jpeg": _PICTURE,
            "image/png": _PICTURE,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}
