"""From an answer to the parts of a ModelInferResponse: the outputs' own memory behind what describes them."""

from __future__ import annotations

from service.domain.inference import InferResult
from service.protocol.classification import class_strings
from service.protocol.heads import OutputHead
from service.protocol.tensor_codec import binary_from_array
from service.router.router import Submitted
from service.rpc.generated.inference_pb2 import ModelInferResponse
from service.rpc.request import InferHead
from service.rpc.typed_contents import contents_from_array
from service.rpc.wire import Part, with_raw_contents


def encode_response(
    head: InferHead, identity: str, submitted: Submitted, result: InferResult, final: bool = False
) -> list[Part]:
    """Outputs in the order asked for, or the model's own. `final`: says that none follows. Raises InvalidTensor."""
    route, datatypes = submitted.route, submitted.datatypes
    response = ModelInferResponse(model_name=route.model, model_version=str(result.version), id=identity)
    parameters = response.parameters
    parameters["variant"].string_param = result.variant
    parameters["route"].string_param = result.route
    parameters["queue_us"].int64_param = result.queue_us
    parameters["compute_us"].int64_param = result.compute_us
    if final:
        parameters["triton_final_response"].bool_param = True
    blobs: list[Part] = []
    wanted = head.head.outputs or [OutputHead(name, True) for name in result.outputs]
    for name, _, classes in wanted:
        array, datatype = result.outputs[name], datatypes[name]
        if classes:
            array = class_strings(array, datatype, classes, route.labels, route.batched)
            datatype = "BYTES"
        output = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if head.typed:
            output.contents.CopyFrom(contents_from_array(name, datatype, array))
        else:
            blobs.append(binary_from_array(array))
    return with_raw_contents(response.SerializeToString(), blobs)
