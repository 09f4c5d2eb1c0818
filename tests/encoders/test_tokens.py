"""Tokens: stored once, continued after a kill, gathered right, the same live; reports beside them."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pkd_utils.encoders import TEXT_ENCODERS, load_image_encoder, load_text_encoder, transforms
from pkd_utils.encoders.facts import HALF, Feature, Preprocessing
from pkd_utils.encoders.tokens import encode
from pkd_utils.encoders.tokens.encode import encode_images, encode_texts, estimate, take_over
from pkd_utils.encoders.tokens.live import LiveTokens, open_tokens, record_live
from pkd_utils.encoders.tokens.stored import TextStore, TokenStore
from pkd_utils.encoders.tokens.views import CROPS, Crops, Pipeline, in_order, list_images
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import read_json, write_json
from tests.processes import kill_at_call, run_killed

SIDE, GRID, WIDTH = 16, (4, 4), 6


class TinyEncoder:
    """The interface of ImageEncoder: patch means times a vector, image by image, so batches change no bit."""

    def __init__(self, class_token=True, weights=0, scale=1.0, pause=0.0):
        self.facts = SimpleNamespace(name="tiny", class_token=class_token)
        self.feature, self.grid, self.width = Feature(GRID, WIDTH, "patch means"), GRID, WIDTH
        self.input_size, self.preprocessing, self.depth = SIDE, Preprocessing(18, SIDE, HALF), "minmax"
        self.vector = torch.from_numpy(np.random.default_rng(weights).normal(size=WIDTH).astype(np.float32)) * scale
        self.identity, self.pause, self.passes, self.seen = f"tiny-{class_token}-{weights}-{scale}", pause, 0, 0

    def preprocess(self, image, crop=None):
        return transforms.preprocess(image, self.preprocessing, crop)

    def encode(self, batch):
        time.sleep(self.pause)
        self.passes, self.seen = self.passes + 1, self.seen + len(batch)
        patches = batch.mean(1).unfold(1, 4, 4).unfold(2, 4, 4).mean((-1, -2)).flatten(1)
        patches = patches[:, :, None] * self.vector
        cls = patches.amax(1) if self.facts.class_token else None
        return SimpleNamespace(patches=patches, cls=cls)

    def tokens(self, batch):
        return self.encode(batch).patches


def write_images(folder: Path, count: int = 7) -> tuple[list[str], list[Path]]:
    """Grey noise images of several sizes, as JPEG."""
    rng = np.random.default_rng(5)
    ids, files = [f"i{n:02d}" for n in range(count)], [folder / f"i{n:02d}.jpg" for n in range(count)]
    for n, path in enumerate(files):
        Image.fromarray(rng.integers(0, 256, (40 + n, 50 - n), dtype=np.uint8)).save(path, quality=95)
    return ids, files


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


def assert_same_bytes(store, other):
    for name in ("tokens.npy", "cls.npy", "index.parquet"):
        assert (store.folder / name).read_bytes() == (other.folder / name).read_bytes(), name


def test_stored_tokens_are_the_encoders_rounded_to_half(images, tmp_path):
    ids, files = images
    encoder, crops = TinyEncoder(), Crops(seed=3)
    store = encode_images(encoder, ids, files, tmp_path / "tokens", views=2, crops=crops, batch_size=4)
    assert (store.rows, store.tokens_per_image, store.width, store.views) == (7, 16, WIDTH, 2)
    for row, (name, file) in enumerate(zip(ids, files, strict=True)):
        with Image.open(file) as image:
            for view in range(3):
                box = crops.box(name, view, image.size)
                assert (box is None) == (view == 0)
                made = encoder.encode(encoder.preprocess(image, crop=box)[None])
                assert torch.equal(store.batch([row], view)[0], made.patches[0].half())
                assert torch.equal(store.class_tokens([row], view)[0], made.cls[0].half())
    assert not torch.equal(store.batch([0], 1), store.batch([0], 2))


def test_threads_and_batches_change_no_bit(images, tmp_path):
    stores = [
        encode_images(TinyEncoder(), *images, tmp_path / f"{workers}-{batch}", batch_size=batch, workers=workers)
        for workers, batch in ((0, 32), (2, 1), (1, 5))
    ]
    for store in stores[1:]:
        assert_same_bytes(store, stores[0])
        assert store.identity == stores[0].identity


@pytest.mark.parametrize("stretch", [False, True])
def test_views_of_deep_images_are_the_encoders_own_preprocessing(tmp_path, stretch):
    """More than 8 bits reach an encoder that stretches them itself, and are rounded once."""
    pixels = np.random.default_rng(6).integers(500, 3001, (40, 50), dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    encoder = TinyEncoder()
    encoder.preprocessing = replace(encoder.preprocessing, stretch=stretch)
    line = Pipeline(encoder, list_images(["a"], [tmp_path / "a.png"]), CROPS, 4, 0, "float32")
    wanted = [encoder.preprocess(Image.fromarray(pixels), CROPS.box("a", view, (50, 40))) for view in range(3)]
    assert torch.equal(line.read(0, range(3)), torch.stack(wanted))


def test_rows_that_repeat_and_views_are_gathered_right(images, tmp_path):
    store = encode_images(TinyEncoder(), *images, tmp_path / "tokens", views=2)
    whole = torch.from_numpy(np.load(store.folder / "tokens.npy"))
    rows, views = torch.tensor([4, 0, 4, 6, 4]), torch.tensor([1, 2, 1, 0, 2])
    assert torch.equal(store.batch(rows, views), whole[views, rows])
    assert store.batch(rows, views).dtype == torch.float16
    assert torch.equal(store.batch(rows, 1, dtype=torch.float32), whole[1, rows].float())
    assert store.batch(rows[:0], 1).shape == (0, 16, WIDTH)
    for wrong in ((torch.tensor([7]), 0), (torch.tensor([-1]), 0), (torch.tensor([0]), 3), (torch.tensor([0]), -1)):
        with pytest.raises(DataError, match="must be 0 to"):
            store.batch(*wrong)


def test_class_tokens_of_an_encoder_without_any_are_refused(images, tmp_path):
    bare = encode_images(TinyEncoder(class_token=False), *images, tmp_path / "bare")
    assert not bare.has_cls and not (bare.folder / "cls.npy").exists()
    with pytest.raises(DataError, match="tiny has no class token"):
        bare.class_tokens([0])


def test_a_subset_shows_the_same_tokens_by_other_rows(images, tmp_path):
    store = encode_images(TinyEncoder(), *images, tmp_path / "tokens")
    assert torch.equal(store.subset(["i05", "i00", "i05"]).batch([0, 1, 2]), store.batch([5, 0, 5]))
    with pytest.raises(DataError, match="1 images have no tokens here, first 'i99'"):
        store.subset(["i05", "i99"])
    part = store.subset(["i05", "i02"])
    assert (part.rows, part.image_ids, store.rows) == (2, ["i05", "i02"], 7)
    assert torch.equal(part.batch([1, 0, 1], 2), store.batch([2, 5, 2], 2))
    assert torch.equal(part.subset(["i02"]).class_tokens([0], 1), store.class_tokens([2], 1))
    assert len({store.identity, part.identity, store.subset(["i02", "i05"]).identity}) == 3
    with pytest.raises(DataError, match="Rows must be 0 to 1, not 2 to 2"):
        part.batch([2])
    live = LiveTokens(TinyEncoder(), *images).subset(["i05", "i02"])
    assert torch.equal(live.batch([1, 0], 2), part.batch([1, 0], 2))
    for rows, tokens, cls in live.passes([1, 0], 2):
        assert torch.equal(tokens, part.batch(rows, 2)) and torch.equal(cls, part.class_tokens(rows, 2))


@pytest.mark.parametrize(
    ("what", "differs"),
    [
        ({"crops": Crops(seed=1)}, "crops"),
        ({"crops": Crops(scale=(0.5, 0.9))}, "crops"),
        ({"views": 1}, "views"),
        ({"storage": "bfloat16"}, "storage"),
        ({"encoder": TinyEncoder(weights=1)}, "encoder"),
        ({"count": 6}, "images"),
    ],
)
def test_another_identity_is_refused_and_the_same_is_done(images, tmp_path, what, differs):
    encoder = TinyEncoder()
    first = encode_images(encoder, *images, tmp_path / "tokens")
    passes = encoder.passes
    assert encode_images(encoder, *images, tmp_path / "tokens").identity == first.identity
    assert encoder.passes == passes
    count, other = what.pop("count", 7), what.pop("encoder", encoder)
    some = [values[:count] for values in images]
    with pytest.raises(DataError, match=rf"other settings \({differs} differ\): delete it"):
        encode_images(other, *some, tmp_path / "tokens", **what)
    assert encode_images(other, *some, tmp_path / "other", **what).identity != first.identity


def test_changed_pixels_are_another_identity(tmp_path):
    ids, files = write_images(tmp_path)
    encode_images(TinyEncoder(), ids, files, tmp_path / "tokens")
    Image.new("L", (40, 40), 7).save(files[3])
    with pytest.raises(DataError, match="images differ"):
        encode_images(TinyEncoder(), ids, files, tmp_path / "tokens")


def encode_until_killed(folder):
    """Mark every image; die before the fifth."""
    torch.set_num_threads(1)
    encode.MARK_SECONDS = 0
    kill_at_call(TinyEncoder, "encode", 5)
    files = sorted(folder.glob("*.jpg"))
    encode_images(TinyEncoder(), [file.stem for file in files], files, folder / "tokens", batch_size=3)


def test_a_killed_encoding_continues_to_the_same_bytes(tmp_path):
    ids, files = write_images(tmp_path)
    partial = tmp_path / "tokens.partial"
    run_killed(encode_until_killed, tmp_path)
    done = read_json(partial / "progress.json")["images"]
    assert done == 4 and not (tmp_path / "tokens").exists()
    encoder = TinyEncoder()
    store = encode_images(encoder, ids, files, tmp_path / "tokens", batch_size=3)
    assert encoder.seen == (7 - done) * 3
    assert_same_bytes(store, encode_images(TinyEncoder(), ids, files, tmp_path / "whole", batch_size=3))
    assert not partial.exists()


@pytest.fixture
def interrupted(images, tmp_path, monkeypatch):
    """The folder of work that ended before the store had its name."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(encode, "MARK_SECONDS", 0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encode, "write", interrupt)
        encode_images(TinyEncoder(), *images, tmp_path / "tokens", batch_size=3)
    return tmp_path / "tokens.partial"


def test_tokens_that_flip_in_an_interrupted_call_are_made_anew(images, tmp_path, interrupted):
    array = interrupted / "tokens.npy"
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)
    with pytest.warns(UserWarning, match=r"tokens\.partial: tokens from image 6 on are damaged and made anew"):
        store = encode_images(TinyEncoder(), *images, tmp_path / "tokens", batch_size=3)
    assert_same_bytes(store, encode_images(TinyEncoder(), *images, tmp_path / "whole", batch_size=3))
    assert not list(store.folder.glob(".*")), "checksums go with the work"


def test_other_weights_do_not_continue_what_was_begun(images, tmp_path, interrupted):
    assert interrupted.exists()
    store = encode_images(TinyEncoder(weights=1), *images, tmp_path / "tokens", batch_size=3)
    assert_same_bytes(store, encode_images(TinyEncoder(weights=1), *images, tmp_path / "whole", batch_size=3))


def test_values_that_half_precision_cannot_hold(images, tmp_path):
    large = TinyEncoder(scale=1e6)
    with pytest.raises(DataError, match=r"token values exceed the largest float16, 65,504; first in i00, and \d+ more"):
        encode_images(large, *images, tmp_path / "tokens")
    store = encode_images(large, *images, tmp_path / "bfloat16", storage="bfloat16")
    assert store.dtype == torch.bfloat16 and torch.isfinite(store.batch([0], 1)).all()
    with Image.open(images[1][0]) as image:
        exact = large.encode(large.preprocess(image)[None]).patches
    assert torch.equal(store.batch([0]), exact.bfloat16())
    damaged = TinyEncoder(scale=float("nan"))
    with pytest.raises(DataError, match="NaN or infinite: the weights or the image are damaged; first in i00"):
        encode_images(damaged, *images, tmp_path / "nan", storage="bfloat16")
    with pytest.raises(DataError, match="'int8' is no storage of tokens; there are: float16"):
        encode_images(TinyEncoder(), *images, tmp_path / "int8", storage="int8")


def test_unreadable_images_are_named_before_encoding_begins(tmp_path):
    ids, files = write_images(tmp_path, 6)
    files[2].write_bytes(files[2].read_bytes()[:-400])
    files[4].write_text("no image")
    encoder = TinyEncoder()
    with pytest.raises(DataError, match=r"2 of 6 images cannot be read: i02 .*truncated.*; i04 .*cannot identify"):
        encode_images(encoder, ids, files, tmp_path / "tokens")
    assert encoder.passes == 0
    with pytest.raises(DataError, match=r"Image i02 .* cannot be read"):
        LiveTokens(encoder, ids, files).batch([1, 2])


def test_lists_that_do_not_fit(images, tmp_path):
    ids, files = images
    with pytest.raises(FileNotFoundError, match=r"1 of 7 image files do not exist: .*absent.jpg; check the data root"):
        encode_images(TinyEncoder(), ids, [tmp_path / "absent.jpg", *files[1:]], tmp_path / "tokens")
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match="is no token store"):
        encode_images(TinyEncoder(), ids, files, tmp_path / "mine")
    with pytest.raises(FileNotFoundError, match="holds no tokens"):
        TokenStore(tmp_path / "mine")


def test_threads_work_a_stated_number_of_items_ahead():
    taken = []
    line = in_order(str, (taken.append(number) or number for number in range(99)), 3, ahead=1)
    assert next(line) == "0" and len(taken) == 1 + 1 + 2 * 3
    line.close()


def test_progress_is_marked_every_few_seconds_and_at_the_end(images, tmp_path, monkeypatch):
    for seconds, marks in ((60, [7]), (0, [2, 4, 6, 7])):  # three views of two images are a batch of six
        monkeypatch.setattr(encode, "MARK_SECONDS", seconds)
        store = encode_images(TinyEncoder(), *images, tmp_path / str(seconds), batch_size=6)
        assert [done for done, _ in read_json(store.folder / "progress.json")["marks"]] == marks


def test_too_little_disk(images, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"need 4,284 bytes and the disk of .* has 1,000 free"):
        encode_images(TinyEncoder(), *images, tmp_path / "tokens", views=2)
    assert not (tmp_path / "tokens.partial").exists()


def test_estimate(images, tmp_path):
    encoder = TinyEncoder(pause=0.02)
    cost = estimate(encoder, *images, views=2, batch_size=3)
    store = encode_images(encoder, *images, tmp_path / "tokens", views=2, batch_size=3)
    assert cost.bytes == store.facts["bytes"] == 7 * 3 * 17 * WIDTH * 2
    assert 7 * 0.02 < cost.seconds < 7 * 0.02 * 5
    assert cost.fits(0) and cost.fits(1) and not cost.fits(1e-7)
    assert cost.mode("kept", 1) == "stored" and cost.mode("fresh", 1e-7) == "live"
    with pytest.raises(DataError, match=r"\(2 \+ 1\) views need .* GiB, above limit_gib 1e-07: raise it, or"):
        cost.mode("kept", 1e-7)
    with pytest.raises(DataError, match="'stale' is no kind of crops; there are: kept, fresh"):
        cost.mode("stale", 0)
    assert str(cost).startswith("7 images x (2 + 1) views: 0.00 GiB, about 0.0 minutes (")


def test_live_tokens_are_those_of_a_store(images, tmp_path):
    crops = Crops(seed=2)
    store = encode_images(TinyEncoder(), *images, tmp_path / "tokens", views=2, crops=crops)
    encoder = TinyEncoder()
    live = LiveTokens(encoder, *images, crops, batch_size=4)
    rows, views = torch.tensor([4, 0, 4, 6, 4]), torch.tensor([1, 2, 1, 0, 2])
    assert torch.equal(live.batch(rows, views), store.batch(rows, views))
    assert encoder.seen == 4  # (4, 1) is asked for twice and encoded once
    assert torch.equal(live.class_tokens(rows, 2), store.class_tokens(rows, 2))
    assert (live.rows, live.tokens_per_image, live.width, live.grid) == (7, 16, WIDTH, GRID)


def test_passes_encode_each_row_once_in_order(images):
    encoder = TinyEncoder()
    live = LiveTokens(encoder, *images, batch_size=2, workers=2)
    found = list(live.passes(torch.tensor([5, 0, 1, 3, 2]), 4))
    assert [rows.tolist() for rows, _, _ in found] == [[5, 0], [1, 3], [2]]
    assert (encoder.passes, encoder.seen) == (3, 5)
    for rows, tokens, cls in found:
        assert torch.equal(tokens, live.batch(rows, 4)) and torch.equal(cls, live.class_tokens(rows, 4))
    bare = LiveTokens(TinyEncoder(class_token=False), *images)
    assert next(bare.passes([2], 1))[2] is None
    with pytest.raises(DataError, match="Rows must be 0 to 6"):
        next(live.passes([7], 1))


def test_clean_views_of_live_tokens_come_from_their_store(images, tmp_path):
    clean = encode_images(TinyEncoder(), *images, tmp_path / "clean", views=0)
    encoder = TinyEncoder()
    live = LiveTokens(encoder, *images, clean=clean)
    assert torch.equal(live.batch([3, 1]), clean.batch([3, 1])) and torch.equal(
        live.class_tokens([3]), clean.class_tokens([3])
    )
    assert encoder.passes == 0
    with pytest.raises(DataError, match="are of other images"):
        LiveTokens(encoder, images[0][:3], images[1][:3], clean=clean)


def test_crops_depend_on_seed_image_and_view_alone():
    crops = Crops(seed=1)
    boxes = {crops.box(name, view, (300, 200)) for name in "abcdefgh" for view in (1, 2, 3)}
    assert len(boxes) == 24 and crops.box("a", 1, (300, 200)) in boxes
    assert Crops(seed=2).box("a", 1, (300, 200)) not in boxes
    for left, top, width, height in boxes:
        assert 0.38 < width * height / 60000 < 0.92 and left + width <= 300 and top + height <= 200


def test_crops_that_cannot_be_are_refused():
    for wrong in ({"scale": (0.4, 1.1)}, {"scale": (0, 0.5)}, {"ratio": (0, 1)}, {"scale": (0.4,)}):
        with pytest.raises(DataError, match="Crops: "):
            Crops(**wrong)


def test_a_real_encoder_stored_and_live(images, tmp_path):
    ids, files = [values[:2] for values in images]
    options = {"name": "c2l", "weights": "random", "seed": 4}
    encoder = load_image_encoder(**options)
    store = encode_images(encoder, ids, files, tmp_path / "tokens" / "clean", views=0)
    assert (store.tokens_per_image, store.width, store.grid) == (49, 512, (7, 7))
    with Image.open(files[1]) as image:
        assert torch.allclose(encoder.tokens(encoder.preprocess(image)[None])[0].half(), store.batch([1])[0], atol=1e-3)
    names = [file.name for file in files]
    other = LiveTokens(encoder, ids, files, Crops(seed=5), batch_size=3, workers=2)
    record_live(tmp_path / "tokens", other, options, str(files[0].parent), names)
    live = open_tokens(tmp_path / "tokens")
    assert (live.pipeline.batch_size, live.pipeline.workers) == (3, 2)  # not one thread, whoever opens them
    assert torch.equal(live.batch([0, 1]), store.batch([0, 1]))
    assert torch.equal(live.batch([0, 1], 9), other.batch([0, 1], 9))
    assert isinstance(open_tokens(store.folder), TokenStore)
    record_live(tmp_path / "tokens", other, {**options, "seed": 5}, str(files[0].parent), names)
    with pytest.raises(DataError, match=r"are not those that .* was made with"):
        open_tokens(tmp_path / "tokens")


TEXTS = ["heart size is normal", "", "no pleural effusion or pneumothorax is seen on this film", "clear", "clear lungs"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A small random BERT with a vocabulary of its own."""
    folder = tmp_path_factory.mktemp("vocabulary")
    words = sorted({word for text in TEXTS for word in text.split()})
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    words += [f"[unused{n}]" for n in range(TEXT_ENCODERS["minilm"].vocabulary - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return load_text_encoder("minilm", "random", layer=1, vocabulary=folder)


def test_report_tokens_are_the_encoders_rounded_to_half(bert, tmp_path):
    store = encode_texts(bert, list("abcde"), TEXTS, tmp_path / "text", batch_size=2)
    assert (store.rows, store.width, store.lengths.tolist()) == (5, 384, [6, 2, 12, 3, 4])
    assert (store.facts["truncated"], store.facts["empty"], store.facts["tokens"]) == (0, 1, 27)
    tokens, mask = store.batch(np.array([3, 2, 3, 1]))
    assert tokens.shape == (4, 12, 384) and mask.sum(1).tolist() == [3, 12, 3, 2] and not tokens[~mask].any()
    for row, number in enumerate([3, 2, 3, 1]):
        exact = bert.tokens([TEXTS[number]]).tokens[0].half()
        assert torch.allclose(tokens[row][mask[row]], exact.float(), atol=2e-3)
    assert torch.equal(tokens[0], tokens[2]) and store.batch([0])[0].dtype == torch.float32
    shared = store.subset(["e", "a", "e"])  # one row an image: two images of one study
    assert torch.equal(shared.batch([0, 2])[0], store.batch([4, 4])[0]) and shared.lengths.tolist() == [4, 6, 4]
    assert shared.identity != store.identity
    with pytest.raises(DataError, match="1 reports have no tokens here, first 'f'"):
        store.subset(["a", "f"])
    damaged = store.folder / "store.json"
    write_json(damaged, {**store.facts, "texts": "0" * 64})
    with pytest.raises(DataError, match=r"tokens.safetensors is not the file that store.json describes"):
        TextStore(store.folder)


def test_report_stores_are_identified(bert, tmp_path, monkeypatch):
    store = encode_texts(bert, list("abcde"), TEXTS, tmp_path / "text")
    monkeypatch.setattr(bert, "encode", None)  # a second call reads what is there, another run's too
    take_over(store.folder, tmp_path / "other")
    assert encode_texts(bert, list("abcde"), TEXTS, tmp_path / "other").identity == store.identity
    with pytest.raises(FileNotFoundError, match="holds no tokens"):
        take_over(tmp_path, tmp_path / "third")
    assert encode_texts(bert, list("abcde"), TEXTS, tmp_path / "text").identity == store.identity
    for ids, texts, words in (
        (list("abcde"), [*TEXTS[:4], "clear heart"], "texts differ"),
        (list("abcdf"), TEXTS, "ids differ"),
        (list("abcde"), [*TEXTS[:4], None], "1 reports have no text, first at position 4"),
    ):
        with pytest.raises(DataError, match=words) as raised:
            encode_texts(bert, ids, texts, tmp_path / "text")
        assert "heart" not in str(raised.value)
