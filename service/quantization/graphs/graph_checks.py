"""Structural checks of an untrusted ONNX graph: domains, external data, names, order, inputs and outputs.

Pure Python over the parsed protobuf, so that a message can name the node or tensor. Refuses; never repairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from service.errors import InvalidModel

ALLOWED_DOMAINS = ("ai.onnx", "ai.onnx.ml", "com.microsoft")
MAX_NESTING = 8
MAX_TENSORS = 64
MAX_NAME_CHARACTERS = 512
MAX_EXTENT = 2**31 - 1
SERVED_TYPES = (
    "FLOAT", "FLOAT16", "DOUBLE", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BOOL",
    "STRING",
)  # fmt: skip
_LISTED = 4


def graphs_of(model: ModelProto) -> Iterator[GraphProto]:
    """The graph and every subgraph, in functions too. Raises InvalidModel beyond MAX_NESTING levels."""
    yield model.graph
    yield from _inner_graphs(model.graph.node, 1)
    for function in model.functions:
        yield from _inner_graphs(function.node, 1)


def _inner_graphs(nodes: Iterable[NodeProto], depth: int) -> Iterator[GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                if depth > MAX_NESTING:
                    raise InvalidModel(f"subgraphs are nested over {MAX_NESTING} deep; export fewer nested branches")
                yield inner
                yield from _inner_graphs(inner.node, depth + 1)


def nodes_of(model: ModelProto) -> Iterator[NodeProto]:
    """Every node: of the graph, its subgraphs, and the model's own functions."""
    for graph in graphs_of(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def drop_empty_inputs(model: ModelProto) -> bool:
    """In place: optional inputs at the end of a node that are named by nothing; tells whether there were any.

    A Loop keeps its own, which tell how often it runs.
    """
    changed = False
    for node in nodes_of(model):
        while node.op_type != "Loop" and node.input and not node.input[-1]:
            node.input.pop()
            changed = True
    return changed


def open_unstated_axes(model: ModelProto) -> None:
    """In place: an axis of -1, as some exporters state an open one, is stated no more. Runtimes read it so, and ONNX's
    own shape inference would count with it.
    """
    for graph in graphs_of(model):
        for value in (*graph.input, *graph.output, *graph.value_info):
            for dim in value.type.tensor_type.shape.dim if value.type.tensor_type.HasField("shape") else ():
                if dim.dim_value == -1:
                    dim.ClearField("dim_value")


def forget_stated_shapes(model: ModelProto) -> None:
    """In place: of everything but inputs the type alone stays."""
    for graph in graphs_of(model):
        for value in (*graph.output, *graph.value_info):
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")


def check_graph(model: ModelProto) -> None:
    """All checks below, cheapest first. Raises InvalidModel with the value and the next step."""
    if not model.graph.node:
        raise InvalidModel("the graph holds no nodes; export the model again")
    check_text(model)
    check_domains(model)
    check_external_data(model)
    check_names(model.graph)
    check_order(model.graph)
    check_interface(model.graph)


def check_text(model: ModelProto) -> None:
    """The parser hands out strings that are not UTF-8 as bytes, which nothing behind this check expects."""
    for graph in graphs_of(model):
        names: list[object] = [value.name for value in (*graph.input, *graph.output)]
        names += [tensor.name for tensor in graph.initializer]
        for node in graph.node:
            names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        for name in names:
            if not isinstance(name, str):
                raise InvalidModel(f"the name {name!r:.80} is not UTF-8 text; export the model again")


def check_domains(model: ModelProto) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    for node in nodes_of(model):
        if (node.domain or "ai.onnx") not in ALLOWED_DOMAINS and (node.domain, node.op_type) not in own:
            raise InvalidModel(
                f"node {node.name!r:.120} is the custom operator {node.domain}::{node.op_type}; use operators of "
                f"{', '.join(ALLOWED_DOMAINS)} only"
            )


def check_external_data(model: ModelProto) -> None:
    """One file was uploaded, so no tensor may live in another, least of all outside the upload."""
    for tensor in _tensors_of(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            raise InvalidModel(
                f"tensor {tensor.name!r:.120} keeps its data in another file, {location!r:.120}; save the model as one "
                "file (onnx.save_model with save_as_external_data=False)"
            )


def _tensors_of(model: ModelProto) -> Iterator[TensorProto]:
    for graph in graphs_of(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in nodes_of(model):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
    for training in model.training_info:
        for graph in (training.initialization, training.algorithm):
            yield from graph.initializer


def check_names(graph: GraphProto) -> None:
    """Every tensor is made once: by an input or constant, or by one node."""
    made = Counter(value.name for value in graph.input)
    made.update(tensor.name for tensor in graph.initializer if tensor.name not in made)
    made.update(name for node in graph.node for name in node.output if name)
    outputs = Counter(value.name for value in graph.output)
    for counted, kind in ((made, "made by more than one input or node"), (outputs, "listed twice as an output")):
        repeated = [name for name, count in counted.items() if count > 1]
        if repeated:
            raise InvalidModel(f"tensor {repeated[0]!r:.120} is {kind}; give every tensor its own name")
    unknown = [name for name in outputs if name not in made]
    if unknown:
        raise InvalidModel(f"output {unknown[0]!r:.120} is made by no node; remove it or connect it")


def check_order(graph: GraphProto) -> None:
    """Every node comes after the nodes that feed it; tells a cycle from a mere disorder."""
    made = {name for node in graph.node for name in node.output if name}
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        late = [name for name in node.input if name in made and name not in known]
        if late:
            _refuse_order(graph, node, late[0])
        known.update(node.output)


def _refuse_order(graph: GraphProto, node: NodeProto, late: str) -> None:
    maker = {name: index for index, each in enumerate(graph.node) for name in each.output if name}
    needs = {i: [maker[name] for name in each.input if name in maker] for i, each in enumerate(graph.node)}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        cycle = [graph.node[index] for index in error.args[1][:_LISTED]]
        shown = ", ".join(repr(each.name or each.op_type)[:80] for each in cycle)
        raise InvalidModel(f"the graph has a cycle through {shown}; remove it") from error
    raise InvalidModel(
        f"node {node.name or node.op_type!r:.120} reads {late!r:.120} before any node makes it; sort the nodes "
        "topologically, as OnnxModel(model).topological_sort() of onnxruntime.transformers.onnx_model does"
    )


def check_interface(graph: GraphProto) -> None:
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    for values, kind in ((inputs, "input"), (graph.output, "output")):
        if not 1 <= len(values) <= MAX_TENSORS:
            raise InvalidModel(f"the graph has {len(values)} {kind}s; export it with 1 to {MAX_TENSORS}")
        for value in values:
            check_value(value, kind)


def check_value(value: ValueInfoProto, kind: str) -> None:
    """Whether an input or output has a name, a tensor type and, for an input, a known rank with sound extents."""
    if not value.name or len(value.name) > MAX_NAME_CHARACTERS or not value.name.isprintable():
        raise InvalidModel(
            f"an {kind} is named {value.name!r:.80} ({len(value.name)} characters); give it 1 to "
            f"{MAX_NAME_CHARACTERS} printable characters"
        )
    if kind == "output" and value.type.sequence_type.elem_type.HasField("tensor_type"):
        raise InvalidModel(
            f"output {value.name!r:.120} is a list of tensors; only plain tensors can be served: append a "
            "ConcatFromSequence (axis=1, new_axis=1), which makes one of them, or leave that output out"
        )
    what = value.type.WhichOneof("value")
    if what != "tensor_type":
        raise InvalidModel(
            f"{kind} {value.name!r:.120} is of {what or 'no type'}; only plain tensors can be served: export the model "
            "with tensors alone, classifiers of scikit-learn and LightGBM with zipmap=False"
        )
    tensor = value.type.tensor_type
    names = {number: name for name, number in TensorProto.DataType.items()}
    if names.get(tensor.elem_type) not in SERVED_TYPES:
        shown = names.get(tensor.elem_type, tensor.elem_type)
        raise InvalidModel(f"{kind} {value.name!r:.120} has element type {shown}; use one of {', '.join(SERVED_TYPES)}")
    if not tensor.HasField("shape"):
        raise InvalidModel(f"{kind} {value.name!r:.120} has no known rank; state its shape, with names for open axes")
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value") and not 1 <= dim.dim_value <= MAX_EXTENT:
            raise InvalidModel(
                f"{kind} {value.name!r:.120} has an axis of {dim.dim_value}; state 1 to {MAX_EXTENT}, or name the axis"
            )
