import copy
import json
import pickle
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from facedeid.errors import OptionError, WeightsError
from facedeid.nets.onnx_graph import OnnxGraph
from facedeid.nets.onnx_import import read_onnx


def normal(*shape, seed=0, scale=0.3):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def save(path, nodes, shape, constants=None, *, opset=17, outputs=("y",), kind=TensorProto.FLOAT):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, str(path))
    return path


def reference(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


def agree(path, shape, *, seed=1, tolerance=1e-5):
    """Folded and unfolded agree with onnxruntime; the gradient agrees with finite differences."""
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    want = reference(path, x)
    for fold in (True, False):
        got = OnnxGraph.from_onnx(path, fold=fold)(torch.from_numpy(x)).numpy()
        assert got.shape == want.shape
        np.testing.assert_allclose(
            got, want, rtol=1e-4, atol=tolerance * max(1, np.abs(want).max())
        )
    net = OnnxGraph.from_onnx(path).double()
    assert torch.autograd.gradcheck(net, torch.from_numpy(x).double().requires_grad_(), atol=1e-6)
    return net


def one(op, *inputs, **attributes):
    return helper.make_node(op, ["x", *inputs], ["y"], **attributes)


def ints(*values):
    return np.array(values, dtype=np.int64)


IMAGE = (2, 4, 7, 6)
NORM = {"s": normal(4) + 1, "b": normal(4), "m": normal(4), "v": normal(4) ** 2 + 0.1}
CASES = {
    "conv": (
        IMAGE,
        17,
        [one("Conv", "w", "b", pads=[1, 1, 1, 1])],
        {"w": normal(5, 4, 3, 3), "b": normal(5)},
    ),
    "conv-nobias": (IMAGE, 17, [one("Conv", "w", strides=[2, 1])], {"w": normal(5, 4, 3, 2)}),
    "conv-groups": (
        IMAGE,
        17,
        [one("Conv", "w", group=2, dilations=[2, 1])],
        {"w": normal(6, 2, 3, 3)},
    ),
    "conv-depthwise": (IMAGE, 17, [one("Conv", "w", group=4)], {"w": normal(4, 1, 7, 6)}),
    "conv-uneven": (IMAGE, 17, [one("Conv", "w", pads=[0, 1, 2, 0])], {"w": normal(5, 4, 3, 3)}),
    "conv-same-upper": (
        IMAGE,
        17,
        [one("Conv", "w", auto_pad="SAME_UPPER", strides=[2, 2])],
        {"w": normal(5, 4, 3, 3)},
    ),
    "conv-same-lower": (
        IMAGE,
        17,
        [one("Conv", "w", auto_pad="SAME_LOWER", strides=[2, 2])],
        {"w": normal(5, 4, 3, 2)},
    ),
    "conv-valid": (IMAGE, 17, [one("Conv", "w", auto_pad="VALID")], {"w": normal(5, 4, 3, 3)}),
    "conv-1d": ((2, 4, 9), 17, [one("Conv", "w", pads=[1, 2])], {"w": normal(5, 4, 3)}),
    "conv-3d": ((1, 2, 4, 5, 4), 17, [one("Conv", "w")], {"w": normal(3, 2, 2, 3, 2)}),
    "prelu": (IMAGE, 17, [one("PRelu", "s")], {"s": normal(4, 1, 1)}),
    "prelu-one": (IMAGE, 17, [one("PRelu", "s")], {"s": normal(1)}),
    "prelu-flat": ((3, 5), 17, [one("PRelu", "s")], {"s": normal(5)}),
    "prelu-columns": (IMAGE, 17, [one("PRelu", "s")], {"s": normal(6)}),
    "prelu-each": (IMAGE, 17, [one("PRelu", "s")], {"s": normal(4, 7, 6)}),
    "relu": (IMAGE, 17, [one("Relu")], {}),
    "leaky": (IMAGE, 17, [one("LeakyRelu", alpha=0.2)], {}),
    "leaky-default": (IMAGE, 17, [one("LeakyRelu")], {}),
    "sigmoid": (IMAGE, 17, [one("Sigmoid")], {}),
    "tanh": (IMAGE, 17, [one("Tanh")], {}),
    "elu": (IMAGE, 17, [one("Elu", alpha=0.7)], {}),
    "hard-swish": (IMAGE, 17, [one("HardSwish")], {}),
    "hard-sigmoid": (IMAGE, 17, [one("HardSigmoid", alpha=1 / 6)], {}),
    "softplus": (IMAGE, 17, [one("Softplus")], {}),
    "clip": (IMAGE, 17, [one("Clip", "lo", "hi")], {"lo": np.float32(-0.5), "hi": np.float32(0.8)}),
    "clip-low": (IMAGE, 17, [one("Clip", "lo")], {"lo": np.float32(-0.5)}),
    "clip-high": (IMAGE, 17, [one("Clip", "", "hi")], {"hi": np.float32(0.5)}),
    "clip-old": (IMAGE, 10, [one("Clip", min=-0.4, max=0.6)], {}),
    "add": (IMAGE, 17, [one("Add", "c")], {"c": normal(4, 1, 6)}),
    "sub": (IMAGE, 17, [helper.make_node("Sub", ["c", "x"], ["y"])], {"c": normal(1)}),
    "mul": (IMAGE, 17, [one("Mul", "x")], {}),
    "div": (IMAGE, 17, [one("Div", "c")], {"c": normal(4, 1, 1) + 2}),
    "gemm": ((3, 5), 17, [one("Gemm", "w", "b", transB=1)], {"w": normal(7, 5), "b": normal(7)}),
    "gemm-scaled": (
        (3, 5),
        17,
        [one("Gemm", "w", "b", alpha=0.5, beta=2.0)],
        {"w": normal(5, 7), "b": normal(1, 7)},
    ),
    "gemm-bare": ((5, 3), 17, [one("Gemm", "w", transA=1, alpha=0.5)], {"w": normal(5, 7)}),
    "matmul": ((2, 3, 5), 17, [one("MatMul", "w")], {"w": normal(5, 7)}),
    "flatten": (IMAGE, 17, [one("Flatten")], {}),
    "flatten-axis": (IMAGE, 17, [one("Flatten", axis=-2)], {}),
    "flatten-all": (IMAGE, 17, [one("Flatten", axis=0)], {}),
    "reshape": (IMAGE, 17, [one("Reshape", "s")], {"s": ints(0, -1, 6)}),
    "squeeze": ((2, 1, 3, 1), 17, [one("Squeeze", "a")], {"a": ints(1, -1)}),
    "squeeze-all": ((2, 1, 3, 1), 17, [one("Squeeze")], {}),
    "squeeze-old": ((2, 1, 3, 1), 11, [one("Squeeze", axes=[1])], {}),
    "unsqueeze": ((2, 3), 17, [one("Unsqueeze", "a")], {"a": ints(-1, 1)}),
    "unsqueeze-old": ((2, 3), 11, [one("Unsqueeze", axes=[0, 3])], {}),
    "transpose": (IMAGE, 17, [one("Transpose", perm=[0, 2, 3, 1])], {}),
    "transpose-default": ((2, 3, 4), 17, [one("Transpose")], {}),
    "concat": (IMAGE, 17, [one("Concat", "x", "c", axis=2)], {"c": normal(2, 4, 1, 6)}),
    "max-pool": (
        IMAGE,
        17,
        [one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])],
        {},
    ),
    "max-pool-ceil": (
        IMAGE,
        17,
        [one("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)],
        {},
    ),
    "max-pool-uneven": (IMAGE, 17, [one("MaxPool", kernel_shape=[3, 3], pads=[0, 0, 2, 1])], {}),
    "max-pool-same": (
        IMAGE,
        17,
        [one("MaxPool", kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER")],
        {},
    ),
    "mean-pool": (
        IMAGE,
        17,
        [one("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])],
        {},
    ),
    "mean-pool-counted": (
        IMAGE,
        17,
        [one("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)],
        {},
    ),
    "mean-pool-uneven": (
        IMAGE,
        17,
        [one("AveragePool", kernel_shape=[3, 3], pads=[0, 1, 2, 1])],
        {},
    ),
    "mean-pool-uneven-counted": (
        IMAGE,
        17,
        [one("AveragePool", kernel_shape=[3, 3], pads=[0, 1, 2, 1], count_include_pad=1)],
        {},
    ),
    "max-pool-uneven-ceil": (
        IMAGE,
        17,
        [one("MaxPool", kernel_shape=[2, 4], strides=[2, 3], pads=[0, 0, 1, 2], ceil_mode=1)],
        {},
    ),
    "mean-pool-uneven-ceil": (
        IMAGE,
        17,
        [one("AveragePool", kernel_shape=[3, 2], strides=[2, 2], pads=[0, 0, 0, 1], ceil_mode=1)],
        {},
    ),
    "global-mean": (IMAGE, 17, [one("GlobalAveragePool")], {}),
    "global-max": (IMAGE, 17, [one("GlobalMaxPool")], {}),
    "dropout": (
        IMAGE,
        17,
        [helper.make_node("Tanh", ["x"], ["a"]), helper.make_node("Dropout", ["a", "r"], ["y"])],
        {"r": np.float32(0.5)},
    ),
    "softmax": (IMAGE, 17, [one("Softmax", axis=1)], {}),
    "softmax-old": ((2, 3, 4), 11, [one("Softmax", axis=1)], {}),
    "pow": (IMAGE, 17, [one("Pow", "c")], {"c": np.float32(2.0)}),
    "reduce-sum": (IMAGE, 17, [one("ReduceSum", "a", keepdims=0)], {"a": ints(1, 3)}),
    "reduce-sum-all": (IMAGE, 17, [one("ReduceSum")], {}),
    "reduce-mean": (IMAGE, 17, [one("ReduceMean", axes=[-1, 1])], {}),
    "reduce-mean-new": (IMAGE, 18, [one("ReduceMean", "a")], {"a": ints(2)}),
    "reduce-l2": (IMAGE, 17, [one("ReduceL2", axes=[1], keepdims=1)], {}),
    "reduce-l1": (IMAGE, 17, [one("ReduceL1", axes=[1], keepdims=0)], {}),
    "lp-normalise": ((3, 5), 17, [one("LpNormalization", axis=1, p=2)], {}),
    "pad": (
        IMAGE,
        17,
        [one("Pad", "p", "v")],
        {"p": ints(0, 0, 1, 2, 0, 0, 0, 1), "v": np.float32(0.5)},
    ),
    "batch-norm": (
        IMAGE,
        17,
        [one("BatchNormalization", "s", "b", "m", "v", epsilon=1e-3)],
        NORM,
    ),
    "batch-norm-flat": (
        (3, 4),
        17,
        [one("BatchNormalization", "s", "b", "m", "v")],
        NORM,
    ),
    "l2-by-hand": (
        (3, 5),
        17,
        [
            helper.make_node("Mul", ["x", "x"], ["sq"]),
            helper.make_node("ReduceSum", ["sq", "a"], ["sum"]),
            helper.make_node("Add", ["sum", "e"], ["more"]),
            helper.make_node("Sqrt", ["more"], ["norm"]),
            one("Div", "norm"),
        ],
        {"a": ints(1), "e": np.float32(1e-6)},
    ),
    "view-minus-one": (
        IMAGE,
        17,
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "zero"], ["n"], axis=0),
            helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
            helper.make_node("Concat", ["n1", "rest"], ["target"], axis=0),
            one("Reshape", "target"),
        ],
        {"zero": np.array(0), "axis": ints(0), "rest": ints(-1)},
    ),
    "constant-branch": (
        IMAGE,
        17,
        [
            helper.make_node("Constant", [], ["two"], value_float=2.0),
            helper.make_node("Sqrt", ["two"], ["root"]),
            helper.make_node("Identity", ["x"], ["same"]),
            helper.make_node("Mul", ["same", "root"], ["y"]),
        ],
        {},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_agrees_with_onnxruntime(tmp_path, name):
    shape, opset, nodes, constants = CASES[name]
    agree(save(tmp_path / "net.onnx", nodes, [None, *shape[1:]], constants, opset=opset), shape)


def norm_constants(name, n, seed):
    return {
        f"{name}s": normal(n, seed=seed) + 1,
        f"{name}b": normal(n, seed=seed + 1),
        f"{name}m": normal(n, seed=seed + 2),
        f"{name}v": normal(n, seed=seed + 3) ** 2 + 0.05,
    }


def norm(source, name, target):
    inputs = [source, *(f"{name}{k}" for k in "sbmv")]
    return helper.make_node("BatchNormalization", inputs, [target])


def face_net(path):
    """A small residual network with everything that recognisers use."""
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["x0"]),
        helper.make_node("Mul", ["x0", "scale"], ["x1"]),
        helper.make_node("Conv", ["x1", "w1"], ["a1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        norm("a1", "n1", "a2"),
        helper.make_node("PRelu", ["a2", "slope"], ["a3"]),
        norm("a3", "n2", "b0"),
        helper.make_node("Conv", ["b0", "w2", "c2"], ["b1"], pads=[1, 1, 1, 1], group=2),
        norm("b1", "n3", "b2"),
        helper.make_node("Add", ["a3", "b2"], ["b3"]),
        helper.make_node("Flatten", ["b3"], ["f0"]),
        helper.make_node("Gemm", ["f0", "w4", "c4"], ["f1"]),
        norm("f1", "n4", "y"),
    ]
    constants = {
        "mean": np.float32(127.5),
        "scale": np.float32(1 / 128),
        "w1": normal(8, 3, 3, 3),
        "slope": normal(8, 1, 1),
        "w2": normal(8, 4, 3, 3),
        "c2": normal(8),
        "w4": normal(8 * 36, 5, scale=0.05),
        "c4": normal(5),
        **norm_constants("n1", 8, 10),
        **norm_constants("n2", 8, 20),
        **norm_constants("n3", 8, 30),
        **norm_constants("n4", 5, 40),
    }
    return save(path, nodes, ["n", 3, 12, 12], constants)


@pytest.fixture
def net_file(tmp_path):
    return face_net(tmp_path / "face.onnx")


def test_integers_are_divided_towards_zero(tmp_path):
    """As exporters do that work out a shape: the last axis in two halves, -7 // 2 = -3."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "last"], ["n"], axis=0),
        helper.make_node("Mul", ["n", "minus"], ["m"]),
        helper.make_node("Div", ["m", "two"], ["half"]),
        helper.make_node("Cast", ["half"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    constants = {"last": ints(1), "minus": ints(-1), "two": ints(2)}
    path = save(tmp_path / "net.onnx", nodes, ("N", 7), constants)
    x = np.ones((2, 7), np.float32)
    got = OnnxGraph.from_onnx(path)(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(got, reference(path, x))
    np.testing.assert_array_equal(got, x - 3)


def test_the_structure_tells_networks_of_the_same_weights_apart(tmp_path):
    nets = [
        OnnxGraph.from_onnx(save(tmp_path / f"{op}.onnx", [one(op)], (1, 3)))
        for op in ("Relu", "Sigmoid", "Relu")
    ]
    assert nets[0].structure == nets[2].structure != nets[1].structure
    assert nets[0].source == tmp_path / "Relu.onnx"


def test_a_residual_network_and_its_gradient(net_file):
    net = agree(net_file, (2, 3, 12, 12))
    assert net.input_shape == (None, 3, 12, 12)


def test_normalisation_is_folded_only_behind_a_layer(net_file):
    ops = [node.op for node in read_onnx(net_file).nodes]
    assert ops.count("BatchNormalization") == 1  # the one behind PRelu
    assert [n.op for n in read_onnx(net_file, fold=False).nodes].count("BatchNormalization") == 4


def test_normalisation_is_not_folded_where_the_convolution_is_read_twice(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        norm("a", "n", "b"),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    constants = {"w": normal(5, 4, 3, 3), **norm_constants("n", 5, 3)}
    path = save(tmp_path / "net.onnx", nodes, list(IMAGE), constants)
    assert [n.op for n in read_onnx(path).nodes] == ["Conv", "BatchNormalization", "Add"]
    agree(path, IMAGE)


def test_saved_and_loaded_without_onnx(net_file, tmp_path, monkeypatch):
    x = torch.randn(3, 3, 12, 12) * 50
    net = OnnxGraph.from_onnx(net_file)
    net.save(tmp_path / "net.safetensors")
    monkeypatch.setitem(sys.modules, "onnx", None)
    again = OnnxGraph.load(tmp_path / "net.safetensors")
    assert torch.equal(net(x), again(x))
    assert again.input_shape == (None, 3, 12, 12)
    with pytest.raises(WeightsError, match=r"pip install 'facedeid\[onnx\]'"):
        OnnxGraph.from_onnx(net_file)


def test_works_in_channels_last_and_bfloat16(net_file):
    net = OnnxGraph.from_onnx(net_file)
    x = torch.randn(2, 3, 12, 12) * 50
    want = net(x)
    fast = copy.deepcopy(net).to(memory_format=torch.channels_last)
    got = fast(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    half = copy.deepcopy(net).to(torch.bfloat16)(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(half.float(), want).min() > 0.99


def test_is_frozen_and_travels_to_worker_processes(net_file):
    net = OnnxGraph.from_onnx(net_file)
    x = torch.randn(1, 3, 12, 12)
    assert not list(net.parameters())
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))


def test_one_of_several_outputs(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("NonZero", ["x"], ["where"]),
        helper.make_node("Cast", ["where"], ["z"], to=TensorProto.FLOAT),
    ]
    path = save(tmp_path / "net.onnx", nodes, [1, 3], outputs=("y", "z"))
    with pytest.raises(WeightsError, match="which output is wanted: y, z"):
        OnnxGraph.from_onnx(path)
    net = OnnxGraph.from_onnx(path, output="y")  # what y does not need is not looked at
    assert net(torch.tensor([[-1.0, 0.0, 2.0]])).tolist() == [[0, 0, 2]]
    with pytest.raises(WeightsError, match=r"NonZero .* onnxruntime is still possible"):
        OnnxGraph.from_onnx(path, output="z")


@pytest.mark.parametrize(
    ("nodes", "constants", "message"),
    [
        ([one("LSTM", "w", "w")], {"w": normal(1, 4, 6)}, "operator LSTM"),
        ([one("Dropout", "r", "t")], {"r": np.float32(0.5), "t": np.array(True)}, "training mode"),
        ([one("Clip", "x")], {}, "computed at run time"),
        ([one("Cast", to=TensorProto.BOOL)], {}, "a cast to BOOL"),
        ([one("Pad", "p", mode="reflect")], {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}, "but a constant"),
        ([one("Conv", "x")], {}, "weights are computed"),
    ],
)
def test_what_cannot_run_is_refused_by_name(tmp_path, nodes, constants, message):
    path = save(tmp_path / "net.onnx", nodes, list(IMAGE), constants)
    with pytest.raises(WeightsError, match=message) as caught:
        OnnxGraph.from_onnx(path)
    assert "onnxruntime is still possible" in str(caught.value)


def test_foreign_domains_are_refused(tmp_path):
    node = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    path = tmp_path / "net.onnx"
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    with pytest.raises(WeightsError, match=r"com.microsoft.Gelu"):
        OnnxGraph.from_onnx(path)


def test_weights_in_a_second_file_are_refused(tmp_path):
    path = save(tmp_path / "net.onnx", [one("Conv", "w")], list(IMAGE), {"w": normal(64, 4, 3, 3)})
    model = onnx.load(str(path))
    onnx.save(model, str(path), save_as_external_data=True, location="more.bin", size_threshold=0)
    with pytest.raises(WeightsError, match="second file"):
        OnnxGraph.from_onnx(path)


def test_no_network(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"not a protobuf at all")
    with pytest.raises(WeightsError, match="not an ONNX network"):
        OnnxGraph.from_onnx(tmp_path / "net.onnx")
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        OnnxGraph.from_onnx(tmp_path / "other.onnx")


def test_wrong_input_shape(net_file):
    net = OnnxGraph.from_onnx(net_file)
    with pytest.raises(OptionError, match=r"N×3×12×12, got \(1, 3, 16, 16\)"):
        net(torch.zeros(1, 3, 16, 16))
    with pytest.raises(OptionError, match="got"):
        net(torch.zeros(3, 12, 12))


def changed(path, target, edit):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(str(path), "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        meta = file.metadata()
    graph = json.loads(meta["graph"])
    edit(graph)
    save_file(tensors, str(target), {**meta, "graph": json.dumps(graph)})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda g: g["nodes"][0].update(op="__import__"), "operator '__import__' is not known"),
        (lambda g: g["nodes"].reverse(), "running order"),
        (lambda g: g.update(output="nothing"), "never makes"),
        (lambda g: g["nodes"][2]["attributes"].update(spell="x"), "spell"),
        (lambda g: g.pop("nodes"), "malformed"),
        (lambda g: g["constants"].update(c99="more"), "malformed"),
    ],
)
def test_a_malformed_graph_is_refused(net_file, tmp_path, edit, message):
    OnnxGraph.from_onnx(net_file).save(tmp_path / "net.safetensors")
    changed(tmp_path / "net.safetensors", tmp_path / "bad.safetensors", edit)
    with pytest.raises(WeightsError, match=message):
        OnnxGraph.load(tmp_path / "bad.safetensors")


def test_loading_something_else(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, str(tmp_path / "a.safetensors"))
    (tmp_path / "b.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(WeightsError, match="no converted ONNX network"):
        OnnxGraph.load(tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="cannot be read"):
        OnnxGraph.load(tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match="cannot be read"):
        OnnxGraph.load(tmp_path / "c.safetensors")


def test_nothing_divided_by_its_length_stays_nothing(tmp_path):
    path = save(tmp_path / "net.onnx", [one("LpNormalization", axis=1)], (None, 5))
    x = np.zeros((2, 5), np.float32)
    x[1, 2] = 3
    leaf = torch.from_numpy(x).requires_grad_()
    got = OnnxGraph.from_onnx(path)(leaf)
    np.testing.assert_array_equal(got.detach().numpy(), reference(path, x))
    assert torch.isfinite(torch.autograd.grad(got.sum(), leaf)[0]).all()


def test_a_norm_over_all_axes_of_a_file_for_one_picture_is_of_each_picture(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[2, 2]),
        helper.make_node("Flatten", ["a"], ["f"]),
        helper.make_node("ReduceL2", ["f"], ["n"]),
        helper.make_node("Div", ["f", "n"], ["y"]),
    ]
    path = save(tmp_path / "one.onnx", nodes, (1, 3, 6, 6), {"w": normal(4, 3, 3, 3)})
    net, x = OnnxGraph.from_onnx(path), normal(3, 3, 6, 6, seed=2)
    x[1:] = x[0]  # also where those at hand are alike
    want = np.concatenate([reference(path, x[i : i + 1]) for i in range(3)])
    for _ in range(2):
        np.testing.assert_allclose(net(torch.from_numpy(x)).numpy(), want, atol=1e-5)


@pytest.mark.parametrize("flat", [True, False])
def test_a_file_made_for_one_picture_takes_several(tmp_path, flat):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["b" if flat else "y"]),
    ]
    constants = {"w": normal(2, 3, 3, 3), "shape": ints(1, -1)}
    if flat:
        nodes.append(helper.make_node("Gemm", ["b", "v"], ["y"]))
        constants["v"] = normal(2 * 4 * 4, 5, seed=1)
    path = save(tmp_path / "one.onnx", nodes, (1, 3, 6, 6), constants)
    net, x = OnnxGraph.from_onnx(path), normal(3, 3, 6, 6, seed=2)
    want = np.concatenate([reference(path, x[i : i + 1]) for i in range(3)])
    for _ in range(2):
        np.testing.assert_allclose(net(torch.from_numpy(x)).numpy(), want, atol=1e-5)
