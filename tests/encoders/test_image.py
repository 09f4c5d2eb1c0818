"""Frozen image encoders against independent implementations with the same random weights."""

import functools
import inspect

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from pkd_utils.encoders import IMAGE_ENCODERS, load_image_encoder
from pkd_utils.encoders.backbones import (
    build_backbone,
    fit_position_embeddings,
    use_fused_attention,
    vision_transformer,
)
from pkd_utils.encoders.downloads import find_weights
from pkd_utils.runs import machine
from pkd_utils.runs.errors import DataError
from tests.encoders.fixtures import transformers_names, write_checkpoint

FEATURES = [(name, feature) for name, facts in IMAGE_ENCODERS.items() for feature in facts.features]
VITS = ("rad_dino", "medical_mae", "mrm", "biomedclip", "dinov2_s14")
DEPTH = 2  # blocks that tests keep of twelve: names, widths and heads are all there


def shake(network: nn.Module, seed: int = 3) -> None:
    """Give every parameter and running statistic a value that matters: biases, scales and gammas are not 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.add_(noise.abs())
        elif tensor.is_floating_point():
            tensor.add_(noise * (0.2 if tensor.ndim == 1 else 0.02))


def drawn(name: str, **options):
    """An encoder with random weights, of a ViT two blocks."""
    with pytest.MonkeyPatch.context() as patch:
        if name in VITS:
            patch.setattr(timm, "create_model", functools.partial(timm.create_model, depth=DEPTH))
        return load_image_encoder(name, "random", **options)


def loaded(name: str, **options):
    """An encoder with random weights that matter."""
    encoder = drawn(name, **options)
    shake(encoder.network)
    return encoder


def batch(encoder, count: int = 2, seed: int = 5) -> torch.Tensor:
    side = encoder.input_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Within 1e-5 of the largest value, or of the spread if that is larger."""
    assert ours.shape == theirs.shape and ours.dtype == torch.float32
    assert (ours - theirs).abs().max() < 1e-5 * max(theirs.std(), theirs.abs().max())


# --- transformers ----------------------------------------------------------------------------------------------------


def in_transformers(vit: nn.Module) -> nn.Module:
    """A timm ViT, DINOv2's (with layer scale) or a plain one, as transformers' own, weight by weight."""
    sizes = {"num_hidden_layers": DEPTH, "layer_norm_eps": 1e-6, "hidden_size": vit.embed_dim}
    sizes |= {"num_attention_heads": vit.embed_dim // 64}
    patch, dino = vit.patch_embed.patch_size[0], "blocks.0.ls1.gamma" in vit.state_dict()
    sizes |= {"image_size": patch * vit.patch_embed.grid_size[0], "patch_size": patch}
    with torch.device("meta"):
        model = Dinov2Model(Dinov2Config(**sizes)) if dino else ViTModel(ViTConfig(**sizes), add_pooling_layer=False)
    state = {}
    for name, tensor in vit.state_dict().items():
        names = transformers_names(name, dino)
        state |= dict(zip(names, tensor.chunk(len(names)), strict=True))
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    assert set(missing) <= {"embeddings.mask_token"} and not unexpected
    return model.eval()


@pytest.mark.parametrize("library", ["MKL", "oneDNN"])
@pytest.mark.parametrize("name", VITS)
def test_vision_transformers_equal_transformers(name, library, monkeypatch):
    monkeypatch.setattr(machine, "fp32_products", lambda: library)
    encoder = loaded(name, include_cls=True, input_size=112)  # a multiple of either patch
    vit, x = vision_transformer(encoder.network), batch(encoder)
    with torch.no_grad():
        theirs = in_transformers(vit)(x, output_hidden_states=True)
    ours, together = encoder.encode(x), encoder.tokens(x)
    close(ours.patches, theirs.last_hidden_state[:, 1:])
    close(ours.cls, theirs.last_hidden_state[:, 0])
    assert torch.equal(together[:, 0], ours.cls) and torch.equal(together[:, 1:], ours.patches)
    identity = encoder.identity
    encoder.include_cls = False
    assert torch.equal(encoder.tokens(x), ours.patches) and encoder.identity != identity
    with torch.no_grad():
        before = encoder.facts.tokens(encoder.network, "pre_norm", x, True)
    close(before, theirs.hidden_states[-1])
    assert (before - together).abs().max() > 0.1  # the norm matters


def test_biomedclip_projects_patches_and_class_token():
    encoder = loaded("biomedclip", feature="projected")
    x = batch(encoder, 1)
    with torch.no_grad():
        hidden = in_transformers(encoder.network.trunk)(x).last_hidden_state @ encoder.network.proj.weight.T
    ours = encoder.encode(x)
    close(ours.patches, hidden[:, 1:])
    close(ours.cls, hidden[:, 0])


def test_dinov2_from_a_file_with_a_larger_grid_equals_transformers(tmp_path):
    """The file's position embeddings are those of 37 x 37 patches; transformers resizes them at every call."""
    folder = write_checkpoint("dinov2_s14", tmp_path, seed=1)
    encoder = load_image_encoder("dinov2_s14", folder)
    x = batch(encoder, 1)
    with torch.no_grad():
        theirs = Dinov2Model.from_pretrained(folder).eval()(x).last_hidden_state
    close(encoder.encode(x).patches, theirs[:, 1:])
    close(encoder.encode(x).cls, theirs[:, 0])


# --- convolutional ---------------------------------------------------------------------------------------------------


def timm_resnet(architecture: str, state: dict) -> nn.Module:
    """timm's ResNet, whose code is not torchvision's, with the same weights."""
    with torch.device("meta"):
        network = timm.create_model(architecture, num_classes=0, features_only=True, out_indices=(3, 4))
    missing, unexpected = network.load_state_dict(state, strict=False, assign=True)
    assert not missing and not unexpected
    return network.eval()


def row_major(feature_map: torch.Tensor) -> torch.Tensor:
    rows, columns = feature_map.shape[2:]
    return torch.stack([feature_map[:, :, r, c] for r in range(rows) for c in range(columns)], 1)


@pytest.mark.parametrize("feature", ["layer3", "layer4"])
def test_c2l_equals_timms_resnet(feature):
    encoder = loaded("c2l", feature=feature)
    x = batch(encoder)
    with torch.no_grad():
        stages = dict(zip(("layer3", "layer4"), timm_resnet("resnet18", encoder.network.state_dict())(x), strict=True))
    close(encoder.tokens(x), row_major(stages[feature]))
    assert encoder.encode(x).cls is None


def enlarge(x: torch.Tensor, side: int) -> torch.Tensor:
    """Bilinear with the corners of both images aligned, by hand."""
    where = torch.linspace(0, x.shape[-1] - 1, side, dtype=torch.float64)
    low = where.floor().long().clamp(max=x.shape[-1] - 2)
    share = where - low
    x = x.double()
    x = x[..., low] * (1 - share) + x[..., low + 1] * share
    x = x[..., low, :] * (1 - share)[:, None] + x[..., low + 1, :] * share[:, None]
    return x.float()


@pytest.mark.parametrize("upsample", [True, False])
def test_gloria_equals_a_forward_from_scratch(upsample):
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(5))
    encoder = loaded("gloria", feature="projected", upsample=upsample)
    resnet = timm_resnet("resnet50", encoder.network.model.state_dict())
    with torch.no_grad():
        layer3, layer4 = resnet(enlarge(x, 299) if upsample else x)
        projected = torch.einsum("oi,bihw->bohw", encoder.network.local_embedder.weight[:, :, 0, 0], layer3)
        close(encoder.tokens(x), row_major(projected))
        for feature, expected in (("local", layer3), ("layer4", layer4)):
            close(encoder.facts.tokens(encoder.network, feature, x, upsample), row_major(expected))
    assert encoder.grid == ((19, 19) if upsample else (14, 14))
    deeper = load_image_encoder("gloria", "random", feature="layer4", upsample=upsample)
    assert deeper.grid == deeper.feature.grid == ((10, 10) if upsample else (7, 7))


def test_biovil_t_equals_a_forward_from_scratch():
    encoder = loaded("biovil_t", feature="projected")
    network, x = encoder.network, torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        resnet = timm_resnet("resnet50", network.encoder.state_dict())(x)[1]
        current = torch.einsum("oi,bihw->bohw", network.backbone_to_vit.weight[:, :, 0, 0], resnet)
        fused = torch.cat([current, torch.ones_like(current) * network.missing_previous_emb], 1)
        first, norm, _, last = network.projector.model
        hidden = torch.einsum("oi,bihw->bohw", first.weight[:, :, 0, 0], fused)
        by_channel = [v[:, None, None] for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias)]
        hidden = (hidden - by_channel[0]) / (by_channel[1] + 1e-5).sqrt() * by_channel[2] + by_channel[3]
        hidden = torch.einsum("oi,bihw->bohw", last.weight[:, :, 0, 0], hidden.clamp(min=0)) + last.bias[:, None, None]
        for feature, expected in (("resnet", resnet), ("current", current), ("fused", fused), ("projected", hidden)):
            close(encoder.facts.tokens(network, feature, x, True), row_major(expected))
    assert next(iter(encoder.facts.features)) == "fused"
    assert fused[:, 256:].std((0, 2, 3)).max() == 0  # the prior's channels are constant


# --- order, facts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "feature"), FEATURES)
def test_grid_and_width_are_as_facts_say(name, feature):
    """On the meta device: shapes without numbers, so every encoder at its full size."""
    facts = IMAGE_ENCODERS[name]
    said = facts.features[feature]
    with torch.device("meta"):
        network = build_backbone(facts, feature)
        fit_position_embeddings(network, said.grid)
        for side in {steps.crop for steps in facts.preprocessing.values()}:
            tokens = facts.tokens(network, feature, torch.empty(2, 3, side, side), True)
            assert tokens.shape == (2, facts.class_token + said.grid[0] * said.grid[1], said.width)
    if facts.class_token:
        patch = vision_transformer(network).patch_embed.patch_size[0]
        assert all(steps.crop == patch * said.grid[0] for steps in facts.preprocessing.values())
    parts = [part for head, part in network.named_parameters() if head.split(".")[0] not in HEADS]
    assert sum(part.numel() for part in parts) == facts.parameters


HEADS = ("proj", "local_embedder", "projector")  # of the joint spaces; not counted


@pytest.mark.parametrize(("name", "feature", "stage"), [("c2l", "layer3", "layer4"), ("gloria", "local", "layer4")])
def test_stages_behind_the_feature_are_not_computed(name, feature, stage):
    encoder = load_image_encoder(name, "random", feature=feature)
    resnet = getattr(encoder.network, "model", encoder.network)
    getattr(resnet, stage).register_forward_hook(lambda *_: pytest.fail(f"{stage} was computed"))
    encoder.tokens(batch(encoder, 1))


# --- behaviour -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return loaded("dinov2_s14", include_cls=True)


@pytest.mark.parametrize("name", ["dinov2_s14", "c2l", "efficientnet_lite0"])
def test_deterministic_and_independent_of_the_batch(name):
    encoder = loaded(name)
    x = batch(encoder, 4)
    whole = encoder.tokens(x)
    assert torch.equal(whole, encoder.tokens(x))
    close(torch.cat([encoder.tokens(one) for one in x.split(1)]), whole)


# Bounds: measured relative errors of tokens (0.005, 0.008, 0.009, 0.06), doubled.
@pytest.mark.parametrize(
    ("name", "bound"), [("dinov2_s14", 0.01), ("c2l", 0.016), ("gloria", 0.018), ("efficientnet_lite0", 0.12)]
)
def test_bf16_is_close_to_fp32(name, bound):
    exact = load_image_encoder(name, "random")
    fast = load_image_encoder(name, "random", precision="bf16")
    x = batch(exact, 1)
    a, b = exact.tokens(x), fast.tokens(x)
    assert b.dtype == torch.float32 and 0 < (a - b).norm() / a.norm() < bound
    kinds = {p.dtype for m in fast.network.modules() if isinstance(m, nn.Linear | nn.Conv2d) for p in m.parameters()}
    assert kinds == {torch.bfloat16}  # once, not at every call
    norms = [m for m in fast.network.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)]
    assert {p.dtype for m in norms for p in m.parameters()} == {torch.float32}


def test_both_kinds_of_attention_agree(small):
    x = batch(small, 1)
    results = []
    for fused in (True, False):
        use_fused_attention(small.network, fused)
        results.append(small.tokens(x))
    close(*results)


def test_random_weights_are_seeded_and_leave_the_global_generator_alone():
    torch.manual_seed(11)
    state = torch.get_rng_state()
    a, b, c = (load_image_encoder("c2l", "random", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    x = batch(a, 1)
    assert torch.equal(a.tokens(x), b.tokens(x)) and not torch.equal(a.tokens(x), c.tokens(x))
    assert a.identity == b.identity != c.identity and a.weights is None and a.keys is None


def test_frozen_even_inside_a_model_that_is_trained(small):
    model = nn.Sequential(small, nn.Linear(384, 2)).train()
    assert not any(m.training for m in small.modules()) and not any(p.requires_grad for p in small.parameters())
    model(batch(small, 1)).sum().backward()  # tokens are ordinary tensors
    assert model[1].weight.grad.abs().sum() > 0 and all(p.grad is None for p in small.parameters())


def test_a_file_gives_its_weights_and_identity(tmp_path):
    file = write_checkpoint("c2l", tmp_path / "a", seed=1)
    other = load_image_encoder("c2l", write_checkpoint("c2l", tmp_path / "b", seed=2))
    encoder = load_image_encoder("c2l", file)
    state = torch.load(file, weights_only=False)["model"]  # written by the test itself
    state = {k.removeprefix("encoder.module."): v for k, v in state.items() if ".fc." not in k}
    x = batch(encoder, 1)
    with torch.no_grad():
        close(encoder.tokens(x), row_major(timm_resnet("resnet18", state)(x)[1]))
    assert encoder.weights.sha256 and encoder.weights.file == file and not encoder.weights.state
    assert len(encoder.keys.found) == 120 and other.identity != encoder.identity


def test_identity_knows_every_option_that_changes_tokens():
    def identity(name, **options):
        return load_image_encoder(name, "random", **options).identity

    first = identity("c2l")
    assert identity("c2l", preprocessing="paper", feature="layer4", depth="minmax", precision="fp32") == first
    changes = [{"feature": "layer3"}, {"precision": "bf16"}, {"depth": 12}, {"seed": 1}]
    others = {identity("c2l", **options) for options in changes}
    others |= {identity("gloria", **options) for options in ({}, {"preprocessing": "native"}, {"upsample": False})}
    assert len(others - {first}) == len(changes) + 3


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "resnet"}, "no image encoder; there are: rad_dino, medical_mae"),
        ({"feature": "cls"}, "no feature of C2L; there are: layer4 \\(last residual stage\\)"),
        ({"preprocessing": "native"}, "no preprocessing of C2L; there are: paper \\(shorter side 224"),
        ({"include_cls": True}, "C2L \\(ResNet-18\\) has no class token"),
        ({"upsample": False}, "upsample=False is not for C2L, which never enlarges"),
        ({"precision": "fp16"}, "precision must be fp32, bf16 or auto"),
        ({"weights": None, "allow_download": True}, "C2L is on no hub: get .* from github.com"),
        ({"depth": "12"}, "depth must be"),
        ({"input_size": 0}, "multiple of 32 pixels"),
        ({"name": "dinov2_s14", "input_size": 100}, "multiple of 14 pixels, which is what a token covers, not 100"),
        ({"name": "rad_dino", "input_size": 224 + 7}, "multiple of 14 pixels"),
        ({"name": "gloria", "input_size": 448}, "upsample=False with input_size"),
    ],
)
def test_arguments_that_cannot_be(arguments, said):
    with pytest.raises(DataError, match=said):
        load_image_encoder(**{"name": "c2l", "weights": "random"} | arguments)


def test_batches_that_cannot_be(small):
    wrong = [((3, 224, 224), "float32"), ((1, 1, 224, 224), "float32"), ((1, 3, 224, 238), "float32")]
    for shape, dtype in (*wrong, ((1, 3, 224, 224), "uint8")):
        with pytest.raises(DataError, match=rf"shape \(B, 3, 224, 224\), not .* {dtype}"):
            small.tokens(torch.zeros(shape, dtype=getattr(torch, dtype)))


def test_weights_that_do_not_exist_say_what_to_get_where(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"MRM.pth of MRM from github.com/RL4M/MRM-pytorch \(licence:"):
        load_image_encoder("mrm", tmp_path / "MRM.pth")
    with pytest.raises(FileNotFoundError, match=r"No weights were given: get .*allow_download=True"):
        load_image_encoder("rad_dino", None)


def test_nothing_is_downloaded_without_consent(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []

    def download(*arguments, **options):
        asked.append((arguments, options))
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    facts = IMAGE_ENCODERS["rad_dino"]
    for name in (facts.hub, None):
        with pytest.raises(FileNotFoundError):
            find_weights(facts, name, allow_download=False)
    with pytest.raises(FileNotFoundError):  # a mistyped path is no consent to another file
        find_weights(facts, "rad-dino.safetensors", allow_download=True)
    assert not asked
    assert find_weights(facts, facts.hub, allow_download=True).name == "model.safetensors"
    assert asked == [((facts.hub, "model.safetensors"), {"revision": facts.revision})]


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch):
    import huggingface_hub

    def offline(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=r"could not be fetched from .*biomedclip|BiomedCLIP.*HF_HUB_OFFLINE is set"):
        load_image_encoder("biomedclip", None, allow_download=True)


def test_defaults_are_those_of_the_contract():
    defaults = {name: given.default for name, given in inspect.signature(load_image_encoder).parameters.items()}
    assert (defaults["include_cls"], defaults["allow_download"], defaults["upsample"]) == (False, False, True)
    first = {name: next(iter(facts.features)) for name, facts in IMAGE_ENCODERS.items()}
    assert first["rad_dino"] == "norm" and first["biovil_t"] == "fused" and first["gloria"] == "local"


@pytest.mark.parametrize("name", IMAGE_ENCODERS)
def test_nothing_of_a_network_lies_outside_what_a_file_fills(name):
    """A network for a file is not initialised, so a buffer that is in no state dict would hold garbage."""
    network = build_backbone(IMAGE_ENCODERS[name], next(iter(IMAGE_ENCODERS[name].features)), seed=None)
    everything = {n for n, _ in (*network.named_parameters(), *network.named_buffers())}
    assert everything == set(network.state_dict())
    assert not any(tensor.is_meta for tensor in network.state_dict().values())


# --- inputs of another side ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "side", "grid", "resize"),
    [("dinov2_s14", 56, (4, 4), 56), ("c2l", 96, (3, 3), 96), ("efficientnet_lite0", 64, (2, 2), 73)],
)
def test_tokens_keep_their_size_in_pixels(name, side, grid, resize):
    small = load_image_encoder(name, "random", input_size=side)
    assert (small.grid, small.input_size, small.preprocessing.resize) == (grid, side, resize)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120), dtype=np.uint8))
    assert small.tokens(small.preprocess(image)[None]).shape == (1, grid[0] * grid[1], small.width)


def test_position_embeddings_are_interpolated_and_the_rest_is_the_same():
    whole, small, same = (drawn("dinov2_s14", input_size=side) for side in (None, 56, 224))
    assert whole.identity == same.identity != small.identity
    a, b = whole.network.state_dict(), small.network.state_dict()
    assert [name for name in a if not torch.equal(a[name], b[name])] == ["pos_embed"]
    assert torch.equal(a["pos_embed"][:, :1], b["pos_embed"][:, :1])
    published = drawn("dinov2_s14", input_size=518).network.pos_embed[:, 1:]
    square = published.unflatten(1, (37, 37)).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(square, size=(4, 4), mode="bicubic", align_corners=False)
    assert torch.allclose(b["pos_embed"][:, 1:], expected.flatten(2).transpose(1, 2), atol=1e-6)
