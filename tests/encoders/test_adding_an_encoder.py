"""How to add an encoder, as the book's page shows it: one file in the zoo and one line of registration."""

import runpy

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from pkd_utils.encoders import IMAGE_ENCODERS, command_line, load_image_encoder
from pkd_utils.runs import paths
from pkd_utils.runs.errors import DataError
from workflow.publish.pages import encoders as encoders_page

EXAMPLE = paths.PROJECT_ROOT / "book" / "reports" / "add_an_encoder.py"


def grey_image() -> Image.Image:
    y, x = np.mgrid[:300, :260]
    return Image.fromarray(((x * 3 + y * 5) % 256).astype(np.uint8))


def test_the_example_works_as_it_stands(tmp_path, monkeypatch, capsys):
    assert len(EXAMPLE.read_text().splitlines()) <= 40
    facts = runpy.run_path(str(EXAMPLE))["VIT_TINY"]
    monkeypatch.setitem(IMAGE_ENCODERS, facts.name, facts)  # the line of registration
    torch.manual_seed(3)
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False).eval()  # with its classifier, as published
    file = tmp_path / facts.files[0]
    save_file(network.state_dict(), file)
    encoder = load_image_encoder("vit_tiny", file)
    assert (len(encoder.keys.found), len(encoder.keys.dropped), encoder.keys.unexpected) == (150, 2, ())
    assert sum(p.numel() for p in encoder.parameters()) == facts.parameters
    batch = encoder.preprocess(grey_image())[None]
    with torch.inference_mode():
        expected = network.forward_features(batch)
    torch.testing.assert_close(encoder.tokens(batch), expected[:, 1:])

    # The command line and the book's tables know it too.
    assert command_line.main(["encoders", "verify", "vit_tiny", str(file)]) == 0
    assert "as in the table" in capsys.readouterr().out and "vit_tiny" in command_line.table()
    assert all("vit_tiny" in encoders_page.fragments(tmp_path)[f"encoders-{name}"] for name in ("facts", "files"))

    state = network.state_dict()
    del state["blocks.3.mlp.fc1.weight"]
    save_file(state, file)
    with pytest.raises(DataError, match=r"blocks\.3\.mlp\.fc1\.weight"):
        load_image_encoder("vit_tiny", file)
