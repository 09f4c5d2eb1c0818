"""The text teacher learns, forgets nothing when killed, shares its frozen part, and refuses what it cannot use."""

import pkd_utils  # noqa: F401  (lets torchvision, so transformers, import beside a CPU-only torch)

# isort: split
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from pkd_utils.distillation import text_teacher
from pkd_utils.distillation.cross_fit import cross_fitted
from pkd_utils.distillation.loop import Loop
from pkd_utils.distillation.text_teacher import (
    TextTeacher,
    TextTeacherConfig,
    TextTraining,
    check_label_names_removed,
    encode_teacher_texts,
    first_token_block,
    fit_text_teacher,
    length_bucketed_batches,
)
from pkd_utils.encoders import texts as text_encoding
from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.metrics import macro_auroc

WORDS = ["clear", "lungs", "heart", "large", "fluid", "left", "right", "base", "no", "the", "is", "normal"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder in Hugging Face layout: a BERT of 3 blocks and 12 words, random weights."""
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=40, **sizes)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def reports():
    """240 reports of random words; a label is a word, the other label is a word too and sometimes unknown."""
    rng = np.random.default_rng(3)
    lists = [list(rng.choice(WORDS, size=rng.integers(3, 25))) for _ in range(240)]
    index = pd.Index([f"s{number}" for number in range(240)], name="study_id")
    texts = pd.Series([" ".join(words) for words in lists], index=index)
    words_of = {"Edema": "fluid", "Pneumonia": "large"}
    targets = pd.DataFrame({k: [float(w in words) for words in lists] for k, w in words_of.items()}, index)
    targets.iloc[::7, 1] = np.nan
    split = pd.Series(np.repeat(["train", "validate", "test"], [140, 40, 60]), index=index)
    return texts, targets, split


def settings(encoder, **changes):
    values = {"trainable_layers": 2, "pooling": "cls", "epochs": 3, "batch_size": 16, "learning_rate": 2e-3}
    return TextTeacherConfig(encoder, **{**values, "max_tokens": 32, "device": "cpu", **changes})


@pytest.fixture
def fit(encoder, reports):
    """A teacher of these reports in a folder, with changed settings."""
    return lambda folder, seed=0, encoded=None, **changes: fit_text_teacher(
        *reports, settings(encoder, **changes), folder, seed, encoded
    )


def test_learns_words_that_are_labels(fit, reports, tmp_path):
    texts, targets, split = reports
    result = fit(tmp_path, epochs=8)
    auroc = {name: macro_auroc(part, result.logits.loc[part.index]) for name, part in targets.groupby(split)}
    assert auroc["test"] > 0.9
    assert result.logits.index.equals(texts.index) and list(result.logits.columns) == ["Edema", "Pneumonia"]
    assert result.best_epoch == result.history["validate_auroc"].argmax() + 1
    # the logits are those of the best epoch, not of the last
    assert auroc["validate"] == result.history["validate_auroc"].max()


def test_rates_rise_for_a_tenth_of_all_steps_and_fall_to_zero(fit, tmp_path, monkeypatch):
    given = {}

    class Spy(text_teacher.Loop):
        def __init__(self, *args, **options):
            given.update(options, total=args[4] * args[5])
            super().__init__(*args, **options)

    monkeypatch.setattr(text_teacher, "Loop", Spy)
    fit(tmp_path, epochs=2)
    assert given["warmup"] == max(1, round(given["total"] / 10)) and given["decay"] == "linear"


def test_reports_without_a_split_are_answered_and_their_labels_used_for_nothing(encoder, reports, tmp_path):
    texts, targets, split = reports
    held = split.where(np.arange(240) % 5 > 0)
    other = targets.where(held.notna(), 1 - targets)
    one, two = (
        fit_text_teacher(texts, table, held, settings(encoder, epochs=1), tmp_path / name, 0).logits
        for name, table in (("one", targets), ("two", other))
    )
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_soft_labels_out_of_fold_resume_teacher_by_teacher(encoder, reports, tmp_path, monkeypatch):
    texts, targets, split = reports
    patients, trained, run = pd.Series(np.arange(240) // 2, texts.index), [], Loop.run
    monkeypatch.setattr(Loop, "run", lambda loop, *arguments: (trained.append(loop), run(loop, *arguments)))

    def fit(split, part, stop=None):
        if part == stop:
            raise KeyboardInterrupt
        return fit_text_teacher(texts, targets, split, settings(encoder, epochs=1), tmp_path / f"part{part}", 0).logits

    logits = fit(split, "all")
    with pytest.raises(KeyboardInterrupt):
        cross_fitted(lambda *what: fit(*what, stop=2), logits, split, targets, patients, 3)
    crossed = cross_fitted(fit, logits, split, targets, patients, 3)
    assert len(trained) == 1 + 3
    pd.testing.assert_frame_equal(crossed[split != "train"], logits[split != "train"], check_exact=True)
    assert (crossed[split == "train"] != logits[split == "train"]).all(axis=None)


def test_logits_are_those_of_the_best_epoch_not_the_last(fit, tmp_path, monkeypatch):
    seen = {}

    def second_is_best(self):
        epoch = self.loop.epoch + 1
        seen[epoch] = self.predict(np.arange(240))
        return {"validate_auroc": {1: 0.6, 2: 0.8, 3: 0.7, 4: 0.8}[epoch]}

    monkeypatch.setattr(TextTraining, "validate", second_is_best)
    result = fit(tmp_path, epochs=4)
    assert result.best_epoch == 2  # the earlier of equals
    np.testing.assert_array_equal(result.logits, seen[2])
    assert not np.allclose(seen[2], seen[4])


@pytest.mark.parametrize(("layers", "trains"), [(-1, True), (0, False), (2, False)])
def test_frozen_blocks_stay_in_evaluation_mode(encoder, layers, trains):
    teacher = TextTeacher(settings(encoder, trainable_layers=layers), 2).train()
    assert teacher.training and teacher.lower.training is trains
    assert all(parameter.requires_grad is trains for parameter in teacher.lower.parameters())


@pytest.mark.parametrize(("layers", "pooling"), [(-1, "cls"), (0, "mean"), (1, "cls"), (3, "mean")])
def test_only_the_chosen_blocks_move(fit, tmp_path, layers, pooling):
    fit(tmp_path, trainable_layers=layers, pooling=pooling, epochs=1)
    with safe_open(tmp_path / "teacher.safetensors", framework="pt") as file:
        names = set(file.keys())
    moved = {name.split(".")[1] for name in names if name.startswith("blocks.")}
    assert moved == {str(number) for number in range(3 if layers == -1 else layers)}
    assert any(name.startswith("lower.embeddings") for name in names) == (layers == -1)
    assert {"head.weight", "head.bias"} <= names


def test_pooling_by_the_mean_counts_every_token_once(encoder):
    model = TextTeacher(settings(encoder, trainable_layers=0, pooling="mean"), 2).eval()
    states, mask = torch.randn(2, 5, 16), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    expected = model.head(torch.stack([states[0].mean(0), states[1, :3].mean(0)]))
    torch.testing.assert_close(model(states, mask), expected)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_kept_states_give_the_logits_of_the_whole_encoder(encoder, reports, layers):
    texts, _, _ = reports
    config = settings(encoder, trainable_layers=layers)
    encoded = encode_teacher_texts(texts, config)
    tokens_only = text_encoding.lower_states(list(texts), encoder, -1, 32)
    torch.manual_seed(0)
    model = TextTeacher(config, 2).eval()
    whole = BertModel.from_pretrained(encoder).eval()
    rows = np.array([3, 0, 50, 7])
    states, mask = encoded.batch(rows, torch.device("cpu"))
    ids, _ = tokens_only.batch(rows, torch.device("cpu"))
    with torch.no_grad():
        expected = model.head(whole(ids, mask.long()).last_hidden_state[:, 0])
        torch.testing.assert_close(model(states, mask), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(model(ids, mask), expected, atol=1e-5, rtol=1e-4)


def test_bfloat16_logits_are_not_rounded_to_ties(encoder):
    model = TextTeacher(settings(encoder, trainable_layers=0), 2).eval()
    states, mask = torch.randn(200, 4, 16), torch.ones(200, 4, dtype=torch.bool)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(states, mask)
    assert logits.dtype == torch.float32 and len(logits[:, 0].unique()) == 200
    assert not torch.equal(logits, logits.bfloat16().float())


def test_first_token_block_equals_the_block_and_its_gradient(encoder):
    block = BertModel.from_pretrained(encoder).encoder.layer[1].eval()
    states = torch.randn(3, 9, 16, requires_grad=True)
    mask = torch.arange(9)[None] < torch.tensor([9, 4, 2])[:, None]
    fast = first_token_block(block, states, mask)
    slow = block(states, mask[:, None, None, :])[:, 0]
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-4)
    fast_grad = torch.autograd.grad(fast.sin().sum(), [states, *block.parameters()], allow_unused=True)
    slow_grad = torch.autograd.grad(slow.sin().sum(), [states, *block.parameters()], allow_unused=True)
    names = ["states", *(name for name, _ in block.named_parameters())]
    for name, one, other in zip(names, fast_grad, slow_grad, strict=True):
        if name.endswith("key.bias"):  # cancels in the softmax: zero, up to rounding, either way
            assert other.abs().max() < 1e-6
            continue
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3, msg=name)


def test_killed_and_resumed_ends_in_the_same_numbers(fit, tmp_path, monkeypatch):
    straight = fit(tmp_path / "a", 1)
    calls = []
    train_epoch = Loop.train_epoch

    def dies_in_epoch_three(self, *arguments):
        calls.append(self.epoch + 1)
        losses = train_epoch(self, *arguments)
        if calls == [1, 2, 3]:
            raise KeyboardInterrupt
        return losses

    monkeypatch.setattr(Loop, "train_epoch", dies_in_epoch_three)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "b", 1)
    torch.manual_seed(99)  # the world's generator must not matter
    resumed = fit(tmp_path / "b", 1)
    assert calls == [1, 2, 3, 3]
    assert not (tmp_path / "b" / "checkpoint.safetensors").exists()
    again = fit(tmp_path / "b", 1)
    assert len(calls) == 4
    for result in (resumed, again):
        pd.testing.assert_frame_equal(result.logits, straight.logits, check_exact=True)
        pd.testing.assert_frame_equal(result.history, straight.history, check_exact=True)
        assert (result.counts, result.best_epoch) == (straight.counts, straight.best_epoch)
    with pytest.raises(DataError, match="own folder"):
        fit(tmp_path / "b", 2)


def test_seed_decides_and_leaves_the_global_generator_alone(encoder, reports, fit, tmp_path):
    encoded = encode_teacher_texts(reports[0], settings(encoder))
    before = torch.random.get_rng_state()
    one = fit(tmp_path / "1", 1, encoded, epochs=1)
    assert torch.equal(before, torch.random.get_rng_state())
    two, same = fit(tmp_path / "2", 2, encoded, epochs=1), fit(tmp_path / "3", 1, epochs=1)
    assert not np.allclose(one.logits, two.logits)
    pd.testing.assert_frame_equal(one.logits, same.logits, check_exact=True)


def test_counts_of_cut_empty_and_unlabelled_reports(encoder, reports, tmp_path):
    texts, targets, split = (part.copy() for part in reports)
    texts.iloc[0], texts.iloc[1] = "", "   "
    texts.iloc[2] = " ".join(["heart"] * 30)  # 32 tokens with [CLS] and [SEP]: just fits
    texts.iloc[3] = " ".join(["heart"] * 31)
    targets.iloc[4] = np.nan
    config = settings(encoder, epochs=1)
    encoded = encode_teacher_texts(texts, config)
    assert (encoded.empty, encoded.truncated) == (2, 1)
    assert encoded.lengths[2] == encoded.lengths[3] == 32
    last = encoded.tokens[encoded.offsets[4] - 1]
    assert last == encoded.tokens[encoded.offsets[3] - 1] == 3  # a cut report still ends in [SEP]
    result = fit_text_teacher(texts, targets, split, config, tmp_path, 0, encoded)
    assert result.counts == {"reports": 240, "truncated": 1, "empty": 2, "unlabelled": 1}


def test_cache_file_is_read_only_for_the_same_reports(encoder, reports, tmp_path, monkeypatch):
    texts, _, _ = reports
    config = settings(encoder)
    fresh = encode_teacher_texts(texts, config, tmp_path / "encoded.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(text_encoding, "encode_packed", lambda *a: pytest.fail("the frozen blocks ran again"))
        kept = encode_teacher_texts(texts, config, tmp_path / "encoded.safetensors")
    assert torch.equal(fresh.hidden, kept.hidden) and torch.equal(fresh.tokens, kept.tokens)
    assert np.array_equal(fresh.offsets, kept.offsets) and fresh.identity == kept.identity
    changed = texts.copy()
    changed.iloc[5] = "fluid"
    other = encode_teacher_texts(changed, config, tmp_path / "encoded.safetensors")
    assert other.identity != kept.identity and other.lengths[5] == 3


def test_batches_hold_every_report_once_and_similar_lengths():
    lengths = np.random.default_rng(0).integers(5, 200, size=1003)
    batches = length_bucketed_batches(lengths, 16, np.random.default_rng(1))
    assert sorted(np.concatenate(batches)) == list(range(1003))
    assert max(map(len, batches)) == 16
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.1 * lengths.sum()
    first = [batch[0] for batch in batches[:20]]
    assert not np.all(np.diff(lengths[first]) >= 0)  # batches themselves come in random order


def test_guard_stops_reports_that_name_a_label_without_printing_them(encoder, reports, tmp_path):
    texts, targets, split = reports
    texts = texts.copy()
    texts.iloc[7] = "heart is large with oede-\nma at the base"
    with pytest.raises(DataError, match="1 of 240 reports still name Edema, Pneumonia, first at position 7") as caught:
        fit_text_teacher(texts, targets, split, settings(encoder), tmp_path, seed=0)
    assert "base" not in str(caught.value) and "s7" not in str(caught.value)
    fit_text_teacher(texts, targets, split, settings(encoder, epochs=1), tmp_path, seed=0, label_names="kept")
    texts.iloc[7] = "congestion"  # a synonym, not a name
    with pytest.raises(DataError, match="position 7"):
        check_label_names_removed(texts, ["Edema"])
    with pytest.raises(DataError, match="No terms are listed for label Fluid"):
        fit_text_teacher(texts, targets.set_axis(["Fluid", "Edema"], axis=1), split, settings(encoder), tmp_path, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, y, s: (t, y[::-1], s), "same index"),
        (lambda t, y, s: (t, y, s.replace("validate", "val")), "'val' is no split"),
        (lambda t, y, s: (t, y, s.replace("validate", "test")), "no row is in the split 'validate'"),
        (lambda t, y, s: (t, y.where(s != "validate", 0.0), s), "No label has both classes"),
        (lambda t, y, s: (t.where(t.index != "s4", None), y, s), "no text, first at position 4"),
        (lambda t, y, s: [part.rename(index={"s4": "s3"}) for part in (t, y, s)], "repeats at position 4"),
    ],
)
def test_refuses_bad_input(encoder, reports, tmp_path, change, message):
    frame = pd.concat(reports, axis=1)  # copies
    texts, targets, split = frame.iloc[:, 0], frame[["Edema", "Pneumonia"]], frame.iloc[:, -1]
    targets = targets.where(targets.notna(), np.nan)
    texts, targets, split = change(texts, targets, split)
    with pytest.raises(DataError, match=message):
        fit_text_teacher(texts, targets, split, settings(encoder), tmp_path, seed=0)


def test_refuses_encoders_that_are_missing_or_too_small(encoder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pkd_utils fetch minilm"):
        text_encoding.lower_states(["heart"], tmp_path)
    with pytest.raises(DataError, match="at most 40 tokens"):
        text_encoding.lower_states(["heart"], encoder, max_tokens=41)
    with pytest.raises(DataError, match="3 transformer blocks"):
        text_encoding.lower_states(["heart"], encoder, trainable_layers=4, max_tokens=32)


@pytest.mark.parametrize("wrong", [{"pooling": "max"}, {"precision": "half"}, {"trainable_layers": -2}, {"epochs": 0}])
def test_refuses_bad_settings(encoder, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        settings(encoder, **wrong)
