"""verify and list: a right file passes, every kind of wrong one is told from it, and nothing ends in a traceback."""

import argparse
import dataclasses
import hashlib

import numpy as np
import pytest
import torch

from pkd_utils.encoders import IMAGE_ENCODERS, TEXT_ENCODERS, verify
from pkd_utils.encoders.backbones import build_backbone
from pkd_utils.encoders.command_line import main, table
from pkd_utils.runs import assets, files, paths
from pkd_utils.runs.errors import DataError

STAND_IN_FILES = paths.PROJECT_ROOT / "pkd_utils" / "encoders" / "stand_ins"
STAND_INS = ("simulated_image_ssl", "simulated_alignment", "simulated_masked")
OFFLINE = {"dinov2_s14": "vit_s_focus.onnx", "efficientnet_lite0": "efficientnet-lite0-57934424.pth", "minilm": ""}


def c2l_state(seed: int = 1) -> dict[str, torch.Tensor]:
    """Random weights under the names that C2L's own training script saves."""
    state = build_backbone(IMAGE_ENCODERS["c2l"], "layer4", seed).state_dict()
    named = {f"encoder.module.{name}": value for name, value in state.items()}
    return named | {"encoder.module.fc.weight": torch.zeros(128, 512), "encoder.module.fc.bias": torch.zeros(128)}


@pytest.fixture(scope="module")
def c2l_file(tmp_path_factory):
    """A C2L checkpoint as its script writes it, options and epoch beside the weights."""
    file = tmp_path_factory.mktemp("c2l") / "current.pth"
    options = argparse.Namespace(learning_rate=0.03)
    torch.save({"opt": options, "model": c2l_state() | {"encoder.module.extra": torch.zeros(2)}, "epoch": 240}, file)
    return file


@pytest.fixture
def empty_record(tmp_path, monkeypatch):
    """No recorded fingerprints, and none that a test records stay."""
    monkeypatch.setattr(verify, "RECORDED", tmp_path / "fingerprints.json")
    return verify.RECORDED


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["encoders", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


# --- the fixed inputs and the fingerprint ------------------------------------------------------------------------


def test_the_fixed_image_is_the_same_everywhere():
    image = verify.fixed_image()
    pixels = np.asarray(image)
    assert image.size == (500, 400) and image.mode == "I;16" and pixels.dtype == np.uint16
    assert (pixels.min(), pixels.max()) == (310, 3995)
    digest = hashlib.sha256(pixels.astype("<u2").tobytes()).hexdigest()
    assert digest.startswith("6bae7bc71a6e6e05"), "recorded fingerprints belong to another image"


def test_fingerprint_sees_places_channels_and_values():
    tokens = torch.randn(20, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    mine = verify.fingerprint(tokens)
    assert mine["tokens"] == "20 x 8"
    assert mine["mean"] == pytest.approx(tokens.mean().item(), rel=1e-3)
    assert mine["sd"] == pytest.approx(tokens.std(correction=0).item(), rel=1e-3)
    assert mine["first"] == pytest.approx(tokens[0].norm().item(), rel=1e-3)
    assert mine["last"] == pytest.approx(tokens[-1].norm().item(), rel=1e-3)
    inner = [0, 2, 1, *range(3, 20)]  # first and last stay
    for changed in (tokens[inner], tokens[:, [1, 0, *range(2, 8)]], tokens * 1.01, tokens.T):
        assert not verify.same_fingerprint(verify.fingerprint(changed), mine)
    noise = 1 + 1e-5 * torch.randn(20, 8, generator=torch.Generator().manual_seed(1))
    assert verify.same_fingerprint(verify.fingerprint(tokens * noise), mine)


def test_a_mean_of_nothing_but_rounding_is_zero():
    tokens = torch.nn.functional.layer_norm(torch.randn(20, 64), (64,))
    assert verify.fingerprint(tokens)["mean"] == 0


def test_fingerprint_of_damaged_weights_is_refused():
    with pytest.raises(DataError, match="not finite"):
        verify.fingerprint(torch.tensor([[1.0, float("nan")]]))


# --- list --------------------------------------------------------------------------------------------------------


def test_the_table_fits_a_terminal_and_names_every_encoder(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0 and max(len(line) for line in out.splitlines()) <= 120
    starts = {line.split(" ")[0] for line in out.splitlines()}
    assert {*IMAGE_ENCODERS, *TEXT_ENCODERS} <= starts
    for facts in (*IMAGE_ENCODERS.values(), *TEXT_ENCODERS.values()):
        assert facts.source.split(" ")[0] in out, "an address must be in one piece"
    assert "1369 x 768" in out and out.strip() == table()


# --- verify ------------------------------------------------------------------------------------------------------


def test_a_right_file(c2l_file, capsys, empty_record):
    code, text, err = run(capsys, "verify", "c2l", str(c2l_file))
    assert code == 0 and not err and "cannot tell" not in text and "NOT RIGHT" not in text
    said = {line[:16].rstrip(): line[16:] for line in text.splitlines()}
    assert said["SHA-256"] == hashlib.sha256(c2l_file.read_bytes()).hexdigest() and said["wrapper"] == '"model"'
    assert said["skipped"].startswith("opt, epoch (") and said["inert"].startswith("argparse.Namespace (")
    assert said["keys found"].startswith(f"{len(c2l_state()) - 2};") and said["keys dropped"].startswith("2: ")
    assert said["keys unexpected"] == "1: encoder.module.extra" and "crop 224" in said["input"]
    assert said["parameters"].endswith("(as in the table)") and said["fingerprint"].startswith("49 x 512, mean ")
    assert "none is recorded" in said[""]
    with pytest.warns(UserWarning, match="no place for"):
        found = verify.verify("c2l", str(c2l_file)).fingerprint
    assert said["fingerprint"] == ", ".join([found.pop("tokens"), *(f"{n} {value:.4g}" for n, value in found.items())])


def test_a_file_that_any_network_of_its_kind_could_be_is_told_so(tmp_path, capsys, empty_record):
    prefix = "encoder.module."
    torch.save(
        {name.removeprefix(prefix): v for name, v in c2l_state().items() if "fc." not in name}, tmp_path / "a.pt"
    )
    code, text, _ = run(capsys, "verify", "c2l", str(tmp_path / "a.pt"))
    assert code == 0 and "the file cannot tell: any ResNet-18 with these names loads; make sure it is of github" in text


def test_wrong_calls_are_one_sentence(tmp_path, capsys):
    damaged = tmp_path / "current.pth"
    damaged.write_bytes(b"PK\x03\x04 cut off")
    for arguments, says in (
        (("nope", "x"), "rad_dino"),
        (("c2l", str(tmp_path / "absent.pth")), "absent.pth"),
        (("c2l", str(damaged)), "download"),
        (("c2l", "random", "--feature", "layer9"), "layer4"),
        (("c2l", "random", "--preprocessing", "raw"), "paper"),
        (("minilm", "random", "--feature", "norm"), "layer"),
        (("c2l", "random", "--record"), "not recorded"),
    ):
        code, out, err = run(capsys, "verify", *arguments)
        assert code == 1 and not out and says in err and err.count("\n") == 1, err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("c2l", "random", "--feature", "layer3"), ["random weights: fingerprint means nothing", "196 x 256"]),
        (
            ("gloria", "random", "--preprocessing", "native", "--no-upsample"),
            ["196 x 1024", "padded", "(feature local, preprocessing native, upsample no)"],
        ),
        (("minilm", "random", "--layer", "2"), ["24 x 384", "(layer 2)", "uncased word pieces, 30,522 of them"]),
    ],
)
def test_options_reach_the_encoder_and_the_report(capsys, arguments, says):
    code, out, _ = run(capsys, "verify", *arguments)
    assert code == 0 and all(words in out for words in says) and "SHA-256" not in out


def test_md5_of_the_published_file(c2l_file, capsys, monkeypatch, empty_record):
    for digest, code, says in (
        (hashlib.md5(c2l_file.read_bytes()).hexdigest(), 0, ": as published"),
        ("0" * 32, 1, ": differs from the published file"),
    ):
        facts = dataclasses.replace(IMAGE_ENCODERS["c2l"], md5={"current.pth": digest})
        monkeypatch.setitem(IMAGE_ENCODERS, "c2l", facts)
        found, out, _ = run(capsys, "verify", "c2l", str(c2l_file))
        assert found == code and says in out and ("NOT RIGHT" in out) == bool(code)


def test_a_recorded_fingerprint_is_met_again_or_not(c2l_file, tmp_path, capsys, empty_record):
    assert run(capsys, "verify", "c2l", str(c2l_file), "--record")[0] == 0
    code, out, _ = run(capsys, "verify", "c2l", str(c2l_file))
    assert code == 0 and "as recorded" in out
    assert "none is recorded" in run(capsys, "verify", "c2l", str(c2l_file), "--feature", "layer3")[1]

    bare = tmp_path / "same.pth"  # the same weights, saved otherwise
    torch.save(c2l_state(), bare)
    code, out, _ = run(capsys, "verify", "c2l", str(bare))
    assert code == 0 and "as recorded, from another file" in out

    state = c2l_state()  # two tensors of one shape change places: every key is there
    a, b = "encoder.module.layer1.0.conv1.weight", "encoder.module.layer1.1.conv1.weight"
    state[a], state[b] = state[b], state[a]
    swapped = tmp_path / "swapped.pth"
    torch.save(state, swapped)
    code, out, _ = run(capsys, "verify", "c2l", str(swapped))
    assert code == 1 and "not those of the recorded file current.pth" in out

    entry = files.read_json(empty_record)
    entry["c2l feature=layer4 preprocessing=paper"]["fingerprint"]["probe"] += 1
    files.write_json(empty_record, entry)
    code, out, _ = run(capsys, "verify", "c2l", str(c2l_file))
    assert code == 1 and "The file is the recorded one, but its tokens are not" in out


def test_every_offline_encoder_is_recorded():
    recorded = verify.recorded_fingerprints()
    assert {key.split(" ")[0] for key in recorded} == set(OFFLINE) | set(STAND_INS)
    for entry in recorded.values():
        assert len(entry["sha256"]) == 64 and set(entry) == {"file", "sha256", "fingerprint"}


@pytest.mark.parametrize("name", [*STAND_INS, *OFFLINE])
def test_weights_that_are_here_have_the_recorded_fingerprint(name):
    """Computed anew, within the tolerance, and close to every printed digit."""
    try:
        file = assets.path(name) / OFFLINE[name] if name in OFFLINE else STAND_IN_FILES / f"{name}.safetensors"
    except (FileNotFoundError, KeyError):
        pytest.skip(f"not fetched: python -m pkd_utils fetch {name}")
    report = verify.verify(name, str(file))
    assert report.says == "as recorded" and not report.problems
    assert str(paths.PROJECT_ROOT) not in str(report)
