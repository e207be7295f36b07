"""From an answer to the parts of a ModelInferResponse: the outputs' own memory behind what describes them."""

from __future__ import annotations

from collections.abc import Mapping

from service.api.tensor_codec import binary_from_array
from service.domain.inference import InferResult
from service.rpc.generated.inference_pb2 import ModelInferResponse
from service.rpc.request import InferHead
from service.rpc.typed_contents import contents_from_array
from service.rpc.wire import Part, with_raw_contents


def encode_response(
    head: InferHead, identity: str, datatypes: Mapping[str, str], result: InferResult, final: bool = False
) -> list[Part]:
    """Outputs in the order asked for, or the model's own; `datatypes` by output. `final`: says that none follows."""
    response = ModelInferResponse(model_name=head.target[0], model_version=str(result.version), id=identity)
    parameters = response.parameters
    parameters["variant"].string_param = result.variant
    parameters["route"].string_param = result.route
    parameters["queue_us"].int64_param = result.queue_us
    parameters["compute_us"].int64_param = result.compute_us
    if final:
        parameters["triton_final_response"].bool_param = True
    blobs: list[Part] = []
    for name in head.head.output_names or result.outputs:
        array, datatype = result.outputs[name], datatypes[name]
        output = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if head.typed:
            output.contents.CopyFrom(contents_from_array(name, datatype, array))
        else:
            blobs.append(binary_from_array(array))
    return with_raw_contents(response.SerializeToString(), blobs)
