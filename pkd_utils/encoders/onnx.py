"""Weights out of an ONNX file: the tensors of its graph under the names that the exported model gave them.

An exporter keeps the names of parameters that the graph uses as they are, and forgets those that it changed on the way:
the matrices of linear layers are transposed, position embeddings are cut into class token and patches, equal tensors
are stored once. Such tensors are called `onnx::MatMul_1966` or so. They are found again by their place in the graph,
never by number, and a file with a weight that cannot be found is refused. Only the `onnx` library reads the file;
nothing in it is run, and no second file is opened.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from pkd_utils.runs.errors import DataError

MOVES = ("Cast", "Expand", "Identity", "Reshape", "Resize", "Transpose")  # operations that only carry a tensor along


def read_onnx(path: str | Path) -> dict[str, torch.Tensor]:
    """Named weights of a self-contained ONNX file of torch's exporter, as the exported model's `state_dict` had them.

    Every named tensor is as stored, float (bfloat16 as float32) or integer; linear layers' `weight` is (out, in);
    `position_embeddings` are (1, 1 + patches, width), at the size that the file holds, not the size that its graph
    resizes them to.
    """
    path = Path(path)
    try:
        graph = onnx.load(path, format="protobuf", load_external_data=False).graph  # opens no file but this
    except (DecodeError, ValueError):  # or more than the 2 GB that one protobuf message can hold
        raise DataError(f"{path.name} cannot be read as ONNX: it is cut short or of another kind.") from None
    stored = _stored(graph, path.name)
    try:
        copies = _copies(graph, stored)
        linear, positions = _linear_names(graph, stored, copies), _position_embeddings(graph, stored)
    except (IndexError, ValueError):  # an operation without the inputs or outputs that it must have
        raise DataError(f"{path.name} holds a graph that is no valid ONNX: it is damaged.") from None
    state = {name: tensor for name, tensor in stored.items() if not _anonymous(name)}
    for copy, source in copies.items():
        if not _anonymous(copy):
            _put(state, copy, stored[source], path.name)
    for source, name, transposed in linear:
        _put(state, name, stored[source].T.contiguous() if transposed else stored[source], path.name)
    for name, parts in positions.items():
        _put(state, name, _one_table([stored[part] for part in parts], name, path.name), path.name)
    found = {source for source, _, _ in linear}.union(*positions.values())
    lost = [
        name for name, tensor in stored.items()
        if _anonymous(name) and name not in found and tensor.is_floating_point() and tensor.numel() > 1
    ]  # fmt: skip
    if lost:
        raise DataError(
            f"{path.name} holds {len(lost)} weights without a name that the graph does not explain "
            f"({', '.join(lost[:8])}): export the model without constant folding, or save its state_dict instead."
        )
    return state


def _anonymous(name: str) -> bool:
    """Whether the exporter made the name up: `onnx::MatMul_12`, `/scope/Constant_output_0`, `val_12` or a number."""
    return not name or name.startswith(("onnx::", "/", "val_")) or name.isdigit()


def _put(state: dict, name: str, tensor: torch.Tensor, file: str) -> None:
    """Add a tensor; two different ones of the same name would mean that we read the graph wrongly."""
    if name in state and not torch.equal(state[name], tensor):
        raise DataError(f"{file} holds two different tensors that would both be called {name}: export it again.")
    state[name] = tensor


def _stored(graph: onnx.GraphProto, file: str) -> dict[str, torch.Tensor]:
    """Tensors in the file: initialisers, and constants but the scales and regions of Resize."""
    if graph.sparse_initializer:
        raise DataError(f"{file} holds sparse weights, which are not read: export it with dense weights.")
    sizes = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:]}
    tensors = [(tensor.name, tensor) for tensor in graph.initializer]
    for node in graph.node:
        if node.op_type == "Constant" and not sizes.issuperset(node.output):
            tensors += [(node.output[0], a.t) for a in node.attribute if a.name == "value" and a.HasField("t")]
    stored = {}
    for name, tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise DataError(
                f"{file} keeps {name} in another file, which is not opened: convert it with "
                "onnx.save_model(..., save_as_external_data=False) into one file that you trust."
            )
        try:
            array = numpy_helper.to_array(tensor)
            if array.dtype.kind in "SUO":  # text, no weight
                continue
            if tensor.data_type == onnx.TensorProto.BFLOAT16:
                array = array.astype(np.float32)
            values = torch.from_numpy(np.array(array))  # a copy: the file's bytes are read-only
        except (ValueError, TypeError, KeyError):
            raise DataError(
                f"{file}: the size of {name} is not what its shape says, or it is no kind of weight we read."
            ) from None
        _put(stored, name, values, file)
    return stored


def _copies(graph: onnx.GraphProto, stored: dict) -> dict[str, str]:
    """Equal tensors are stored once; the other names are outputs of Identity nodes. Name to name stored."""
    copies = {}
    for node in graph.node:
        if node.op_type == "Identity":
            source = copies.get(node.input[0], node.input[0])
            if source in stored:
                copies[node.output[0]] = source
    return copies


def _linear_names(graph: onnx.GraphProto, stored: dict, copies: dict[str, str]) -> list[tuple[str, str, bool]]:
    """(anonymous matrix, its name from the named bias that is added to its product, whether to transpose).

    The exporter stores the matrix of `y = x W' + b` as W', (in, out); one stored matrix may serve several layers.
    """
    products, named = {}, []  # (matrix, bias, transposed)
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm") and _anonymous(node.input[1]):
            settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "MatMul":
                products[node.output[0]] = node.input[1]
            elif len(node.input) == 3 and settings.get("alpha", 1.0) == 1.0 and not settings.get("transA", 0):
                named.append((node.input[1], node.input[2], not settings.get("transB", 0)))
        elif node.op_type == "Add":  # nodes stand in the order of computation
            named += [(products[name], bias, True) for name in node.input if name in products for bias in node.input]
    return [
        (copies.get(matrix, matrix), bias.removesuffix("bias") + "weight", transposed)
        for matrix, bias, transposed in named
        if copies.get(matrix, matrix) in stored and bias.endswith(".bias") and (bias in stored or bias in copies)
    ]


def _position_embeddings(graph: onnx.GraphProto, stored: dict) -> dict[str, list[str]]:
    """Anonymous position embeddings: what is added to the tokens once `cls_token` has been put before them.

    Returns the name, and the stored parts in the order in which the graph joins them: [all] or [class token, patches].
    """
    origin: dict[str, str] = {}  # where a carried tensor comes from; nodes stand in the order of computation
    joined: dict[str, list[str]] = {}
    found = {}
    for node in graph.node:
        inputs = [origin.get(name, name) for name in node.input]
        if node.op_type in MOVES:
            origin[node.output[0]] = inputs[0]
        elif node.op_type == "Concat":
            joined[node.output[0]] = inputs
        elif node.op_type == "Add":
            for tokens, positions in (inputs, reversed(inputs)):
                token, parts = joined.get(tokens, [tokens])[0], joined.get(positions, [positions])
                if token.endswith("cls_token") and all(part in stored and _anonymous(part) for part in parts):
                    found[token.removesuffix("cls_token") + "position_embeddings"] = parts
    return found


def _one_table(parts: list[torch.Tensor], name: str, file: str) -> torch.Tensor:
    """Join the parts of position embeddings to one table (1, tokens, width)."""
    width = parts[0].shape[-1]
    # Patches may be stored as the picture that Resize takes, (1, width, rows, columns).
    parts = [p.flatten(2).transpose(1, 2) if p.ndim == 4 and p.shape[1] == width else p for p in parts]
    if any(p.ndim != 3 or p.shape[0] != 1 or p.shape[2] != width for p in parts):
        shapes = ", ".join(str(tuple(p.shape)) for p in parts)
        raise DataError(f"{file}: {name} is stored in parts of shapes {shapes}, which do not make one table.")
    return torch.cat(parts, dim=1).contiguous()
