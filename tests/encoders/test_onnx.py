"""Weights come out of an ONNX graph complete and exact, or the file is refused."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from pkd_utils.encoders.onnx import read_onnx
from pkd_utils.runs.errors import DataError


def _save(path, nodes, tensors):
    """A graph of these nodes and tensors; {name: array or TensorProto}."""
    tensors = [t if isinstance(t, TensorProto) else numpy_helper.from_array(t, name) for name, t in tensors.items()]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors))
    path.write_bytes(model.SerializeToString())  # onnx.save would refuse the hostile ones
    return path


def _array(*shape):
    return np.random.default_rng([3, *shape]).normal(size=shape).astype(np.float32)


def _linear(name, matrix, bias, out, x="x"):
    return [
        helper.make_node("MatMul", [x, matrix], [f"{name}_product"]),
        helper.make_node("Add", [bias, f"{name}_product"], [out]),
    ]


@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize("pixels", [42, 28])  # the table's own size, and one that its graph resizes to
def test_an_exported_dinov2_comes_back_to_the_bit(tmp_path, distinct, pixels):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 42, "patch_size": 14}
    model = Dinov2Model(Dinov2Config(**sizes)).eval()
    if distinct:  # else all norms are alike, and the exporter stores equal tensors once
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(1, 3, pixels, pixels),), path, dynamo=False, opset_version=14)
    state = read_onnx(path)
    expected = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("mask_token")}
    assert set(state) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0, msg=name)
        assert state[name].is_contiguous()


def test_a_matrix_is_named_by_its_bias_and_turned(tmp_path):
    tensors = {
        "onnx::MatMul_7": _array(4, 4),
        "onnx::MatMul_9": _array(4, 5),
        "a.key.bias": _array(4),
        "a.query.bias": _array(4) + 1,
        "onnx::Gemm_3": _array(5, 4),
        "c.bias": _array(5) + 2,
        "onnx::Gemm_4": _array(5, 2),
        "d.bias": _array(2),
    }
    nodes = [  # `key` and `query` share one stored matrix; the Add may name the bias first or last
        *_linear("k", "onnx::MatMul_7", "a.key.bias", "k"),
        helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["q_product"]),
        helper.make_node("Add", ["q_product", "a.query.bias"], ["q"]),
        helper.make_node("Identity", ["onnx::MatMul_9"], ["onnx::MatMul_10"]),
        helper.make_node("Identity", ["c.bias"], ["b.bias"]),
        *_linear("b", "onnx::MatMul_10", "b.bias", "b", "k"),
        helper.make_node("Gemm", ["k", "onnx::Gemm_3", "c.bias"], ["c"], transB=1),
        helper.make_node("Gemm", ["c", "onnx::Gemm_4", "d.bias"], ["y"]),
    ]
    state = read_onnx(_save(tmp_path / "m.onnx", nodes, tensors))
    expected = {name: array for name, array in tensors.items() if name.endswith("bias")} | {
        "a.key.weight": tensors["onnx::MatMul_7"].T,
        "a.query.weight": tensors["onnx::MatMul_7"].T,
        "b.weight": tensors["onnx::MatMul_9"].T,
        "b.bias": tensors["c.bias"],
        "c.weight": tensors["onnx::Gemm_3"],
        "d.weight": tensors["onnx::Gemm_4"].T,
    }
    assert set(state) == set(expected)
    assert all(np.array_equal(state[name].numpy(), array) for name, array in expected.items())


def _with_positions(path, positions, nodes):
    tensors = {"m.embeddings.cls_token": _array(1, 1, 4), **positions}
    nodes = [
        *nodes,
        helper.make_node("Expand", ["m.embeddings.cls_token", "shape"], ["token"]),
        helper.make_node("Concat", ["token", "x"], ["tokens"], axis=1),
        helper.make_node("Add", ["where", "tokens"], ["y"]),
    ]
    return read_onnx(_save(path, nodes, tensors))["m.embeddings.position_embeddings"].numpy()


def test_position_embeddings_however_they_were_folded(tmp_path):
    table = _array(1, 7, 4)
    whole = {"onnx::Add_5": table}
    identity = [helper.make_node("Identity", ["onnx::Add_5"], ["where"])]
    assert np.array_equal(_with_positions(tmp_path / "a.onnx", whole, identity), table)

    picture = table[:, 1:].reshape(1, 2, 3, 4).transpose(0, 3, 1, 2)  # 2 x 3 patches, as Resize takes them
    parts = {"onnx::Concat_2": table[:, :1].copy(), "onnx::Resize_3": picture.copy()}
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32))
    nodes = [
        helper.make_node("Constant", [], ["/Constant_output_0"], value=scales),  # sizes are no weights
        helper.make_node("Resize", ["onnx::Resize_3", "", "/Constant_output_0"], ["resized"], mode="cubic"),
        helper.make_node("Reshape", ["resized", "shape"], ["flat"]),
        helper.make_node("Concat", ["onnx::Concat_2", "flat"], ["where"], axis=1),
    ]
    assert np.array_equal(_with_positions(tmp_path / "b.onnx", parts, nodes), table)

    with pytest.raises(DataError, match=r"do not make one table"):
        _with_positions(tmp_path / "c.onnx", parts | {"onnx::Resize_3": _array(3, 7)}, nodes)


def test_named_weights_are_taken_as_they_are(tmp_path):
    half = helper.make_tensor("h.weight", TensorProto.BFLOAT16, [2], [1.5, -2.0])
    node = helper.make_node("Constant", [], ["k.weight"], value=numpy_helper.from_array(_array(3)))
    state = read_onnx(_save(tmp_path / "m.onnx", [node], {"decoder.bn.weight": _array(6), "h.weight": half}))
    assert {name: tuple(t.shape) for name, t in state.items()} == {
        "decoder.bn.weight": (6,),
        "h.weight": (2,),
        "k.weight": (3,),
    }
    assert state["h.weight"].tolist() == [1.5, -2.0]
    state["decoder.bn.weight"] += 1  # writable: a copy of the file's bytes


@pytest.mark.parametrize("user", ["MatMul", "Mul"])
def test_a_weight_that_nothing_names_is_refused(tmp_path, user):
    nodes = [helper.make_node(user, ["x", "onnx::MatMul_7"], ["z"]), helper.make_node("Add", ["z", "other"], ["y"])]
    tensors = {"onnx::MatMul_7": _array(4, 4), "a.bias": _array(4), "other": _array(4), "onnx::Mul_1": _array()}
    with pytest.raises(DataError, match=r"m.onnx holds 1 weights without a name .*onnx::MatMul_7"):
        read_onnx(_save(tmp_path / "m.onnx", nodes, tensors))


def test_weights_in_another_file_are_refused_and_not_opened(tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.zeros(4, np.float32).tobytes())
    (tmp_path / "downloads").mkdir()
    for location in ("../secret.bin", str(secret), "inside.bin"):
        for where in ("initializer", "constant"):
            tensor = TensorProto(name="a.weight", data_type=TensorProto.FLOAT, dims=[4])
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=location)
            node = helper.make_node("Constant", [], ["a.weight"], value=tensor)
            parts = ([], {"a.weight": tensor}) if where == "initializer" else ([node], {"b.weight": _array(4)})
            path = _save(tmp_path / "downloads" / "m.onnx", *parts)
            with pytest.raises(DataError, match=r"keeps a\.weight in another file, which is not opened"):
                read_onnx(path)


def test_what_is_no_onnx_file_is_refused(tmp_path):
    whole = _save(tmp_path / "m.onnx", [], {"a.weight": _array(64, 64)}).read_bytes()
    for name, content, message in (
        ("cut.onnx", whole[: len(whole) // 2], "cannot be read as ONNX"),
        ("text.onnx", b"<html>Not found</html>", "cannot be read as ONNX"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name} {message}"):
            read_onnx(tmp_path / name)


def test_damaged_tensors_are_refused(tmp_path):
    short = numpy_helper.from_array(_array(8), "a.weight")
    short.dims[0] = 10**9  # more than there is: nothing of that size may be made
    with pytest.raises(DataError, match=r"the size of a\.weight"):
        read_onnx(_save(tmp_path / "m.onnx", [], {"a.weight": short}))

    model = onnx.load(_save(tmp_path / "twice.onnx", [], {"a.weight": _array(2)}))
    model.graph.initializer.append(numpy_helper.from_array(_array(3), "a.weight"))
    onnx.save(model, tmp_path / "twice.onnx")
    with pytest.raises(DataError, match=r"two different tensors .* a\.weight"):
        read_onnx(tmp_path / "twice.onnx")

    nodes = _linear("a", "onnx::MatMul_1", "a.bias", "y")
    tensors = {"onnx::MatMul_1": _array(2, 2), "a.bias": _array(2), "a.weight": _array(2, 3)}
    with pytest.raises(DataError, match=r"two different tensors that would both be called a\.weight"):
        read_onnx(_save(tmp_path / "both.onnx", nodes, tensors))

    for operation, inputs, outputs in (("MatMul", ["x"], ["y"]), ("Identity", [], ["y"]), ("Concat", ["x"], [])):
        node = helper.make_node(operation, inputs, outputs)
        with pytest.raises(DataError, match=r"graph that is no valid ONNX"):
            read_onnx(_save(tmp_path / "bad.onnx", [node], {"a.weight": _array(2)}))

    circle = [helper.make_node("Identity", ["p"], ["q"]), helper.make_node("Identity", ["q"], ["p"])]
    circle += [helper.make_node("Add", ["p", "q"], ["y"])]
    assert list(read_onnx(_save(tmp_path / "circle.onnx", circle, {"a.weight": _array(2)}))) == ["a.weight"]

    words = helper.make_tensor("labels", TensorProto.STRING, [1], [b"cat"])
    assert list(read_onnx(_save(tmp_path / "words.onnx", [], {"labels": words, "a.weight": _array(2)}))) == ["a.weight"]
