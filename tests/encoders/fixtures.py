"""Checkpoints with random weights, laid out exactly as each encoder's original project saves them.

`write_checkpoint(name, folder)` writes one at full size; `small=True` keeps the names and cuts widths and depths. Keys,
wrappers and companions (optimizer, arguments, decoder, text tower ...) follow the code that writes or reads the real
files. Objects of libraries that are not installed here (omegaconf, Lightning) are pickled from modules that exist only
while the file is written.
"""

import argparse
import contextlib
import enum
import functools
import json
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torchvision
from safetensors.torch import save_file
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
Make = Callable[[Shapes], State]  # values for the tensors of a file
Edit = Callable[[State], State]
MAE_PATCH, DINO_PATCH = 16, 14
RESNET_CUT = 8  # small ResNets have an eighth of the channels


# --- values ----------------------------------------------------------------------------------------------------------


def random_state(shapes: Shapes, seed: int) -> State:
    """Values that a network can run on: norms near one, positive variances, small weights."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, shape in shapes.items():
        if name.endswith(("num_batches_tracked", "position_ids")):
            state[name] = torch.tensor(100) if not shape else torch.arange(shape[-1])[None]
            continue
        values = torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            state[name] = values.abs() + 0.5
        elif len(shape) == 1 and name.endswith((".weight", ".gamma", "lambda1")):
            state[name] = 1 + 0.1 * values
        else:
            state[name] = 0.04 * values
    return state


# --- shapes, by the names in the files -------------------------------------------------------------------------------


def linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def batch_norm(name: str, width: int) -> Shapes:
    statistics = {f"{name}.running_mean": (width,), f"{name}.running_var": (width,), f"{name}.num_batches_tracked": ()}
    return norm(name, width) | statistics


def kept(make: Callable[..., Shapes]) -> Callable[..., Shapes]:
    """Networks are built once for their names and shapes; every call has a dictionary of its own."""
    made = functools.cache(make)
    return lambda *sizes, **options: dict(made(*sizes, **options))


def shapes_of(build: Callable[[], nn.Module], prefix: str = "") -> Shapes:
    """Names and shapes of a network's tensors, without the tensors."""
    with torch.device("meta"):
        return {prefix + name: tuple(value.shape) for name, value in build().state_dict().items()}


@kept
def vit_blocks(name: str, depth: int, width: int) -> Shapes:
    """Blocks of a Vision Transformer as timm and MAE name them."""
    return shapes_of(lambda: nn.Sequential(*(Block(width, 2, qkv_bias=True) for _ in range(depth))), f"{name}.")


@kept
def vit(width: int, depth: int, patch: int, side: int, layer_scale: bool = False) -> Shapes:
    """A Vision Transformer of side x side patches without head, in timm's names."""
    options = {"num_heads": 2, "num_classes": 0, "init_values": 1.0 if layer_scale else None}
    return shapes_of(lambda: VisionTransformer(patch * side, patch, embed_dim=width, depth=depth, **options))


@kept
def huggingface_dinov2(width: int, depth: int, side: int, in_memory: bool = False) -> Shapes:
    """Dinov2Model of side x side patches: names of its files, or of transformers 5's `state_dict()`."""
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "image_size": DINO_PATCH * side}
    config = Dinov2Config(num_attention_heads=2, patch_size=DINO_PATCH, **sizes)
    shapes = shapes_of(lambda: Dinov2Model(config))
    return shapes if in_memory else {replaced(name, IN_FILES): shape for name, shape in shapes.items()}


def replaced(text: str, table: dict[str, str]) -> str:
    for old, new in table.items():
        text = text.replace(old, new)
    return text


IN_FILES = {"attention.o_proj": "attention.output.dense"}
IN_FILES |= {f"attention.{part[0]}_proj": f"attention.attention.{part}" for part in ("query", "key", "value")}
IN_TRANSFORMERS = {
    "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection", "attn.proj": "attention.o_proj",
}  # fmt: skip
DINOV2 = {"blocks.": "encoder.layer.", "ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
PLAIN = {"blocks.": "layers.", "norm1": "layernorm_before", "norm2": "layernorm_after"}


def transformers_names(name: str, dinov2: bool = True) -> list[str]:
    """A tensor of timm's ViT in transformers' Dinov2Model or ViTModel, in memory: three of query, key and value."""
    name = "layernorm" + name.removeprefix("norm") if name.startswith("norm.") else name
    name = replaced(name, IN_TRANSFORMERS | (DINOV2 if dinov2 else PLAIN))
    return [name.replace("attn.qkv", f"attention.{part}_proj") for part in ("qkv" if ".qkv." in name else "q")]


def small_resnet(architecture: str) -> torchvision.models.ResNet:
    """ResNet-18 or -50 with one block a stage and an eighth of the channels."""
    block = {"resnet18": torchvision.models.resnet.BasicBlock, "resnet50": torchvision.models.resnet.Bottleneck}
    network = torchvision.models.ResNet(block[architecture], [1, 1, 1, 1])
    for name, layer in network.named_modules():
        tensors = (*layer._parameters.items(), *layer._buffers.items()) if name != "fc" else ()
        for kind, tensor in tensors:
            if tensor is not None and tensor.ndim:
                inputs = tensor.shape[1] if tensor.ndim > 1 else 1
                smaller = tensor.detach()[: tensor.shape[0] // RESNET_CUT]
                smaller = smaller[:, : inputs // RESNET_CUT] if inputs > 3 else smaller
                setattr(layer, kind, nn.Parameter(smaller.clone()) if kind in layer._parameters else smaller.clone())
    return network


@kept
def resnet(architecture: str, small: bool, prefix: str = "", fc: bool = True) -> Shapes:
    """torchvision's ResNet, 320 tensors for ResNet-50 with its `fc`."""
    whole = partial(torchvision.models.get_model, weights=None)
    shapes = shapes_of(lambda: (small_resnet if small else whole)(architecture))
    return {prefix + name: shape for name, shape in shapes.items() if fc or not name.startswith("fc.")}


@kept
def bert(
    prefix: str, width: int, depth: int, vocabulary: int, old_names: bool = False, position_ids: bool = False
) -> Shapes:
    """A BERT without pooler; `old_names` calls weight and bias of layer norms gamma and beta."""
    sizes = {"vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": depth}
    config = BertConfig(num_attention_heads=2, intermediate_size=4 * width, **sizes)
    shapes = {"embeddings.position_ids": (1, 512)} if position_ids else {}
    shapes |= shapes_of(lambda: BertModel(config, add_pooling_layer=False))
    for new, old in (("weight", "gamma"), ("bias", "beta")) if old_names else ():
        shapes = {name.replace(f"LayerNorm.{new}", f"LayerNorm.{old}"): shape for name, shape in shapes.items()}
    return {prefix + name: shape for name, shape in shapes.items()}


# --- objects of libraries that are not here --------------------------------------------------------------------------


@contextlib.contextmanager
def foreign_classes(*names: str) -> Iterator[dict[str, type]]:
    """Classes `package.module.Name` that can be pickled inside the block and cannot be imported after it."""
    classes, modules = {}, {}
    for full in names:
        module, name = full.rsplit(".", 1)
        for depth in range(1, module.count(".") + 2):
            part = ".".join(module.split(".")[:depth])
            if part not in sys.modules:
                modules[part] = sys.modules[part] = types.ModuleType(part)
        base = (enum.Enum,) if name.endswith("Enum") else (dict,) if name.endswith("Dict") else (object,)
        made = enum.Enum(name, "FIRST SECOND", module=module) if base == (enum.Enum,) else type(name, base, {})
        made.__module__ = module
        setattr(sys.modules[module], name, made)
        classes[full] = made
    try:
        yield classes
    finally:
        for part in modules:
            del sys.modules[part]


def saved(content: object, file: Path, zipped: bool = True) -> Path:
    """Write a file in the format of its suffix, torch's `zipped` or as before torch 1.6; its path comes back."""
    if file.suffix == ".safetensors":
        save_file(content, file, metadata={"format": "pt"})
    else:
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file


def _filled(made: type, **attributes: object) -> object:
    made = made()
    made.__dict__.update(attributes)
    return made


# --- one function per project ----------------------------------------------------------------------------------------


def _optimizer(state: State) -> dict:
    """As torch.optim.AdamW saves itself, for the first tensor only."""
    first = next(iter(state.values()))
    return {
        "state": {0: {"step": 1000, "exp_avg": torch.zeros_like(first), "exp_avg_sq": torch.zeros_like(first)}},
        "param_groups": [{"lr": 1.5e-4, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.05, "params": [0]}],
    }


def _mae_checkpoint(state: State, epoch: int) -> dict:
    """misc.save_model of MAE: everything the training needs to go on."""
    args = argparse.Namespace(batch_size=256, epochs=800, output_dir=Path("out"))
    return {"model": state, "optimizer": _optimizer(state), "epoch": epoch, "scaler": {"scale": 65536.0}, "args": args}


def _size(small: bool, width: int = 768, depth: int = 12) -> tuple[int, int]:
    return (16, 2) if small else (width, depth)


def _rad_dino(folder: Path, make: Make, small: bool, kind: str, width: int = 768) -> Path:
    """Hugging Face folder, or DINOv2's own names in backbone_compatible.safetensors."""
    width, depth = _size(small, width)
    side = 2 if small else 37
    if kind == "backbone_compatible":
        shapes = vit(width, depth, DINO_PATCH, side, layer_scale=True) | {"mask_token": (1, width)}
        return saved(make(shapes), folder / "backbone_compatible.safetensors")
    state = make(huggingface_dinov2(width, depth, side, kind == "in_memory"))
    config = {"model_type": "dinov2", "hidden_size": width, "num_hidden_layers": depth}
    config |= {"num_attention_heads": max(width // 64, 2), "image_size": side * DINO_PATCH, "patch_size": DINO_PATCH}
    config |= {"layer_norm_eps": 1e-6, "layerscale_value": 1.0, "mlp_ratio": 4, "qkv_bias": True}
    (folder / "config.json").write_text(json.dumps(config))
    if kind == "sharded":
        _write_shards(state, folder)
    else:
        saved(state, folder / ("pytorch_model.bin" if kind == "in_memory" else "model.safetensors"))
    return folder


def _write_shards(state: State, folder: Path) -> None:
    names = list(state)
    half = len(names) // 2
    files = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for file, part in zip(files, (names[:half], names[half:]), strict=True):
        saved({name: state[name] for name in part}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": {name: files[i >= half] for i, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _medical_mae(folder: Path, make: Make, small: bool, kind: str) -> Path:
    """MAE's pre-training file with its decoder, or ("finetuned") the classifier that lost the final norm."""
    width, depth = _size(small)
    decoder = 8 if small else 512
    side = 2 if small else 14
    shapes = vit(width, depth, MAE_PATCH, side)
    if kind == "finetuned":
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("norm.")}
        shapes |= norm("fc_norm", width) | linear("head", 5, width)
    else:
        shapes |= {"mask_token": (1, 1, decoder), "decoder_pos_embed": (1, side**2 + 1, decoder)}
        shapes |= linear("decoder_embed", decoder, width) | vit_blocks("decoder_blocks", 8, decoder)
        shapes |= norm("decoder_norm", decoder) | linear("decoder_pred", 3 * MAE_PATCH**2, decoder)
    name = "vit-b_CXR_0.5M_mae_CheXpert.pth" if kind == "finetuned" else "vit-b_CXR_0.5M_mae.pth"
    return saved(_mae_checkpoint(make(shapes), 799), folder / name)


def _mrm(folder: Path, make: Make, small: bool, kind: str) -> Path:
    """MRM.pth with its decoder and report encoder, or BenchX's own training with a prefix."""
    width, depth = _size(small)
    side = 2 if small else 14
    shapes = vit(width, depth, MAE_PATCH, side)
    if kind == "benchx":
        shapes = {f"vision_encoder.visual.{name}": shape for name, shape in shapes.items()}
        shapes |= bert("text_encoder.", 16, 1, 50)
        return saved({"state_dict": make(shapes), "epoch": 30}, folder / "mrm_benchx.pth")
    shapes |= {"mask_token": (1, 1, width), "decoder_pos_embed": (1, (2 * side) ** 2 + 1, width)}
    shapes |= linear("decoder_embed", width, width) | vit_blocks("decoder_blocks", 4, width)
    shapes |= norm("decoder_norm", width) | linear("decoder_pred", 3 * (2 * MAE_PATCH) ** 2, width)
    shapes |= linear("bert_mlp", width, width) | bert("bert_encoder.model.bert.", 16, 1, 50, position_ids=True)
    return saved(_mae_checkpoint(make(shapes), 199), folder / "MRM.pth")


def _c2l(folder: Path, make: Make, small: bool, kind: str) -> Path:
    """train_C2L_res18.py's checkpoint; `kind` is the prefix ("encoder.module." as saved) or "plain"."""
    shapes = resnet("resnet18", small, fc=False) | linear("fc", 128, 512)
    if kind == "plain":
        return saved(make(shapes), folder / "C2L_res18_model.pt")
    state = make({kind + name: shape for name, shape in shapes.items()})
    opt = argparse.Namespace(model="resnet18", nce_k=16384, moco=True, model_path=Path("models"))
    content = {"opt": opt, "model": state, "contrast": {"memory": torch.zeros(4, 4)}, "optimizer": _optimizer(state)}
    content |= {"epoch": 200, "model_ema": {name: value + 1 for name, value in state.items()}, "amp": {}}
    return saved(content, folder / "ckpt_epoch_200.pth")


def _biovil(folder: Path, make: Make, small: bool, kind: str, temporal: bool = False) -> Path:
    """hi-ml's ImageModel, a bare state dict: 372 tensors with the temporal part, 328 without."""
    shapes = resnet("resnet50", small, "encoder.encoder.")
    inputs = width = 2048 // RESNET_CUT if small else 2048
    if temporal:
        inputs = 512
        shapes |= {"encoder.backbone_to_vit.weight": (256, width, 1, 1), "encoder.missing_previous_emb": (1, 256, 1, 1)}
        for i in range(3):
            block = f"encoder.vit_pooler.blocks.{i}"
            shapes |= norm(f"{block}.norm1", 256) | norm(f"{block}.norm2", 256)
            shapes |= {f"{block}.attn.{part}.weight": (256, 256) for part in ("proj_q", "proj_k", "proj_v")}
            for part in ("attn.proj", "mlp.fc1", "mlp.fc2"):
                shapes |= linear(f"{block}.{part}", 256, 256)
        shapes |= norm("encoder.vit_pooler.norm_post", 256) | {"encoder.vit_pooler.type_embed": (2, 1, 256)}
    shapes |= {"projector.model.0.weight": (128, inputs, 1, 1)} | batch_norm("projector.model.1", 128)
    shapes |= {"projector.model.3.weight": (128, 128, 1, 1), "projector.model.3.bias": (128,)}
    stem = "biovil_t_image_model" if temporal else "biovil_image_resnet50"
    return saved(make(shapes), folder / f"{stem}_proj_size_128.pt")


def _gloria(folder: Path, make: Make, small: bool, kind: str) -> Path:
    """A Lightning checkpoint whose hyper-parameters are an omegaconf object."""
    prefix = "gloria.img_encoder."
    cut = RESNET_CUT if small else 1
    shapes = resnet("resnet50", small, prefix + "model.", fc=False)
    shapes |= linear(prefix + "global_embedder", 768, 2048 // cut)
    shapes |= {prefix + "local_embedder.weight": (768, 1024 // cut, 1, 1)}
    width, depth = _size(True)
    shapes |= bert("gloria.text_encoder.model.", width, depth, 50, position_ids=True)
    shapes |= linear("gloria.text_encoder.model.pooler.dense", width, width)
    names = (
        "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig",
        "omegaconf.base.ContainerMetadata",
        "omegaconf.nodes.AnyNode",
        "gloria.constants.PhaseEnum",
        "pytorch_lightning.utilities.parsing.AttributeDict",
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    )
    with foreign_classes(*names) as made:
        config, items, about, node, phase, attributes, callback = (made[name] for name in names)
        metadata = _filled(about, ref_type=dict, object_type=dict, optional=True, key=None, flags={}, element_type=str)
        leaf = _filled(node, _metadata=metadata, _parent=None, _val="resnet_50")
        # A DictConfig with state but without items, as its own __getstate__ leaves it.
        config.__reduce_ex__ = lambda self, protocol: (type(self), (), self.__dict__)
        hyper = _filled(config, _metadata=metadata, _parent=None, _content={"model_name": leaf})
        sizes = _filled(items, _metadata=metadata, _parent=hyper, _content=[leaf, leaf])
        content = {
            "epoch": 25,
            "global_step": 80_000,
            "pytorch-lightning_version": "1.1.4",
            "callbacks": {callback: {"best_model_score": torch.tensor(1.5), "best_model_path": Path("best.ckpt")}},
            "optimizer_states": [],
            "lr_schedulers": [{"best": 1.5, "factor": 0.5}],
            "state_dict": make(shapes),
            "hparams_name": "hparams",
            "hyper_parameters": attributes(config=hyper, sizes=sizes, phase=phase.FIRST),
        }
        return saved(content, folder / "chexpert_resnet50.ckpt", zipped=kind != "legacy")


def _biomedclip(folder: Path, make: Make, small: bool, kind: str) -> Path:
    """open_clip's folder with both towers; the text tower is cut to two narrow layers."""
    width, depth = _size(small)
    shapes = {f"visual.trunk.{name}": shape for name, shape in vit(width, depth, MAE_PATCH, 2 if small else 14).items()}
    shapes |= {"visual.head.proj.weight": (512, width), "logit_scale": ()}
    shapes |= bert("text.transformer.", 16, 2, 50, position_ids=True)
    shapes |= {"text.proj.0.weight": (640, 16), "text.proj.2.weight": (512, 640)}
    state = make(shapes)
    vision = {"timm_model_name": "vit_base_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 224}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 512, "vision_cfg": vision}}))
    saved(state, folder / ("open_clip_model.safetensors" if kind == "safetensors" else "open_clip_pytorch_model.bin"))
    return folder


def _efficientnet_lite0(folder: Path, make: Make, small: bool, kind: str) -> Path:
    """lukemelas's port, in the format of torch before 1.6; always at full size, it is small."""
    rows = ((1, 3, 1, 32, 16), (2, 3, 6, 16, 24), (2, 5, 6, 24, 40), (3, 3, 6, 40, 80))
    rows += ((3, 5, 6, 80, 112), (4, 5, 6, 112, 192), (1, 3, 6, 192, 320))
    shapes = {"_conv_stem.weight": (32, 3, 3, 3)} | batch_norm("_bn0", 32)
    number = 0
    for repeats, kernel, expansion, first, outputs in rows:
        for repeat in range(repeats):
            inputs = first if repeat == 0 else outputs
            inner, block = inputs * expansion, f"_blocks.{number}"
            if expansion > 1:
                shapes |= {f"{block}._expand_conv.weight": (inner, inputs, 1, 1)} | batch_norm(f"{block}._bn0", inner)
            shapes |= {f"{block}._depthwise_conv.weight": (inner, 1, kernel, kernel)}
            shapes |= batch_norm(f"{block}._bn1", inner)
            shapes |= {f"{block}._project_conv.weight": (outputs, inner, 1, 1)} | batch_norm(f"{block}._bn2", outputs)
            number += 1
    shapes |= {"_conv_head.weight": (1280, 320, 1, 1)} | batch_norm("_bn1", 1280) | linear("_fc", 1000, 1280)
    return saved(make(shapes), folder / "efficientnet-lite0-57934424.pth", zipped=False)


def vocabulary_lines(lowercase: bool, count: int) -> list[str]:
    """A WordPiece vocabulary of `count` entries that can spell any Latin word: special tokens where BERT has them."""
    letters = "abcdefghijklmnopqrstuvwxyz" + ("" if lowercase else "ABCDEFGHIJKLMNOPQRSTUVWXYZ") + "0123456789"
    special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*".,:;-/()%", *letters, *("##" + letter for letter in letters)]
    unused = [f"[unused{i}]" for i in range(count - 1 - len(special) - len(pieces))]
    return ["[PAD]", *unused[:99], *special, *pieces, *unused[99:]][:count]


def _text(folder: Path, make: Make, small: bool, kind: str, style: str, lowercase: bool = True) -> Path:
    """A Hugging Face folder of a BERT: config.json, vocab.txt, tokenizer_config.json and weights."""
    width, depth = (384, 6) if style == "sentence" else (768, 12)
    width, depth = _size(small, width, depth)
    vocabulary = 300 if small else 30_522 if lowercase else 28_996
    prefix = "" if style == "sentence" else "bert."
    shapes = bert(prefix, width, depth, vocabulary, old_names=kind == "old_names", position_ids=style != "cxr")
    if style != "sentence":
        shapes |= {"cls.predictions.bias": (vocabulary,)} | linear("cls.predictions.transform.dense", width, width)
        shapes |= norm("cls.predictions.transform.LayerNorm", width)
    config = {"model_type": "bert", "vocab_size": vocabulary, "hidden_size": width}
    heads = 2 if small else 12  # MiniLM too, of half the width
    config |= {"num_hidden_layers": depth, "num_attention_heads": heads, "intermediate_size": 4 * width}
    config |= {"max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0}
    config |= {"hidden_act": "gelu"}
    if style == "cxr":
        shapes |= {"cls.predictions.decoder.weight": (vocabulary, width), "cls.predictions.decoder.bias": (vocabulary,)}
        shapes |= linear("cls_projection_head.dense_to_hidden", 128, width)
        shapes |= norm("cls_projection_head.LayerNorm", 128) | linear("cls_projection_head.dense_to_output", 128, 128)
        code = {"AutoConfig": "configuration_cxrbert.CXRBertConfig", "AutoModel": "modeling_cxrbert.CXRBertModel"}
        config |= {"model_type": "cxr-bert", "architectures": ["CXRBertModel"], "projection_size": 128}
        config |= {"auto_map": code}
    elif style == "clinical":
        shapes |= linear("bert.pooler.dense", width, width) | linear("cls.seq_relationship", 2, width)
    elif style == "sentence":
        shapes |= linear("pooler.dense", width, width)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(vocabulary_lines(lowercase, vocabulary)) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": lowercase, "tokenizer_class": "BertTokenizer", "model_max_length": 512})
    )
    name = "model.safetensors" if kind == "safetensors" or style == "sentence" else "pytorch_model.bin"
    saved(make(shapes), folder / name, zipped=style != "clinical")
    return folder


WRITERS: dict[str, tuple[Callable[..., Path], tuple[str, ...]]] = {
    "rad_dino": (_rad_dino, ("folder", "backbone_compatible", "in_memory", "sharded")),
    "medical_mae": (_medical_mae, ("pretrained", "finetuned")),
    "mrm": (_mrm, ("raw", "benchx")),
    "c2l": (_c2l, ("encoder.module.", "module.encoder.", "encoder.", "module.", "plain")),
    "biovil_t": (partial(_biovil, temporal=True), ("hi-ml",)),
    "biovil": (_biovil, ("hi-ml",)),
    "gloria": (_gloria, ("lightning", "legacy")),
    "biomedclip": (_biomedclip, ("bin", "safetensors")),
    "dinov2_s14": (partial(_rad_dino, width=384), ("folder", "backbone_compatible", "in_memory", "sharded")),
    "efficientnet_lite0": (_efficientnet_lite0, ("lukemelas",)),
    "biovil_t_bert": (partial(_text, style="cxr"), ("bin", "safetensors")),
    "cxr_bert_general": (partial(_text, style="cxr"), ("bin", "safetensors")),
    "bio_clinicalbert": (partial(_text, style="clinical", lowercase=False), ("bin", "old_names", "safetensors")),
    "pubmedbert": (partial(_text, style="plain"), ("bin", "safetensors")),
    "minilm": (partial(_text, style="sentence"), ("safetensors",)),
}
"""Encoder -> (writer, kinds of file it can write, the first is the default)."""


def write_checkpoint(
    name: str,
    folder: Path,
    seed: int = 0,
    small: bool = False,
    kind: str | None = None,
    edit: Edit | None = None,
) -> Path:
    """Write a checkpoint of random weights and return the path a user would give: a file or a folder.

    `small` is width 16 and two blocks (ResNets: one block a stage, an eighth of the channels) instead of the real size;
    `kind` one of the layouts in `WRITERS`, by default the first. `edit` changes the state dict before it is wrapped: to
    lose, rename or spoil a tensor.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    writer, kinds = WRITERS[name]

    def make(shapes: Shapes) -> State:
        state = random_state(shapes, seed)
        return edit(state) if edit else state

    return writer(folder, make, small, kind or kinds[0])
