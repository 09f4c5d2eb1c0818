"""Text encoders load exactly or not at all, and give the states that transformers' BERT gives."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    RobertaTokenizerFast,
)

from pkd_utils.encoders import bert
from pkd_utils.encoders.text import load_text_encoder
from pkd_utils.encoders.texts import lower_states
from pkd_utils.encoders.zoo import TEXT_ENCODERS
from pkd_utils.runs import machine
from pkd_utils.runs.errors import DataError
from tests.encoders.fixtures import WRITERS, write_checkpoint

NAMES = tuple(TEXT_ENCODERS)
TEXTS = ["the heart is not enlarged.", "", "no fluid", "left base: 3.4 cm; the rest is clear (as before)"]


@pytest.fixture(autouse=True)
def small_facts(monkeypatch):
    """The fixtures' small checkpoints: width 16, two blocks, 300 tokens."""
    for name, facts in list(TEXT_ENCODERS.items()):
        small = dataclasses.replace(facts, width=16, layers=2, heads=2, vocabulary=300, parameters=0)
        monkeypatch.setitem(TEXT_ENCODERS, name, small)


@pytest.fixture
def folder(tmp_path):
    """A folder like Bio_ClinicalBERT's or CXR-BERT's, by name."""

    def write(name="pubmedbert", **options):
        return write_checkpoint(name, tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}", small=True, **options)

    return write


def state_of(path):
    """The weights of a folder as written, by the names of a bare BERT."""
    files = list(path.glob("*.safetensors"))
    state = load_file(files[0]) if files else torch.load(path / "pytorch_model.bin", weights_only=True)
    names = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    state = {name.removeprefix("bert."): value for name, value in state.items()}
    return {next((k.replace(o, n) for o, n in names.items() if o in k), k): v for k, v in state.items()}


def plain_bert(state, ids):
    """Hidden states of one text, (L,) token numbers -> list of (L, D), by transformers' own BERT with these weights."""
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layer."))
    sizes = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": layers, "intermediate_size": 64}
    model = BertModel(BertConfig(num_attention_heads=2, **sizes), add_pooling_layer=False).eval()
    assert not model.load_state_dict(state, strict=False).missing_keys
    with torch.no_grad():
        return [states[0] for states in model(ids[None], output_hidden_states=True).hidden_states]


# --- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in NAMES for kind in WRITERS[name][1]])
@pytest.mark.parametrize("library", ["MKL", "oneDNN"])
def test_every_encoder_and_kind_of_file_gives_the_states_of_transformers(folder, name, kind, library, monkeypatch):
    monkeypatch.setattr(machine, "fp32_products", lambda: library)
    path = folder(name, kind=kind)
    encoder = load_text_encoder(name, path)
    tokens, mask = encoder.tokens(TEXTS)
    state = state_of(path)
    for row, text in enumerate(TEXTS):
        ids = encoder.tokenize([text]).tokens.long()
        assert mask[row].sum() == len(ids)
        torch.testing.assert_close(tokens[row, : len(ids)], plain_bert(state, ids)[-1], atol=1e-5, rtol=0)
    assert tokens.dtype == torch.float32 and mask.dtype == torch.bool
    assert tokens.shape == (4, mask.shape[1], encoder.width) and (tokens[~mask] == 0).all()
    assert encoder.weights.sha256 and not encoder.weights.state
    assert not encoder.keys.unexpected and len(encoder.keys.found) == 5 + 2 * 16
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())


def test_code_in_a_folder_is_not_executed(folder, tmp_path):
    path = folder("cxr_bert_general")
    for name in ("configuration_cxrbert.py", "modeling_cxrbert.py"):
        (path / name).write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    expected = load_text_encoder("cxr_bert_general", path).tokens(TEXTS).tokens
    trained = bert.load_bert(path)[0]  # a text teacher reads the same folder in the same way
    assert not (tmp_path / "executed").exists()
    encoded = lower_states(TEXTS, path, 0, 64)
    torch.testing.assert_close(encoded.batch(range(4), torch.device("cpu"))[0], expected, atol=1e-6, rtol=0)
    assert len(trained.encoder.layer) == 2


@pytest.mark.parametrize("name", ["cxr_bert_general", "pubmedbert", "minilm"])
def test_a_text_teacher_may_start_from_any_fine_tuned_folder(folder, name):
    heads = {"classifier.weight": torch.ones(2, 16), "head.weight": torch.ones(2, 16), "linear.0.bias": torch.ones(2)}
    path = folder(name, edit=lambda state: state | heads)
    with pytest.warns(UserWarning, match=r"holds 2 tensors .* head.weight, linear.0.bias"):
        _, (_, keys) = bert.load_bert(path)
    assert keys.unexpected == ("head.weight", "linear.0.bias") and len(keys.found) == 5 + 2 * 16
    with pytest.raises(DataError, match=r"never has .*classifier.weight"):
        load_text_encoder(name, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3, PubMedBERT has 2"),
        ({"hidden_size": 32}, "hidden_size is 32, PubMedBERT has 16"),
        ({"num_attention_heads": 4}, "num_attention_heads is 4, PubMedBERT has 2"),
        ({"vocab_size": 301}, "vocab_size is 301, PubMedBERT has 300"),
        ({"max_position_embeddings": 128}, "reads 128 tokens, PubMedBERT 512"),
        ({"hidden_act": "relu"}, "hidden_act is relu, PubMedBERT has gelu"),
        ({"model_type": "t5"}, "model_type 't5'"),
        ({"model_type": "electra"}, "model_type is electra, PubMedBERT has bert"),
        ({"position_embedding_type": "relative_key"}, "'relative_key' position embeddings"),
        ({"hidden_size": None}, "does not say hidden_size"),
    ],
)
def test_another_architecture_is_refused_naming_both(folder, change, message):
    path = folder()
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(DataError, match=message):
        load_text_encoder("pubmedbert", path)


def test_bad_arguments_are_refused_in_one_sentence(folder, tmp_path):
    path = folder()
    with pytest.raises(DataError, match="'bert' is no text encoder; there are: biovil_t_bert"):
        load_text_encoder("bert", path)
    for layer in ("first", 3, -4, True, 1.0, "sum_last_4"):
        with pytest.raises(DataError, match=r"layer must be .* from -3 to 2 for PubMedBERT"):
            load_text_encoder("pubmedbert", path, layer=layer)
    with pytest.raises(DataError, match="precision must be"):
        load_text_encoder("pubmedbert", path, precision="half")
    with pytest.raises(DataError, match=r"pytorch_model\.bin is a file: give the folder"):
        load_text_encoder("pubmedbert", path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"get the folder of PubMedBERT from huggingface\.co.*licence: MIT"):
        load_text_encoder("pubmedbert", tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="allow_download=True"):
        load_text_encoder("pubmedbert", TEXT_ENCODERS["pubmedbert"].hub)
    with pytest.raises(DataError, match="MiniLM is on no hub"):
        load_text_encoder("minilm", None, allow_download=True)
    (path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_text_encoder("pubmedbert", path)


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_random_weights_are_seeded_and_leave_the_global_generator_alone(folder):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    path = folder()
    first, same, other = (load_text_encoder("pubmedbert", "random", vocabulary=path, seed=s) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    tokens = [encoder.tokens(TEXTS).tokens for encoder in (first, same, other)]
    assert torch.equal(tokens[0], tokens[1]) and not torch.allclose(tokens[0], tokens[2], atol=0.1)
    assert first.identity == same.identity != other.identity
    bare = load_text_encoder("pubmedbert", "random")
    with pytest.raises(DataError, match=r"no vocabulary .*load_text_encoder\(\.\.\., vocabulary=\)"):
        bare.tokens(TEXTS)
    ids = torch.randint(0, 300, (2, 7))
    assert bare.encode(ids, torch.ones(2, 7, dtype=torch.bool)).shape == (2, 7, 16)


def test_layers_are_those_of_transformers(folder, monkeypatch):
    deep = dataclasses.replace(TEXT_ENCODERS["pubmedbert"], layers=5)
    monkeypatch.setitem(TEXT_ENCODERS, "pubmedbert", deep)
    path = folder()
    whole = load_text_encoder("pubmedbert", "random", vocabulary=path)
    packed = whole.tokenize(TEXTS[3:])
    states = plain_bert(whole.network.state_dict(), packed.tokens.long())
    expected = {"last": states[-1], "sum_last_4": sum(states[-4:]), 0: states[0], 2: states[2], -1: states[-1]}
    expected |= {-6: states[0], 5: states[5], -2: states[4]}
    for layer, state in expected.items():
        encoder = load_text_encoder("pubmedbert", "random", layer=layer, vocabulary=path)
        torch.testing.assert_close(encoder.tokens(packed).tokens[0], state, atol=1e-5, rtol=0)
    assert len(load_text_encoder("pubmedbert", "random", layer=2).network.encoder.layer) == 2


def test_long_texts_are_refused_or_counted_never_cut_silently(folder):
    encoder = load_text_encoder("pubmedbert", folder())
    fits, long = "x " * 510, "y " * 511
    tokens, mask = encoder.tokens([fits, "a"])
    assert tokens.shape == (2, 512, 16) and mask[0].all()
    with pytest.raises(
        DataError, match=r"1 of 3 texts have more than 512 tokens, at positions 1 \(513 tokens\)"
    ) as why:
        encoder.tokens(["a", long, fits])
    assert "y y" not in str(why.value)
    cut = encoder.tokenize(["a", long, ""], on_long="cut")
    assert (cut.truncated, cut.empty, cut.lengths.tolist()) == (1, 1, [3, 512, 2])
    ids = encoder.tokenizer.token_to_id
    assert cut.tokens[cut.offsets[2] - 1] == ids("[SEP]") and cut.tokens[cut.offsets[1]] == ids("[CLS]")
    assert cut.tokens[-2:].tolist() == [ids("[CLS]"), ids("[SEP]")]
    assert encoder.tokenize(["a b c"], longest=3, on_long="cut").tokens.tolist()[::2] == [ids("[CLS]"), ids("[SEP]")]
    assert encoder.tokens(cut).mask.sum(1).tolist() == [3, 512, 2]
    with pytest.raises(DataError, match=r"positions 0 .*and others"):
        encoder.tokenize([long] * 9)
    with pytest.raises(DataError, match=r"on_long = .drop."):
        encoder.tokenize([long], on_long="drop")
    with pytest.raises(DataError, match="at most 512"):
        encoder.tokenize(["a"], longest=513)
    with pytest.raises(DataError, match="needs room"):
        encoder.tokenize(["a"], longest=2)
    for wrong, message in (
        (["a", None, 3.0], "2 reports .* position 1"),
        ([], "no reports"),
        ("text", "list of texts"),
    ):
        with pytest.raises(DataError, match=message):
            encoder.tokens(wrong)


# --- tokenizer -------------------------------------------------------------------------------------------------------

ODD = [
    "Éffusion, naïve 3.4cm",
    "肺 opacity",
    "a\u00a0b\tc\r\nd\u200be\x00f",
    "___ y.o. [MASK]ed [SEP] <b>",
    "ﬁne ½ µ ß İ",
    "😀",
]


def test_tokens_are_those_of_transformers(folder):
    for name in ("pubmedbert", "bio_clinicalbert"):
        path = folder(name)
        ours = load_text_encoder(name, path).tokenizer
        theirs = BertTokenizerFast.from_pretrained(path, do_lower_case=TEXT_ENCODERS[name].lowercase)
        for text in [*ODD, *TEXTS, "Heart"]:
            assert ours.encode(text).ids == theirs(text)["input_ids"]
    assert load_text_encoder(name, path).tokens([*ODD, "\ud800"]).tokens.isfinite().all()


def test_facts_decide_the_case_and_contradictions_are_refused(folder):
    path = folder("bio_clinicalbert")
    expected = load_text_encoder("bio_clinicalbert", path).tokenize(["Heart"]).tokens
    settings = path / "tokenizer_config.json"
    settings.unlink()  # as in some copies of Bio_ClinicalBERT
    assert torch.equal(load_text_encoder("bio_clinicalbert", path).tokenize(["Heart"]).tokens, expected)
    assert torch.equal(lower_states(["Heart"], path).tokens, expected)  # capitals in the vocabulary
    settings.write_text('{"do_lower_case": true}')
    says = r"tokenizer_config\.json says lower-cased and pkd_utils\.encoders\.facts says cased and the vocabulary"
    with pytest.raises(DataError, match=says):
        load_text_encoder("bio_clinicalbert", path)
    with pytest.raises(DataError, match="the vocabulary with its capital letters says cased"):
        lower_states(["Heart"], path)
    settings.write_text("{")
    with pytest.raises(DataError, match="is no JSON"):
        load_text_encoder("bio_clinicalbert", path)


def test_lower_case_reads_a_cased_encoder_as_its_hub_copy_loads(folder):
    path = folder("bio_clinicalbert")
    cased = load_text_encoder("bio_clinicalbert", path)
    (path / "tokenizer_config.json").unlink()  # as on the hub
    theirs = BertTokenizerFast.from_pretrained(path)
    assert theirs.do_lower_case
    lowered = load_text_encoder("bio_clinicalbert", path, lower_case=True)
    random = load_text_encoder("bio_clinicalbert", "random", vocabulary=path, lower_case=True)
    for text in [*ODD, *TEXTS, "Heart, CT, Éffusion"]:
        assert lowered.tokenizer.encode(text).ids == theirs(text)["input_ids"] == random.tokenizer.encode(text).ids
    assert lowered.identity != cased.identity and lowered.facts.lowercase != cased.facts.lowercase
    same = load_text_encoder("bio_clinicalbert", path, lower_case=False)
    assert same.identity == cased.identity
    assert torch.equal(same.tokens(["Heart"]).tokens, cased.tokens(["Heart"]).tokens)
    (path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    again = load_text_encoder("bio_clinicalbert", path, lower_case=True)  # what is asked for, not a contradiction
    assert again.identity == lowered.identity
    with pytest.raises(DataError, match="PubMedBERT knows no capital letters: leave lower_case out"):
        load_text_encoder("pubmedbert", folder(), lower_case=False)


def test_vocabularies_are_checked(folder):
    path = folder()
    lines = (path / "vocab.txt").read_text().splitlines()

    def refused(message, error=DataError):
        with pytest.raises(error, match=message):
            load_text_encoder("pubmedbert", path)

    # tokenizer.json alone, as some folders have it, with a truncation that must not count
    tokenizer = bert.load_tokenizer(path)
    expected = tokenizer.encode(TEXTS[3]).ids
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "vocab.txt").unlink()
    assert load_text_encoder("pubmedbert", path).tokenize(TEXTS[3:]).tokens.tolist() == expected
    (path / "vocab.txt").write_text("\n".join([*lines[:-1], "other"]) + "\n")
    refused("different vocabularies")
    (path / "tokenizer.json").unlink()
    (path / "vocab.txt").write_text("\n".join(lines[:-1]) + "\n")
    refused("has 299 tokens, that of PubMedBERT has 300")
    (path / "vocab.txt").write_text("\n".join([*lines[:-1], "a"]) + "\n")
    refused("lists a token twice")
    (path / "vocab.txt").write_text("\n".join("other" if line == "[CLS]" else line for line in lines))
    refused(r"has no \[CLS\]")
    (path / "vocab.txt").unlink()
    refused("has no vocabulary", FileNotFoundError)
    (path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {}}}')
    refused("no WordPiece tokenizer")


# --- many texts ------------------------------------------------------------------------------------------------------


def many(count=50):
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(["heart", "is", "large", "no", "fluid"], rng.integers(0, 30))) for _ in range(count)]


def test_encode_all_keeps_order_and_values(folder):
    encoder, texts = load_text_encoder("pubmedbert", folder()), many()
    encoded = encoder.encode_all(encoder.tokenize(texts), batch_size=7)
    assert encoded.hidden.dtype == torch.float16 and encoded.hidden.shape == (encoded.offsets[-1], 16)
    assert encoded.empty == sum(not text for text in texts)
    for row, text in enumerate(texts):
        states = encoded.hidden[encoded.offsets[row] : encoded.offsets[row + 1]].float()
        torch.testing.assert_close(states, encoder.tokens([text]).tokens[0], atol=2e-3, rtol=1e-3)
    tokens, _ = encoded.batch(np.array([3, 8]), torch.device("cpu"))
    torch.testing.assert_close(tokens, encoder.tokens([texts[3], texts[8]]).tokens, atol=2e-3, rtol=1e-3)


def test_interrupted_encoding_continues_to_the_same_bits(folder, tmp_path, monkeypatch):
    texts, path = many(), folder()
    encoder = load_text_encoder("pubmedbert", path)
    expected = encoder.encode_all(encoder.tokenize(texts), batch_size=4)
    monkeypatch.setattr("pkd_utils.encoders.texts.PART_SECONDS", 0.0)
    cache, calls, encode = tmp_path / "cache" / "tokens.safetensors", [], encoder.encode

    def until(limit):
        def step(ids, mask):
            calls.append(len(ids))
            if len(calls) > limit:
                raise KeyboardInterrupt
            return encode(ids, mask)

        calls.clear()
        monkeypatch.setattr(encoder, "encode", step)

    for limit in (5, 4):
        until(limit)
        with pytest.raises(KeyboardInterrupt):
            encoder.encode_all(encoder.tokenize(texts), batch_size=4, cache=cache)
        assert not cache.exists() and len(list(cache.parent.iterdir())) == 1
    assert len(list(cache.parent.rglob("*.safetensors"))) == 9
    until(99)
    done = encoder.encode_all(encoder.tokenize(texts), batch_size=4, cache=cache)
    assert len(calls) == 13 - 9
    assert torch.equal(done.hidden, expected.hidden) and done.identity == expected.identity
    assert list(cache.parent.iterdir()) == [cache]  # no parts are left
    until(0)
    kept = encoder.encode_all(encoder.tokenize(texts), batch_size=4, cache=cache)
    assert torch.equal(kept.hidden, expected.hidden) and (kept.empty, kept.truncated) == (expected.empty, 0)
    # parts of other texts are not mixed with ours
    until(5)
    with pytest.raises(KeyboardInterrupt):
        encoder.encode_all(encoder.tokenize(texts[::-1]), batch_size=4, cache=cache)
    until(99)
    other = encoder.encode_all(encoder.tokenize(["lungs", *texts]), batch_size=4, cache=cache)
    assert torch.equal(other.hidden, encoder.encode_all(encoder.tokenize(["lungs", *texts]), batch_size=4).hidden)


def test_identity_names_weights_options_and_texts_but_no_paths(folder, tmp_path):
    path = folder()
    copy = path.rename(tmp_path / "moved")
    encoder = load_text_encoder("pubmedbert", copy)
    identity = {
        encoder.identity,
        load_text_encoder("pubmedbert", copy, layer=1).identity,
        load_text_encoder("pubmedbert", copy, precision="bf16").identity,
        load_text_encoder("pubmedbert", folder(seed=1)).identity,
        load_text_encoder("cxr_bert_general", folder("cxr_bert_general")).identity,
    }
    assert len(identity) == 5 and load_text_encoder("pubmedbert", folder()).identity == encoder.identity
    texts = {
        encoder.tokenize(t, n).identity for t, n in ((["a", "b"], 9), (["b", "a"], 9), (["ab", ""], 9), (["a", "b"], 8))
    }
    assert len(texts) == 4


def test_values_that_half_precision_cannot_hold_are_refused(folder):
    path = folder(edit=lambda s: {k: v * 1e6 if k.endswith("1.output.LayerNorm.weight") else v for k, v in s.items()})
    with pytest.raises(DataError, match="position 0 has states that are not finite in torch"):
        encoder = load_text_encoder("pubmedbert", path)
        encoder.encode_all(encoder.tokenize(["heart"]))


def test_bf16_is_near_fp32(folder):
    path = folder()
    exact, near = (load_text_encoder("pubmedbert", path, precision=p).tokens(TEXTS).tokens for p in ("fp32", "bf16"))
    assert near.dtype == torch.float32 and not torch.equal(exact, near)
    assert (exact - near).pow(2).mean().sqrt() < 0.02 * exact.std()


@pytest.mark.parametrize("kind", ["roberta", "camembert"])
def test_a_folder_of_robertas_kind_is_read_as_transformers_reads_it(kind, tmp_path):
    """Byte pairs in place of word pieces, and positions that begin behind that of the padding."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pairs = ByteLevelBPETokenizer()
    pairs.train_from_iterator([TEXTS[3]], vocab_size=400, min_frequency=1, special_tokens=special)
    pairs.save_model(str(tmp_path))
    fast = RobertaTokenizerFast.from_pretrained(tmp_path)
    fast.save_pretrained(tmp_path)
    config = AutoConfig.for_model(
        kind, vocab_size=len(fast), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=40, pad_token_id=1, type_vocab_size=1,
    )  # fmt: skip
    torch.manual_seed(0)
    reference = AutoModel.from_config(config).eval()
    reference.save_pretrained(tmp_path)
    network, _ = bert.load_bert(tmp_path)
    tokenizer = bert.load_tokenizer(tmp_path)
    ids = tokenizer.encode(TEXTS[3]).ids
    assert ids == fast(TEXTS[3])["input_ids"] and ids[0] == 0 and ids[-1] == 2
    assert bert.longest_text(network.config) == 40 - 2
    inputs = torch.tensor([ids, [*ids[:5], *[1] * (len(ids) - 5)]])
    mask = inputs != 1
    with torch.inference_mode():
        ours, theirs = (net(input_ids=inputs, attention_mask=mask).last_hidden_state for net in (network, reference))
    assert (ours - theirs)[mask].abs().max() < 1e-6
