"""A Q/DQ graph read as operators with grids: which operator makes which tensor, and which pair rounds it.

The grid of a tensor belongs to the operator that makes the tensor, whichever reader asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from service.quantization.graphs.chance import draws
from service.quantization.graphs.graph import Graph

Floats = npt.NDArray[np.float64]
_PASSED_ON = frozenset({"Cast", "Identity"})
_HALVES = ("FLOAT16", "BFLOAT16")
LOCAL = "emitted/"
# These give values of their input: on its very grid they round nothing.
_MOVERS = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Identity"}
)


@dataclass(frozen=True)
class Pair:
    """One QuantizeLinear of a computed tensor with its first DequantizeLinear; grids of one scale have bounds."""

    quantize: NodeProto
    dequantize: NodeProto
    scale: float | None
    zero_point: int
    levels: tuple[int, int]

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The lowest and highest real value of the grid."""
        if self.scale is None:
            return None
        return (self.levels[0] - self.zero_point) * self.scale, (self.levels[1] - self.zero_point) * self.scale


@dataclass(frozen=True)
class Step:
    """One operator that quantization touches: `tensor` is its output in the float graph, `made` in the emitted one."""

    name: str
    operator: str
    tensor: str
    made: str
    node: NodeProto | None
    pair: Pair | None
    weights: tuple[str, ...]


class EmittedGraph:
    """`emitted` must come from `original`: operators keep their names."""

    def __init__(self, original: ModelProto, emitted: ModelProto) -> None:
        self.original, self.graph = Graph(original), Graph(emitted)
        self.constant = self._constants()
        self.pairs: dict[str, Pair] = {}
        self.source: dict[str, str] = {}
        for node in self.graph.nodes:
            self._find_pair(node)
        self.float_of = self._float_names()

    def steps(self) -> list[Step]:
        """Graph inputs and operators with a grid or with quantized weights, in the graph's order."""
        inputs = [
            Step(name, "input", name, name, None, self.pairs[name], ())
            for name in self.graph.inputs & self.pairs.keys()
        ]
        return inputs + [step for node in self.graph.nodes if (step := self._step(node)) is not None]

    def local_model(self) -> ModelProto:
        """The float graph and, fed by its tensors, every step by itself: its own weights and grid are all that differ.

        Tensors of the steps are named `LOCAL` + their name in the emitted graph.
        """
        model = ModelProto()
        model.CopyFrom(self.graph.model)
        del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
        del model.graph.output[:]
        model.graph.initializer.extend(self.original.model.graph.initializer)
        model.graph.node.extend(self.original.nodes)
        for tensor in self.graph.model.graph.initializer:
            model.graph.initializer.add().CopyFrom(tensor)
            model.graph.initializer[-1].name = LOCAL + tensor.name
        model.graph.node.extend(self._local_nodes())
        exposed = [name for step in self.steps() for name in self._local_outputs(step)]
        model.graph.output.extend(ValueInfoProto(name=name) for name in dict.fromkeys(exposed))
        return model

    def simulated_model(self) -> ModelProto:
        """The emitted graph with each step's result, behind its pair where it has one, as a further output."""
        model = ModelProto()
        model.CopyFrom(self.graph.model)
        outputs = [result_of(step) for step in self.steps()]
        wanted = [name for name in dict.fromkeys(outputs) if name not in self.graph.outputs | self.graph.inputs]
        model.graph.output.extend(ValueInfoProto(name=name) for name in wanted)
        return model

    def integer(self, name: str) -> npt.NDArray[np.generic] | None:
        """The integers that a constant DequantizeLinear reads."""
        node = self.graph.producer.get(name)
        return self.graph.constant(node.input[0]) if node is not None and node.op_type == "DequantizeLinear" else None

    def one_scale(self, name: str) -> bool:
        """Whether the constant DequantizeLinear that makes `name` has one scale for all channels."""
        scale = self.graph.constant(self.graph.producer[name].input[1])
        return scale is not None and scale.size == 1

    def drawn_for(self, step: Step) -> NodeProto | None:
        """The operator that draws what a step reads, itself among them, where no pair stands between."""
        ahead, seen = [step.node] if step.node is not None else [], set()
        while ahead:
            node = ahead.pop()
            if draws(node):
                return node
            for name in node.input:
                maker = self.graph.producer.get(name)
                if maker is not None and name not in seen and name not in self.source and name not in self.constant:
                    seen.add(name)
                    ahead.append(maker)
        return None

    def _local_outputs(self, step: Step) -> list[str]:
        own = [] if step.node is None else [step.tensor, LOCAL + step.made]
        return own + ([LOCAL + step.pair.dequantize.output[0]] if step.pair else [])

    def _local_nodes(self) -> list[NodeProto]:
        nodes = [self._renamed(node, {}) for node in self.graph.nodes if node.output[0] in self.constant]
        fed_as: dict[str, NodeProto] = {}
        for step in self.steps():
            if step.node is not None:
                read = {name: self._fed(name, fed_as) for name in step.node.input if name in self.float_of}
                nodes.append(self._renamed(step.node, read))
            if step.pair is not None:
                fed = {} if step.node is not None else {step.made: step.tensor}
                nodes += [self._renamed(step.pair.quantize, fed), self._renamed(step.pair.dequantize, {})]
        return [*fed_as.values(), *nodes]

    def _fed(self, name: str, fed_as: dict[str, NodeProto]) -> str:
        """The float graph's tensor for this one, in its type: behind a Cast in `fed_as` where it is in half."""
        source, kind = self.float_of[name], self.graph.type_name(name)
        if kind not in _HALVES or self.original.type_name(source) == kind:
            return source
        made = f"{LOCAL}{name}/fed"
        fed_as[made] = helper.make_node("Cast", [source], [made], made, to=TensorProto.DataType.Value(kind))
        return made

    @staticmethod
    def _renamed(node: NodeProto, read: dict[str, str]) -> NodeProto:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name = LOCAL + node.name
        del copy.input[:], copy.output[:]
        copy.input.extend(read.get(name, LOCAL + name) if name else "" for name in node.input)
        copy.output.extend(LOCAL + name if name else "" for name in node.output)
        return copy

    def _step(self, node: NodeProto) -> Step | None:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or node.output[0] in self.constant:
            return None
        weights = tuple(name for name in node.input if self.integer(name) is not None and name in self.constant)
        made = next((name for name in node.output if name in self.pairs), node.output[0])
        simple = not any(entry.HasField("g") or entry.graphs for entry in node.attribute)
        if made not in self.float_of or not simple or not (weights or made in self.pairs) or self._only_moves(node):
            return None
        return Step(node.name, node.op_type, self.float_of[made], made, node, self.pairs.get(made), weights)

    def _only_moves(self, node: NodeProto) -> bool:
        before = self.pairs.get(self.source.get(node.input[0], "")) if node.input else None
        after = self.pairs.get(node.output[0])
        if node.op_type not in _MOVERS or before is None or after is None:
            return False
        return before.scale is not None and (before.scale, before.zero_point) == (after.scale, after.zero_point)

    def _constants(self) -> set[str]:
        """Tensors that follow from constants alone."""
        known = set(self.graph.constants)
        for node in self.graph.nodes:
            if all(name in known for name in node.input if name) and not draws(node):
                known.update(node.output)
        return known

    def _find_pair(self, node: NodeProto) -> None:
        if node.op_type != "DequantizeLinear" or node.output[0] in self.constant:
            return
        maker = self.graph.producer.get(node.input[0])
        if maker is None or maker.op_type != "QuantizeLinear":
            return
        self.source[node.output[0]] = maker.input[0]
        self.pairs.setdefault(maker.input[0], self._pair(maker, node))

    def _pair(self, quantize: NodeProto, dequantize: NodeProto) -> Pair:
        scale = self.graph.constant(quantize.input[1])
        zero = self.graph.constant(quantize.input[2]) if len(quantize.input) > 2 else np.zeros((), np.uint8)
        zero = np.zeros((), np.uint8) if zero is None else zero
        levels = np.iinfo(zero.dtype)
        single = scale is not None and scale.size == 1
        value = float(scale.reshape(-1)[0]) if single and scale is not None else None
        return Pair(quantize, dequantize, value, int(zero.reshape(-1)[0]), (int(levels.min), int(levels.max)))

    def _float_names(self) -> dict[str, str]:
        """Tensor of the emitted graph -> the float graph's tensor that it stands for."""
        names = {name: name for name in self.graph.inputs}
        originals = {node.name: node for node in self.original.nodes}
        for node in self.graph.nodes:
            if node.output[0] in self.source and self.source[node.output[0]] in names:
                names[node.output[0]] = names[self.source[node.output[0]]]
            elif node.name in originals:
                names |= {
                    made: was for made, was in zip(node.output, originals[node.name].output, strict=False) if made
                }
            elif node.op_type in _PASSED_ON and node.input[0] in names:
                names[node.output[0]] = names[node.input[0]]
        return {made: was for made, was in names.items() if made not in self.constant}


def result_of(step: Step) -> str:
    """The emitted graph's tensor that readers of the step see."""
    return step.made if step.pair is None else step.pair.dequantize.output[0]


def engine_model(emitted: EmittedGraph) -> tuple[ModelProto, list[str]]:
    """The emitted graph with the integers of every pair as further outputs: kernels stay fused as they were."""
    model = ModelProto()
    model.CopyFrom(emitted.graph.model)
    names = [pair.quantize.output[0] for pair in emitted.pairs.values() if pair.scale is not None]
    model.graph.output.extend(ValueInfoProto(name=name) for name in names)
    return model, names


def cut_model(emitted: EmittedGraph) -> ModelProto:
    """The emitted graph cut at every pair: what pairs give is fed, and what they would round is an output."""
    model = ModelProto()
    model.CopyFrom(emitted.graph.model)
    pairs = [pair for pair in emitted.pairs.values() if pair.scale is not None]
    cut = {pair.quantize.output[0] for pair in pairs}
    fed = [node.output[0] for node in emitted.graph.nodes if cut & set(node.input)]
    kept = [node for node in emitted.graph.nodes if not cut & {*node.input, *node.output}]
    made = [pair.quantize.input[0] for pair in pairs if pair.quantize.input[0] not in emitted.graph.inputs]
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(kept)
    model.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in fed)
    model.graph.output.extend(ValueInfoProto(name=name) for name in made)
    return model
