"""Students: strict weight loading, exact conversions, and the forward pass that leaves out what nobody reads."""

import argparse
import re

import pytest
import torch
from safetensors.torch import save_file

from pkd_utils.distillation import students
from pkd_utils.runs.errors import DataError

SIZES = {"img_size": 32, "patch_size": 8, "in_chans": 1, "num_classes": 3, "embed_dim": 48, "depth": 2, "num_heads": 3}


def small(seed=0, **options):
    torch.manual_seed(seed)
    return students.build_student(**{"width": 48, "depth": 3, "heads": 3, "image_size": 32, **options})


def images(n=4, channels=1, size=32):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def scrambled(model):
    """Every parameter away from its initial zeros and ones, so that a forgotten one shows."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


@pytest.mark.parametrize("options", [{}, {"heads": 1}, {"depth": 1}, {"channels": 3}])
def test_class_token_logits_equal_the_model_and_so_do_gradients(options):
    model = scrambled(small(**options)).double()
    x = images(channels=options.get("channels", 1)).double()
    got, want = students.class_token_logits(model, x), model(x)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(out.square().sum(), list(model.parameters())) for out in (got, want)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_class_token_logits_layer_scale_no_bias_and_scaled_norm():
    for extra in ({"init_values": 0.3}, {"qkv_bias": False}, {"scale_attn_norm": True}, {"reg_tokens": 2}):
        torch.manual_seed(0)
        model = scrambled(students.VisionTransformer(**SIZES, **extra)).double()
        assert students.has_plain_last_block(model)
        torch.testing.assert_close(students.class_token_logits(model, images().double()), model(images().double()))


def test_other_makes_run_as_they_are():
    for extra in ({"global_pool": "avg"}, {"qk_norm": True}):
        model = scrambled(students.VisionTransformer(**SIZES, **extra))
        assert not students.has_plain_last_block(model)
        assert torch.equal(students.class_token_logits(model, images()), model(images()))


def test_deits_distilled_student_reads_both_of_its_tokens_and_takes_no_foreign_head(tmp_path):
    build = {"name": "deit_tiny_distilled_patch16_224", "image_size": 32, "patch_size": 16}
    model = students.build_student(**build, n_labels=2).eval()
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(students.class_token_logits(model, x), model(x))
    save_file(students.build_student(**build, n_labels=7).state_dict(), tmp_path / "other.safetensors")
    loaded = students.build_student(**build, n_labels=2, weights=tmp_path / "other.safetensors")
    assert loaded.weights_report["head"] == "new" and loaded.head_dist.out_features == 2


def test_dropout_has_the_same_expectation():
    torch.manual_seed(0)
    sizes = {**SIZES, "num_classes": 5, "depth": 3}
    model = students.VisionTransformer(**sizes, drop_path_rate=0.2, drop_rate=0.1).train()
    x = images(1).expand(4000, -1, -1, -1)
    with torch.no_grad():
        got, want = students.class_token_logits(model, x).mean(0), model(x).mean(0)
    assert (got - want).abs().max() < 0.05 * want.abs().max() + 0.02


def test_vit_tiny_is_the_papers_student():
    model = students.build_student("vit_tiny_patch16_224", 224, 16, 5)
    assert (model.embed_dim, len(model.blocks), model.blocks[0].attn.num_heads) == (192, 12, 3)
    assert model.pos_embed.shape == (1, 197, 192) and model.head.out_features == 5
    assert students.input_statistics("vit_tiny_patch16_224") == ((0.5,), (0.5,))
    assert students.input_statistics("deit_tiny_patch16_224", 3) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert students.input_statistics("vit", 3) == ((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_pretrained_three_channel_file_gives_the_same_output_on_grey_images(tmp_path, name, suffix):
    torch.manual_seed(3)
    source = scrambled(students.create_model(name, img_size=32, num_classes=1000))
    path = tmp_path / f"weights{suffix}"
    state = source.state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(
        {"model": {f"module.{k}": v for k, v in state.items()}}, path
    )
    model = students.build_student(name, 32, 16, 5, weights=path)
    report = model.weights_report
    assert report["loaded"] == len(state) - 2 and report["head"] == "new"
    assert report["left_out"] == ["head.bias", "head.weight"] and "3 channels to 1" in report["converted"][0]
    grey = torch.rand(3, 1, 32, 32)
    mean, std = (torch.tensor(s).view(1, 3, 1, 1) for s in students.input_statistics(name, 3))
    (m,), (s,) = students.input_statistics(name, 1)
    want = source.forward_features((grey - mean) / std)
    torch.testing.assert_close(model.forward_features((grey - m) / s), want, rtol=1e-3, atol=1e-4)


def test_position_embedding_is_resampled(tmp_path):
    source = students.create_model("vit_tiny_patch16_224", img_size=64, num_classes=10)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = students.build_student("vit_tiny_patch16_224", 96, 16, 5, channels=3, weights=tmp_path / "w.safetensors")
    assert model.weights_report["converted"] == ["position embedding from 4 x 4 to 6 x 6 patches"]
    assert torch.equal(model.pos_embed[:, 0], source.pos_embed[:, 0])
    ours, theirs = (p[0, 1:].reshape(n, n, -1).mean((0, 1)) for p, n in ((model.pos_embed, 6), (source.pos_embed, 4)))
    torch.testing.assert_close(ours, theirs, atol=0.01, rtol=0)


def test_files_that_do_not_fit_are_refused_by_the_names_of_their_tensors(tmp_path):
    path, state = tmp_path / "w.safetensors", small().state_dict()
    del state["blocks.1.attn.qkv.weight"], state["norm.bias"]
    for wrong, message in (
        (state, r"lacks some of .* \(2\): blocks\.1\.attn\.qkv\.weight, norm\.bias"),
        (small(depth=4).state_dict(), r"no place for \(12\): blocks\.3\."),
        (small(width=96).state_dict(), "of another shape"),
        (small(patch_size=16).state_dict(), r"patch_embed\.proj\.weight \(48, 1, 16, 16\) instead of"),
    ):
        save_file(wrong, path)
        with pytest.raises(DataError, match=message):
            small(weights=path)
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        small(weights=path)
    torch.save({"model": small().state_dict(), "args": argparse.Namespace(a=1)}, tmp_path / "w.pth")
    assert small(weights=tmp_path / "w.pth").weights_report["head"] == "new"  # what stands beside weights is inert
    with pytest.raises(FileNotFoundError, match=r"vit_tiny_patch16_224\.augreg"):
        small(weights=tmp_path / "gone.pth")


def test_saved_student_comes_back_and_can_be_a_start(tmp_path):
    model = scrambled(small())
    build = {"image_size": 32, "width": 48, "depth": 3, "heads": 3, "n_labels": 5}
    students.save_student(tmp_path / "model.safetensors", model, {"build": build, "labels": ["a"]})
    again, facts = students.load_student(tmp_path)
    assert facts["labels"] == ["a"] and not again.training
    assert torch.equal(again(images()), model.eval()(images()))
    start = small(seed=9, weights=tmp_path / "model.safetensors")
    assert start.weights_report["head"] == "loaded" and torch.equal(start.head.weight, model.head.weight)
    other = small(seed=9, n_labels=2, weights=tmp_path / "model.safetensors")
    assert other.weights_report["head"] == "new" and torch.equal(other.norm.weight, model.norm.weight)
    with pytest.raises(FileNotFoundError, match="train the student first"):
        students.load_student(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 30}, "not a multiple of patch_size"),
        ({"heads": 5}, "multiple of heads"),
        ({"depth": 0}, "depth 0"),
        ({"channels": 2}, "channels = 2"),
        ({"name": "resnet18"}, "is no vision transformer of timm"),
        ({"name": "vit_tiny"}, "is no vision transformer of timm"),
    ],
)
def test_bad_requests(options, message):
    with pytest.raises(DataError, match=re.escape(message)):
        small(**options)


def test_random_students_are_of_their_seed_and_leave_the_generator_alone():
    build = {"image_size": 32, "width": 48, "depth": 3, "heads": 3, "weights": "absent.safetensors"}
    before = torch.random.get_rng_state()
    one, same, other = (students.random_student(build, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before) and not one.training
    assert all(torch.equal(x, y) for x, y in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)
