"""What the service tells of the server and its models, in the very words of HTTP. Answers no inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from service.errors import OctavoError
from service.protocol.metadata import model_config, model_metadata, server_metadata, version_number
from service.protocol.model_loading import ModelLoading
from service.protocol.repository import check_unload, refuse_overrides, repository_index
from service.protocol.whole_server import WholeServer
from service.router.router import Router
from service.router.routes import ModelRoutes
from service.rpc.generated import inference_pb2 as messages
from service.rpc.settings_messages import log_changes, log_response, trace_changes, trace_response

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Queries:
    """A method for each of the service's that infers nothing; all raise OctavoError.

    `is_ready` is whether the deployments were read and every model's first load has ended.
    """

    router: Router
    is_ready: Callable[[], bool]
    loading: ModelLoading
    server: WholeServer

    async def server_live(self, _: messages.ServerLiveRequest) -> messages.ServerLiveResponse:
        return messages.ServerLiveResponse(live=True)

    async def server_ready(self, _: messages.ServerReadyRequest) -> messages.ServerReadyResponse:
        return messages.ServerReadyResponse(ready=self.is_ready() and not self.router.stopping)

    async def model_ready(self, request: messages.ModelReadyRequest) -> messages.ModelReadyResponse:
        """Not ready where HTTP answers with an error: clients take an error here for a broken connection."""
        try:
            self._routes(request.name, request.version)
        except OctavoError:
            return messages.ModelReadyResponse(ready=False)
        return messages.ModelReadyResponse(ready=True)

    async def server_metadata(self, _: messages.ServerMetadataRequest) -> messages.ServerMetadataResponse:
        return _message(server_metadata(), messages.ServerMetadataResponse())

    async def model_metadata(self, request: messages.ModelMetadataRequest) -> messages.ModelMetadataResponse:
        routes = self._routes(request.name, request.version)
        return _message(model_metadata(routes), messages.ModelMetadataResponse())

    async def model_config(self, request: messages.ModelConfigRequest) -> messages.ModelConfigResponse:
        config = model_config(self._routes(request.name, request.version))
        return _message({"config": config}, messages.ModelConfigResponse())

    async def model_statistics(self, request: messages.ModelStatisticsRequest) -> messages.ModelStatisticsResponse:
        models = [self._routes(request.name, request.version)] if request.name else self.router.models()
        return _message({"model_stats": await self.server.statistics(models)}, messages.ModelStatisticsResponse())

    async def repository_index(self, request: messages.RepositoryIndexRequest) -> messages.RepositoryIndexResponse:
        models = await repository_index(self.loading, request.ready)
        return _message({"models": models}, messages.RepositoryIndexResponse())

    async def load(self, request: messages.RepositoryModelLoadRequest) -> messages.RepositoryModelLoadResponse:
        refuse_overrides(_values(request.parameters))
        await self.loading.load(request.model_name)
        return messages.RepositoryModelLoadResponse()

    async def unload(self, request: messages.RepositoryModelUnloadRequest) -> messages.RepositoryModelUnloadResponse:
        check_unload(_values(request.parameters))
        await self.loading.unload(request.model_name)
        return messages.RepositoryModelUnloadResponse()

    async def trace_setting(self, request: messages.TraceSettingRequest) -> messages.TraceSettingResponse:
        model = request.model_name or None
        if request.settings:
            await self.server.change_trace(trace_changes(request), model)
        return trace_response(self.server.trace(model))

    async def log_settings(self, request: messages.LogSettingsRequest) -> messages.LogSettingsResponse:
        return log_response(await self.server.change_logging(log_changes(request)))

    def _routes(self, name: str, version: str) -> ModelRoutes:
        return self.router.routes(name, version_number(name, version or None))


def _values(parameters: Mapping[str, messages.ModelRepositoryParameter]) -> dict[str, Any]:
    """A parameter without a value is None, which none of them may be."""
    choices = {name: value.WhichOneof("parameter_choice") for name, value in parameters.items()}
    return {name: getattr(parameters[name], choice) if choice else None for name, choice in choices.items()}


def _message(value: dict[str, Any], message: M) -> M:
    """`message` filled from HTTP's JSON. What it has no field for is left out; a test says that there is none."""
    return ParseDict(value, message, ignore_unknown_fields=True)
