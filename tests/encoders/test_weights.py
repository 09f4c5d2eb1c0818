"""Checkpoints: read safely whatever they are, and loaded exactly or not at all."""

import datetime
import fractions
import http
import json
import logging
import operator
import os
import pickle
import random
import re
import signal
import statistics
import string
import sys
import uuid
import warnings
import zipfile
from collections import Counter, defaultdict, deque
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from transformers import BertConfig, BertModel, Dinov2Model

from pkd_utils.encoders.backbones import build_backbone
from pkd_utils.encoders.bert import build_encoder
from pkd_utils.encoders.keys import load_state
from pkd_utils.encoders.text import config_of
from pkd_utils.encoders.weights import Weights, read_weights
from pkd_utils.encoders.zoo import IMAGE_ENCODERS, TEXT_ENCODERS
from pkd_utils.encoders.zoo.whose import looks_like
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import file_sha256
from tests.encoders import fixtures
from tests.encoders.fixtures import (
    IN_FILES,
    RESNET_CUT,
    WRITERS,
    foreign_classes,
    replaced,
    small_resnet,
    transformers_names,
    write_checkpoint,
)

FACTS = IMAGE_ENCODERS | TEXT_ENCODERS
LOADABLE = [
    (name, kind) for name, (_, kinds) in WRITERS.items() for kind in kinds if name != "biovil" and kind != "finetuned"
]
FACTS_WRITTEN = [name for name in WRITERS if name in FACTS]


# --- small networks, named as backbones.py and transformers name theirs ----------------------------------------------


def parts(**children: nn.Module | nn.Parameter) -> nn.Module:
    """A module of these children."""
    module = nn.Module()
    for name, child in children.items():
        setattr(module, name, child)
    return module


def small_vit(side: int = 32, depth: int = 2, patch: int = 16, **options) -> nn.Module:
    return VisionTransformer(side, patch, embed_dim=16, depth=depth, num_heads=2, num_classes=0, **options)


def small_network(name: str) -> nn.Module:
    """The network that fits `write_checkpoint(name, ..., small=True)`, with other random values."""
    if name in TEXT_ENCODERS:
        sizes = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 64}
        return BertModel(BertConfig(num_attention_heads=2, **sizes), add_pooling_layer=False)
    if name in ("rad_dino", "dinov2_s14"):
        return small_vit(28, patch=14, init_values=1.0, dynamic_img_size=True)
    if name in ("medical_mae", "mrm"):
        return small_vit()
    if name == "biomedclip":
        return parts(trunk=small_vit(), proj=nn.Linear(16, 512, bias=False))
    if name == "efficientnet_lite0":
        return timm.create_model("tf_efficientnet_lite0", num_classes=0)
    resnet = small_resnet("resnet18" if name == "c2l" else "resnet50")
    resnet.fc = nn.Identity()
    if name == "gloria":
        return parts(model=resnet, local_embedder=nn.Conv2d(1024 // RESNET_CUT, 768, 1, bias=False))
    if name == "biovil_t":
        layers = (nn.Conv2d(512, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU(), nn.Conv2d(128, 128, 1))
        return parts(
            encoder=resnet,
            backbone_to_vit=nn.Conv2d(2048 // RESNET_CUT, 256, 1, bias=False),
            missing_previous_emb=nn.Parameter(torch.zeros(1, 256, 1, 1)),
            projector=parts(model=nn.Sequential(*layers)),
        )
    return resnet


def expected(name: str, kind: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the network must hold, worked out from the file's values with rules written apart from the zoo."""
    if name == "efficientnet_lite0":  # the port and timm define their layers in the same order
        names = list(small_network(name).state_dict())
        return dict(zip(names, list(state.values())[: len(names)], strict=True))
    if name in ("rad_dino", "dinov2_s14") and kind != "backbone_compatible":
        sources = {key: transformers_names(key) for key in small_network(name).state_dict()}
        table = {} if kind == "in_memory" else IN_FILES
        return {key: torch.cat([state[replaced(n, table)] for n in names]) for key, names in sources.items()}
    strip = {
        "c2l": r"^((module\.)?encoder\.(module\.)?|module\.)",
        "gloria": r"^gloria\.img_encoder\.",
        "biovil_t": r"^encoder\.",
        "mrm": r"^vision_encoder\.visual\.",
        "biomedclip": r"^visual\.(?=trunk)|^visual\.head\.",
    }
    state = {re.sub(strip.get(name, r"^bert\."), "", key): value for key, value in state.items()}
    if kind == "old_names":
        state = {key.replace("gamma", "weight").replace("beta", "bias"): value for key, value in state.items()}
    return {key: state[key] for key in small_network(name).state_dict()}


def written(tmp_path: Path, name: str, kind: str | None = None) -> tuple[Path, dict[str, torch.Tensor]]:
    """A small checkpoint and the values that are in it."""
    values: dict[str, torch.Tensor] = {}
    return write_checkpoint(name, tmp_path, small=True, kind=kind, edit=lambda s: values.update(s) or s), values


def last_weight(state: dict[str, torch.Tensor]) -> str:
    """The last matrix or convolution of the encoder itself."""
    weights = r"(query|q_proj|attn\.qkv|conv1|_depthwise_conv)\.weight$"
    others = r"^(decoder|text|bert_encoder|gloria\.text)"
    return [key for key in state if re.search(weights, key) and not re.match(others, key)][-1]


def load(name: str, path: Path, network: nn.Module | None = None):
    """Read and load quietly: (network, key report)."""
    network = network or small_network(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return network, load_state(FACTS[name], read_weights(path, prefer=FACTS[name].files), network)


# --- every encoder ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), LOADABLE)
def test_every_layout_loads_bit_exactly(tmp_path, name, kind):
    path, values = written(tmp_path, name, kind)
    network, report = load(name, path)
    wanted = expected(name, kind, values)
    loaded = network.state_dict()
    assert set(wanted) == set(loaded)
    for key, value in loaded.items():
        assert torch.equal(value, wanted[key]), key
    assert report.unexpected == ()
    # Names as in the file, each of them once.
    assert sorted((*report.found, *report.dropped)) == sorted(key.removeprefix("module.") for key in values)
    # It is not taken for another encoder's.
    title, encoders = looks_like(read_weights(path, prefer=FACTS[name].files).state)
    plain = name == "c2l" and kind != "encoder.module."
    assert title == "" or name in encoders or (plain and title.startswith("a ResNet")), title
    assert name != "pubmedbert" or title == "a BERT text encoder"


@pytest.mark.parametrize("name", FACTS_WRITTEN)
def test_one_missing_tensor_is_refused_by_its_name_in_the_file(tmp_path, name):
    lost = []

    def lose(state):
        lost.append(last_weight(state))
        return {key: value for key, value in state.items() if key != lost[0]}

    path = write_checkpoint(name, tmp_path, small=True, edit=lose)
    network = small_network(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(DataError, match=r"lacks 1 of the \d+ tensors") as error:
        load(name, path, network)
    assert lost[0] in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def spoiled(value: float):
    def edit(state):
        state[last_weight(state)].view(-1)[3] = value
        return state

    return edit


def narrowed(state):
    key = last_weight(state)
    return state | {key: state[key][:, :-1].contiguous()}


def renamed(state):
    return {re.sub(r"(norm|LayerNorm|bn|_bn)(\d?\.weight)", r"ln\2", key): value for key, value in state.items()}


def without(ending: str):
    return lambda state: {key: value for key, value in state.items() if not key.endswith(ending)}


def exchanged(query: int, key: int):
    """Wrong shapes whose concatenation, or whose first, is as large as the network's."""
    prefix = "encoder.layer.0.attention.attention."
    return lambda state: state | {f"{prefix}query.bias": torch.zeros(query), f"{prefix}key.bias": torch.zeros(key)}


KINDS = ("rad_dino", "c2l", "gloria", "bio_clinicalbert", "efficientnet_lite0")
CHANGES = [  # (encoders, kind of their files, what is changed in them, what is said)
    (FACTS_WRITTEN, None, renamed, r"lacks \d+ of the \d+ tensors"),
    (["c2l"], None, without("bn1.running_var"), "running_var"),
    (["medical_mae"], None, lambda s: {"cls_token": s["cls_token"]},
     r"lacks 29 of the 30 tensors .*: pos_embed, patch_embed\.proj\.weight.* and 21 more"),
    (KINDS, None, spoiled(float("nan")), "not finite"),
    (KINDS, None, spoiled(float("inf")), "not finite"),
    (["medical_mae"], None, lambda s: s | {"norm.weight": s["norm.weight"].double() * 1e300}, "not finite"),
    (["rad_dino", "mrm", "c2l", "pubmedbert"], None, narrowed, "has shape .* where .* is expected"),
    (["rad_dino"], None, exchanged(8, 24), "has shape"),
    (["rad_dino"], None, exchanged(48, 16), "has shape"),
    (["rad_dino"], None, lambda s: s | {"embeddings.register_tokens": torch.ones(1, 4, 16)}, "register tokens"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("side", "depth", "words"),
    [
        (64, 2, r"pos_embed has 5 positions where the network has 17 .* not resampled"),
        (32, 1, r"deeper network .*blocks\.1\."),
    ],
)
def test_a_file_of_another_size_is_refused(tmp_path, side, depth, words):
    with pytest.raises(DataError, match=words):
        load("medical_mae", write_checkpoint("medical_mae", tmp_path, small=True), small_vit(side, depth))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_stay_in_the_file_and_become_the_networks(tmp_path, dtype):
    _, values = written(tmp_path / "a", "medical_mae")
    converted = {key: value.to(dtype) for key, value in values.items()}
    path = write_checkpoint("medical_mae", tmp_path / "b", small=True, edit=lambda _: converted)
    assert read_weights(path).state["norm.weight"].dtype == dtype
    network, _ = load("medical_mae", path)
    assert network.norm.weight.dtype == torch.float32
    assert torch.equal(network.norm.weight, converted["norm.weight"].float())


def test_step_counters_may_be_absent(tmp_path):
    load("c2l", write_checkpoint("c2l", tmp_path, small=True, edit=without("num_batches_tracked")))


def test_unexpected_tensors_are_warned_about_and_reported(tmp_path):
    path = write_checkpoint("biomedclip", tmp_path, small=True, edit=lambda s: s | {"visual.adapter": torch.ones(2)})
    with pytest.warns(UserWarning, match=r"1 tensors that BiomedCLIP has no place for.*visual\.adapter"):
        report = load_state(FACTS["biomedclip"], read_weights(path), small_network("biomedclip"))
    assert report.unexpected == ("visual.adapter",)


def test_parts_that_a_network_lacks_are_dropped_not_unexpected(tmp_path):
    for name, part in (("biovil_t", "projector"), ("gloria", "local_embedder"), ("biomedclip", "proj")):
        network = small_network(name)
        setattr(network, part, None)
        _, report = load(name, write_checkpoint(name, tmp_path / name, small=True), network)
        assert report.unexpected == () and any(part in key for key in report.dropped)


# --- whose file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "other", "kind", "words"),
    [
        ("medical_mae", "medical_mae", "finetuned", "is a fine-tuned file of Medical MAE .* give the pre-trained file"),
        ("medical_mae", "mrm", None, "look like MRM"),
        ("mrm", "medical_mae", None, "look like Medical MAE"),
        ("medical_mae", "mrm", "benchx", "look like MRM as BenchX"),
        ("rad_dino", "medical_mae", None, "look like Medical MAE"),
        ("medical_mae", "rad_dino", None, "look like DINOv2 in a Hugging Face folder"),
        ("medical_mae", "dinov2_s14", "backbone_compatible", "look like DINOv2:"),
        ("c2l", "gloria", None, "look like GLoRIA"),
        ("gloria", "biovil_t", None, "look like BioViL-T"),
        ("biovil_t", "biovil", None, "look like BioViL without time"),
        ("biovil_t", "c2l", None, "look like C2L"),
        ("biomedclip", "pubmedbert", None, "look like a BERT"),
        ("rad_dino", "efficientnet_lite0", None, "look like EfficientNet"),
        ("biovil_t_bert", "biomedclip", None, "look like BiomedCLIP"),
        ("minilm", "rad_dino", None, "look like DINOv2"),
        ("biovil_t_bert", "pubmedbert", None, "look like a BERT text encoder"),
        ("pubmedbert", "cxr_bert_general", None, "look like CXR-BERT"),
        ("bio_clinicalbert", "biovil_t_bert", None, "look like CXR-BERT"),
    ],
)
def test_another_encoders_file_is_refused_and_recognised(tmp_path, name, other, kind, words):
    path = write_checkpoint(other, tmp_path, small=True, kind=kind)
    with pytest.raises(DataError, match=words):
        load(name, path)


def beside(extra: dict[str, tuple[int, ...]], start: str = "", drop: tuple[str, ...] = ("decoder", "mask", "bert_")):
    """A file of the encoder's own names with tensors of another network beside it, in place of its own decoders."""
    return lambda state: (
        {n: v for n, v in state.items() if not n.startswith(drop)}
        | {start + name: torch.ones(shape) for name, shape in extra.items()}
    )


IMAGENET_HEAD, CHEXPERT_HEAD = ({"head.weight": (n, 16), "head.bias": (n,)} for n in (1000, 5))
CLASSIFIER = {"classifier.weight": (2, 16), "classifier.bias": (2,)}
FOREIGN = [  # as CHANGES
    *((["mrm", "medical_mae", "rad_dino"], None, beside(head), "never has .*head.weight")
      for head in (IMAGENET_HEAD, CHEXPERT_HEAD)),
    (["mrm"], None, beside({"fc_norm.weight": (16,)}), "never has .*fc_norm.weight"),
    (["medical_mae"], None, beside({"pre_logits.fc.weight": (16, 16)}), "never has pre_logits"),
    (["mrm"], "benchx", beside(IMAGENET_HEAD, "vision_encoder.visual."), "never has vision_encoder.visual.head.weight"),
    (["biomedclip"], None, beside(IMAGENET_HEAD, "visual.trunk."), "never has visual.trunk.head.weight"),
    (["biomedclip"], None, lambda s: {n.removeprefix("visual.trunk."): v for n, v in s.items() if "trunk" in n},
     "look like a Vision Transformer with timm's names"),
    (["c2l"], "plain", beside({"fc.weight": (1000, 512), "fc.bias": (1000,)}), "never has fc.weight of 1000 outputs"),
    (["c2l"], "encoder.module.", beside({"fc.weight": (14, 512)}, "encoder.module."), "fc.weight of 14 outputs"),
    (["efficientnet_lite0"], None, beside({"_fc.weight": (5, 1280)}), "never has _fc.weight of 5 outputs"),
    (["gloria"], None, beside({"model.fc.weight": (1000, 256)}, "gloria.img_encoder."), "never has .*model.fc.weight"),
    (TEXT_ENCODERS, None, beside(CLASSIFIER), "never has .*classifier.weight"),
    (["biovil_t_bert"], None, beside({"cls.seq_relationship.weight": (2, 16)}), "never has cls.seq_relationship"),
    (["biovil_t_bert"], None, beside({}, drop=("cls_projection_head.",)), "look like a BERT text encoder"),
    (["mrm", "medical_mae"], None, beside({}), "its position embeddings were trained"),
    (["c2l"], "plain", lambda state: of_torchvision(beside({}, drop=("fc.",))(state)), "torchvision's ResNet-18"),
]  # fmt: skip


def of_torchvision(state):
    """With the first row of the first kernel of ResNet18_Weights.IMAGENET1K_V1, rounded otherwise than as printed."""
    row = [-0.010419, -0.0061356, -0.0018098, 0.0748413, 0.0566149, 0.0170832, -0.0126939]
    state["conv1.weight"][0, 0, 0] = torch.tensor(row)
    return state


@pytest.mark.parametrize(
    ("name", "kind", "edit", "words"), [(name, *rest) for names, *rest in (*CHANGES, *FOREIGN) for name in names]
)
def test_a_changed_file_and_one_with_what_the_original_never_has_are_refused(tmp_path, name, kind, edit, words):
    with pytest.raises(DataError, match=words):
        load(name, write_checkpoint(name, tmp_path, small=True, kind=kind, edit=edit))


@pytest.mark.parametrize("name", ["mrm", "medical_mae"])
def test_a_masked_autoencoder_without_its_decoder_is_read_and_not_told(tmp_path, name):
    def edit(state):
        state["pos_embed"][:, 0] = 0
        return beside({})(state)

    assert load(name, write_checkpoint(name, tmp_path / "whole", small=True))[1].told
    assert not load(name, write_checkpoint(name, tmp_path / "bare", small=True, edit=edit))[1].told


# --- against other implementations -----------------------------------------------------------------------------------


def test_dinov2_written_by_transformers_is_read(tmp_path):
    folder = write_checkpoint("rad_dino", tmp_path / "a", small=True)
    theirs, info = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]  # the fixture's names are the real ones
    theirs.save_pretrained(tmp_path / "b")
    ours, _ = load("rad_dino", tmp_path / "b")
    torch.save(theirs.state_dict(), tmp_path / "memory.pth")
    again, _ = load("rad_dino", tmp_path / "memory.pth")
    assert torch.equal(ours.blocks[1].attn.qkv.weight[:16], theirs.encoder.layer[1].attention.q_proj.weight)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), again.state_dict().values(), strict=True))


# --- reading ---------------------------------------------------------------------------------------------------------


def test_account_of_a_training_checkpoint(tmp_path):
    path = write_checkpoint("c2l", tmp_path, small=True)
    weights = read_weights(path)
    assert weights.file == path and weights.sha256 == file_sha256(path) and weights.wrapper == "model"
    assert weights.skipped == ("opt", "contrast", "optimizer", "epoch", "model_ema", "amp")
    assert weights.inert == ("argparse.Namespace", "pathlib.PosixPath")


@pytest.mark.parametrize("kind", ["lightning", "legacy"])
def test_objects_of_libraries_that_are_not_here_are_read_as_inert(tmp_path, kind):
    weights = read_weights(write_checkpoint("gloria", tmp_path, small=True, kind=kind))
    assert "omegaconf.dictconfig.DictConfig" in weights.inert and "gloria.constants.PhaseEnum" in weights.inert
    assert "hyper_parameters" in weights.skipped and weights.wrapper == "state_dict"


def test_wrappings(tmp_path):
    state = {"module.a": torch.ones(2), "module.b": torch.zeros(())}
    cases = {
        "": state,
        "model": {"model": state},
        "state_dict": {"state_dict": state, "epoch": 3},
        "model_ema": {"model_ema": state},
        "teacher": {"student": {"a": torch.zeros(9)}, "teacher": state},
        "model.state_dict": {"model": {"state_dict": state}},
        "teacher.model": {"teacher": {"model": state}},
    }
    for wrapper, content in cases.items():
        torch.save(content, tmp_path / "a.pth")
        weights = read_weights(tmp_path / "a.pth")
        assert weights.wrapper == wrapper and set(weights.state) == {"a", "b"}
    torch.save({"model": {"name": "vit"}, "state_dict": state}, tmp_path / "a.pth")
    assert read_weights(tmp_path / "a.pth").wrapper == "state_dict"  # settings may be called "model" too


def test_values_are_exact_beside_objects(tmp_path):
    """Views, other orders of axes, shared storage, scalars, empty tensors and every dtype, beside a Namespace."""
    base = torch.arange(24.0).view(4, 6)
    state = {"all": base, "view": base[1:3, ::2], "turned": base.T, "parameter": nn.Parameter(base[0].clone())}
    state |= {"scalar": torch.tensor(3.0), "none": torch.zeros(0, 3)}
    dtypes = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool)
    state |= {str(dtype): base.to(dtype) for dtype in dtypes}
    newer = {str(dtype): base.to(dtype) for dtype in (torch.float8_e4m3fn, torch.uint16)}  # torch reads them from zip
    with foreign_classes("elsewhere.Settings") as made:
        extras = {"settings": made["elsewhere.Settings"](), "rate": np.float64(0.1), "bytes": b"\xff", "ids": {1, 2}}
        torch.save({"model": state | newer, **extras}, tmp_path / "True.pt")
        torch.save({"model": state, **extras}, tmp_path / "False.pt", _use_new_zipfile_serialization=False)
    state |= newer
    for zipped in (True, False):
        weights = read_weights(tmp_path / f"{zipped}.pt")
        assert "elsewhere.Settings" in weights.inert
        assert list(weights.state) == list(state)[: None if zipped else -len(newer)]
        for name, value in weights.state.items():
            assert value.dtype == state[name].dtype and value.shape == state[name].shape, name
            assert torch.equal(value.double(), state[name].detach().double()), name


def settings() -> dict[str, object]:
    """What training scripts keep beside their weights, of Python itself: none of it does anything."""
    partials = {"partial": partial(torch.optim.AdamW, lr=1e-3), "of a function": partial(sorted, key=len)}
    texts = {"pattern": re.compile("norm|bias", re.IGNORECASE), "template": string.Template("$x"), "logger": LOGGER}
    numbers = {"fraction": fractions.Fraction(1, 3), "draws": random.Random(3), "normal": statistics.NormalDist()}
    kept = {"last": deque([1.0, 2.0], maxlen=2), "counts": Counter("aab"), "groups": defaultdict(list, a=[1])}
    names = {"signal": signal.SIGTERM, "status": http.HTTPStatus.OK, "chosen": operator.itemgetter(1), "type": int}
    handlers = {"made": datetime.timedelta(1), "version": uuid.UUID(int=3), "path": Path("a"), "error": ValueError("x")}
    return partials | texts | numbers | kept | names | handlers


LOGGER = logging.getLogger("tests.encoders")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", settings())
def test_objects_of_python_beside_the_weights_are_left_inert(tmp_path, kind, zipped):
    value = settings()[kind]
    content = {"state_dict": {"a": torch.ones(3)}, "hyper_parameters": {kind: value}, "callbacks": [{"x": (value,)}]}
    torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)
    weights = read_weights(tmp_path / "a.ckpt")
    assert torch.equal(weights.state["a"], torch.ones(3)) and weights.skipped == ("hyper_parameters", "callbacks")


def test_a_dictionary_class_of_another_project_keeps_its_weights(tmp_path):
    with foreign_classes("project.WeightsDict") as made:
        torch.save({"state_dict": made["project.WeightsDict"](a=torch.ones(3))}, tmp_path / "a.pt")
    assert torch.equal(read_weights(tmp_path / "a.pt").state["a"], torch.ones(3))


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_pickle_protocols_that_torch_does_not_write_are_read_or_refused(tmp_path, protocol):
    torch.save({"state_dict": {"a": torch.ones(3)}}, tmp_path / "a.pt", pickle_protocol=protocol)
    if protocol == 3:
        assert torch.equal(read_weights(tmp_path / "a.pt").state["a"], torch.ones(3))
    else:
        with pytest.raises(DataError, match=r"a\.pt cannot be read .*Unsupported operand.*saved as \.safetensors"):
            read_weights(tmp_path / "a.pt")


def test_content_without_named_tensors_is_refused(tmp_path):
    with foreign_classes("project.Network") as made:
        contents = {
            "one object of project.Network": made["project.Network"](),
            "one object of builtins.list": [torch.ones(3)],
            "epoch": {"epoch": 3},
        }
        for what, content in contents.items():
            torch.save(content, tmp_path / f"{what}.pt")
    for what in contents:
        with pytest.raises(DataError, match=rf"no named tensors \(found: {re.escape(what)}\)"):
            read_weights(tmp_path / f"{what}.pt")


# --- folders ---------------------------------------------------------------------------------------------------------


def test_which_file_of_a_folder_is_read(tmp_path):
    for name in ("pytorch_model.bin", "model.safetensors", "backbone_compatible.safetensors", "weights.pt"):
        value = {"a": torch.ones(1)}
        save_file(value, tmp_path / name) if name.endswith("safetensors") else torch.save(value, tmp_path / name)
    assert read_weights(tmp_path).file.name == "model.safetensors"
    assert read_weights(tmp_path, prefer=("folder", "weights*.pt")).file.name == "weights.pt"
    (tmp_path / "model.safetensors").unlink()
    assert read_weights(tmp_path).file.name == "pytorch_model.bin"
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(DataError, match=r"several weight files \(backbone_compatible.safetensors, weights.pt\)"):
        read_weights(tmp_path)
    (tmp_path / "weights.pt").unlink()
    assert read_weights(tmp_path).file.name == "backbone_compatible.safetensors"


def test_folders_and_paths_without_weights(tmp_path):
    (tmp_path / "tf_model.h5").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"holds no weight file .* tf_model.h5 is of another framework"):
        read_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_weights(tmp_path / "absent.pth")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"should end in \.safetensors"):
        read_weights(tmp_path / "notes.txt")


def test_shards(tmp_path):
    folder = write_checkpoint("rad_dino", tmp_path, small=True, kind="sharded")
    first = read_weights(folder)
    assert len(first.state) == 43 and first.file.name == "model.safetensors.index.json"
    shard = folder / "model-00002-of-00002.safetensors"
    state = load_file(shard)
    name = next(iter(state))
    save_file(state | {name: state[name] + 1}, shard)
    assert read_weights(folder).sha256 != first.sha256  # every part counts
    del state[name]
    save_file(state, shard)
    with pytest.raises(DataError, match="lack 1 tensors"):
        read_weights(folder)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"00002-of-00002\.safetensors does not exist"):
        read_weights(folder)
    for text in (json.dumps({"weight_map": {"a": "../elsewhere.bin"}}), "{"):
        (folder / "model.safetensors.index.json").write_text(text)
        with pytest.raises(DataError, match="no index of weight files beside it"):
            read_weights(folder)


# --- broken and wrong files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title>", "is a web page"),
        (b"\n  <html><body>Sign in", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "is a git-lfs pointer"),
        (b"\x1f\x8b\x08" + bytes(50), "compressed archive"),
        (b"garbage that is nothing at all", "download it again"),
        (bytes(100), "download it again"),
        (b'{"error": "Entry not found"}', "download it again"),
    ],
)
def test_what_failed_downloads_leave(tmp_path, suffix, content, words):
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_weights(file)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("c2l", None), ("c2l", "plain"), ("efficientnet_lite0", None), ("gloria", "legacy"), ("rad_dino", None)],
)
def test_truncated_files(tmp_path, name, kind):
    path = write_checkpoint(name, tmp_path, small=True, kind=kind)
    file = path / "model.safetensors" if path.is_dir() else path
    content = file.read_bytes()
    for part in (0.00001, 0.002, 0.5, 0.999):
        file.write_bytes(content[: max(int(part * len(content)), 5)])
        with pytest.raises(DataError, match="download it again"):
            read_weights(path)


def test_zip_archives_that_are_no_checkpoints(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    with pytest.raises(DataError, match="TorchScript archive: it contains code"):
        read_weights(tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "a.bin", "w") as archive:
        archive.writestr("inner.pth", b"x")
    with pytest.raises(DataError, match="zip archive without torch weights"):
        read_weights(tmp_path / "a.bin")
    content = bytearray((tmp_path / "a.bin").read_bytes())
    content[content.rindex(b"PK\x01\x02")] ^= 1
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(DataError, match="damaged table of contents"):
        read_weights(tmp_path / "a.bin")


# --- malicious files -------------------------------------------------------------------------------------------------


class Reduce:
    """Pickles as a call of `function` with `arguments`, with `state` set on the result."""

    def __init__(self, function, *arguments, state=None):
        self.answer = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.answer

    def __call__(self):
        """Pickle wants what is called to be callable."""


class Gadget:
    """A class that can be imported here and acts as soon as its state is set."""

    def __init__(self, marker: Path | None = None):
        self.marker = marker

    def __setstate__(self, state):
        Path(state["marker"]).touch()


def attacks(marker: Path) -> dict[str, object]:
    """Objects that would create `marker` when unpickled."""
    touch = f"touch {marker}"
    python = f"open({str(marker)!r}, 'w')"
    command = partial(os.system, touch)
    return {
        "system": Reduce(os.system, touch),
        "eval": Reduce(eval, python),
        "exec": Reduce(exec, python),
        "setstate": Reduce(partial, print, state=(os.system, (touch,), {}, None)),
        "partial": Reduce(operator.methodcaller("__call__"), command),
        "getattr": Reduce(Reduce(getattr, Reduce(__import__, "os"), "system"), touch),
        "open": Reduce(open, str(marker), "w"),
        "path": Reduce(Path.touch, marker),
    }


def places(attack: object) -> dict[str, object]:
    """Where a checkpoint can hide it."""
    state = {"a": torch.ones(2)}
    return {
        "alone": attack,
        "beside": {"state_dict": state, "epoch": attack},
        "hyper_parameters": {"state_dict": state, "hyper_parameters": {"model": [{"vision": (attack,)}]}},
        "key": {"state_dict": state, "x": {"y": attack}},
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["alone", "beside", "hyper_parameters", "key"])
@pytest.mark.parametrize("name", ["system", "eval", "exec", "setstate", "partial", "getattr", "open", "path"])
def test_malicious_files_are_refused_and_do_nothing(tmp_path, name, place, zipped):
    marker = tmp_path / "executed"
    file = tmp_path / "weights.ckpt"
    torch.save(places(attacks(marker)[name])[place], file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match=r"weights\.ckpt names the Python function .* nothing of it was executed"):
        read_weights(file)
    assert not marker.exists()


def test_the_attacks_would_work(tmp_path):
    """The files above are dangerous: an ordinary unpickler runs them."""
    for name in ("system", "eval", "getattr", "open", "path"):
        marker = tmp_path / name
        pickle.loads(pickle.dumps(attacks(marker)[name]))
        assert marker.exists(), name
    pickle.loads(pickle.dumps(Gadget(tmp_path / "gadget")))
    assert (tmp_path / "gadget").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_project_class_that_can_be_imported_is_inert_all_the_same(tmp_path, zipped):
    marker = tmp_path / "executed"
    content = {"model": {"a": torch.ones(2)}, "args": Gadget(marker)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    weights = read_weights(tmp_path / "a.pth")
    assert not marker.exists() and f"{__name__}.Gadget" in weights.inert


FUNCTIONS = """os system|posix system|nt system|subprocess Popen|commands getoutput|sys exit|sys modules|builtins eval
builtins exec|builtins getattr|builtins __import__|builtins open|builtins setattr|__builtin__ eval|__builtin__ apply
runpy run_path|importlib import_module|importlib._bootstrap x|shutil rmtree|socket socket|ctypes CDLL|functools partial
operator attrgetter|pickle loads|webbrowser open|timeit timeit|pathlib Path.unlink|collections _sys.exit|code interact
types FunctionType|types CodeType|copyreg add_extension|argparse FileType|typing _eval_type|logging.config listen
torch.serialization os.system|numpy os.system|multiprocessing.util spawnv_passfds"""


@pytest.mark.parametrize("function", FUNCTIONS.replace("\n", "|").split("|"))
def test_globals_that_can_act_are_refused_or_inert(tmp_path, function):
    """However a file names a function, it is not imported, not called, and the file is named."""
    module, name = function.split()
    before = set(sys.modules)
    for opcodes in (
        b"\x80\x02c" + f"{module}\n{name}\n".encode(),
        b"\x80\x04" + b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)) + b"\x93",
    ):
        file = tmp_path / "a.pt"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", opcodes + b"(tR.")
            archive.writestr("archive/version", "3\n")
        with pytest.raises(DataError, match=r"a\.pt (names the Python function|cannot be read|holds no named tensors)"):
            read_weights(file)
    assert module in before or module not in sys.modules


def test_a_tensor_beyond_its_numbers_is_refused(tmp_path):
    with foreign_classes("elsewhere.Settings") as made:
        content = {"model": {"a": torch.ones(4)}, "s": made["elsewhere.Settings"]()}
        torch.save(content, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    key = next(name for name in records if name.endswith("data.pkl"))
    assert records[key].count(b"K\x04\x85") == 1  # the tensor's size, (4,)
    records[key] = records[key].replace(b"K\x04\x85", b"K\xff\x85")
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    with pytest.raises(DataError, match=r"a\.pt cannot be read as a torch checkpoint"):
        read_weights(tmp_path / "a.pt")


# --- at full size ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
@pytest.mark.parametrize("name", FACTS_WRITTEN)
def test_full_size_checkpoints_fill_the_real_networks(tmp_path, monkeypatch, name):
    """Names and shapes alone, every tensor a view of one number: the small files above are truly written and read."""
    one, state, facts = torch.full((), 0.5), {}, FACTS[name]
    monkeypatch.setattr(fixtures, "random_state", lambda shapes, seed: {n: one.expand(s) for n, s in shapes.items()})

    def take(made):
        state.update(made)
        raise InterruptedError  # before anything is written

    with pytest.raises(InterruptedError):
        write_checkpoint(name, tmp_path, edit=take)
    # As audits of the real files report: 372 tensors in BioViL-T's; a ResNet-18's 120 and the two of C2L's head.
    assert len(state) == {"biovil_t": 372, "c2l": 122}.get(name, len(state)) > 0
    state = {key.removeprefix("encoder.module."): value for key, value in state.items()}
    for feature in getattr(facts, "features", [None]):
        with torch.device("meta"):
            network = build_backbone(facts, feature) if feature else build_encoder(config_of(facts))
        assert load_state(facts, Weights(tmp_path, "", state), network).unexpected == ()
        if name in TEXT_ENCODERS:
            assert sum(p.numel() for p in network.parameters()) == facts.parameters
