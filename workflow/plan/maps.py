"""The model of the study of attention (mmpkd).

- images: those of the finished run of 01-prepare-data; where there is none, of the releases: MIMIC-CXR's frontal views
  in their official parts, MS-CXR's boxed images; of CBIS-DDSM a picture for each row of its tables, which is too many
- 01: tables and reports, a decoding and packing for each image, by its pixels; disk is the packed pixels
- 02: reports of training and, a third of it, validation x seeds x epochs x a pass of the measured text encoder, and
  all once through its frozen blocks, by L D^2; texts as long as the benchmark's.
  Random forests were not measured
- 03: (training images x what training adds to a forward pass + validation images) x epochs, and all images once, for
  each setting, fold and seed; stopping early is not in it. A forward pass lies between those of the measured
  students, by operations, L (12 N D^2 + 2 N^2 D)
- 04, 08: maps of the validation and test images with regions, scored for the labels, for any finding and by finding, by
  their pixels; in every fold the reference maps likewise. 08: of controls one map, of others all, those of randomised
  weights, block by block, and passes with some of the tokens
- memory: a kernel, weights with gradients and moments in float32, maps at the images' size; packed pixels are mapped

05, 06, 07, 09 and 10 were not measured.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from pkd_utils.cohorts import mimic_cxr
from pkd_utils.cohorts.cbis.cases import ROWS_PUBLISHED
from pkd_utils.localization.reference import NAMES as REFERENCES
from pkd_utils.localization.tokens import SHARES
from pkd_utils.runs import files, paths, run
from workflow.plan.costs import KERNEL_GIB, Cost, Runs
from workflow.plan.rates import PACKED, Rates, Student
from workflow.plan.tasks import NotKnown

BOXED = 1_047  # images of MS-CXR 1.1.0, whatever their part
TIMM = {"vit_tiny_patch16_224": (16, 192, 12), "vit_small_patch16_224": (16, 384, 12)}  # patch, width, blocks
BERT_BASE = (12, 768)  # PubMedBERT and all who say nothing else


@dataclass(frozen=True)
class Pictures:
    """What a run of 01-prepare-data holds: images and rows of privileged information, parts of one fold, folds."""

    images: int
    rows: int
    train: int
    validate: int
    regions: dict[str, int]  # validation and test images with one
    pairs: tuple[tuple[int, int], ...]  # fold, and which seed's turn it is
    source: str
    named: int = 0  # regions of one finding among those of the test images: scored once more, by finding
    plain: int = 0  # test images without a region, of which 08 makes maps, too
    pixels: float = PACKED  # of an image as it is stored


def pictures(reference: str, parameters: dict[str, Any]) -> Pictures:
    """Of the finished run, or of the releases."""
    if (paths.runs_dir() / reference / "run.json").exists():
        return _finished(reference)
    source, options = parameters["source"], parameters["options"]
    if parameters["simulate_patients"] or parameters["folds"]:
        raise NotKnown(f"the images of {reference}, which are known when it has run")
    one_fold = ((0, 0),)
    if source == "mimic_cxr":
        known = mimic_cxr.RELEASED
        images = sum(known[view] for view in options.get("views", ("AP", "PA")))
        part = {name: round(images * known[name] / known["all"]) for name in ("train", "validate")}
        rows = min(images, mimic_cxr.RELEASED["studies"])
        return Pictures(images, rows, **part, regions={"validate": 0, "test": BOXED}, pairs=one_fold,
                        source="the release's counts", named=BOXED)  # fmt: skip
    if source in ("cbis_mass", "cbis_calc"):
        train, test = (ROWS_PUBLISHED[source.removeprefix("cbis_"), part] for part in ("train", "test"))
        validate = round(train * options.get("validate_share", 0.0))
        counts = Pictures(train + test, train + test, train - validate, validate,
                          {"validate": validate, "test": test}, one_fold, "rows of the release's tables")  # fmt: skip
        return counts
    raise NotKnown(f"the images of {reference}, which are known when it has run")


def _finished(reference: str) -> Pictures:
    folder = run.find_run(reference)
    images = len(pd.read_parquet(folder / "images.parquet", columns=["image_id"]))
    rows = len(pd.read_parquet(folder / "privileged.parquet"))
    splits = pd.read_parquet(folder / "splits.parquet")
    boxes, packed = (pd.read_parquet(folder / name) for name in ("boxes.parquet", "pixels.index.parquet"))
    boxed = set(boxes["image_id"])
    folds = splits.drop_duplicates("fold").sort_values("fold")
    first = splits[splits["fold"] == folds["fold"].iloc[0]]
    counts = first["split"].value_counts()
    regions = {part: int(first.loc[first["split"] == part, "image_id"].isin(boxed).sum()) for part in counts.index}
    findings = boxes[boxes["finding"] != ""].drop_duplicates(["image_id", "finding"])
    test = first.loc[first["split"] == "test", "image_id"]
    return Pictures(images, rows, int(counts.get("train", 0)), int(counts.get("validate", 0)),
                    {part: regions.get(part, 0) for part in ("validate", "test")},
                    tuple(zip(folds["fold"], folds["repeat"], strict=True)), "a finished run",
                    int(findings["image_id"].isin(test).sum()), int((~test.isin(boxed)).sum()),
                    float((packed["width"] * packed["height"]).mean()))  # fmt: skip


class Maps:
    """Costs of runs of the study of attention."""

    def __init__(self, runs: Runs, rates: Rates):
        self.rates = rates
        self.runs = runs
        self.prepared: dict[str, Pictures] = {}
        self.models = {
            "mmpkd/01-prepare-data": self._prepare,
            "mmpkd/02-train-teacher": self._teach,
            "mmpkd/03-distil-student": self._distil,
            "mmpkd/04-evaluate-attention": self._evaluate,
            "mmpkd/08-score-all-maps": self._score,
        }

    def _pictures(self, reference: str) -> Pictures:
        if reference not in self.prepared:
            self.prepared[reference] = pictures(reference, self.runs[reference])
        return self.prepared[reference]

    def _prepare(self, p: dict[str, Any], cost: Cost) -> None:
        if p["simulate_patients"]:
            raise NotKnown("drawing simulated pictures")
        reference = f"mmpkd/{p['cohort']}/01-prepare-data/{p['run']}"
        found = self._pictures(reference)
        images = found.images
        cost.spend(images, (0.0, self.rates.picture(found.pixels) + self.rates.indexed()))
        cost.gib = images * p["image_size"] ** 2 / 2**30
        cost.memory_gib = KERNEL_GIB + images * self.rates.indexed_gib()
        cost.note = f"{images:,} images"

    def _teach(self, p: dict[str, Any], cost: Cost) -> None:
        if p["teacher"] != "text":
            raise NotKnown("random forests")
        found = self._pictures(p["prepared_run"])
        teachers = len(found.pairs) * len(p["seeds"]) * (1 + p["parts"] * (p["soft_labels"] == "cross_fitted"))
        config = paths.resolve(p["text_encoder"]) / "config.json"
        facts = files.read_json(config) if config.exists() else {}
        layers, width = (facts.get(name, usual) for name, usual in
                         zip(("num_hidden_layers", "hidden_size"), BERT_BASE, strict=True))  # fmt: skip
        read = found.rows * (found.train + found.validate / 3) / found.images  # a third of a pass without the way back
        a_pass, once = self.rates.text(layers, width, p["trainable_layers"], p["pooling"])
        cost.spend(1, (0.0, teachers * p["epochs"] * read * a_pass + found.rows * once))
        weights = layers * 12 * width**2 + 30_522 * width
        cost.memory_gib = KERNEL_GIB + weights * 16 / 2**30
        cost.gib = None
        cost.note = f"{teachers} teachers, {found.rows:,} reports"

    def _shape(self, p: dict[str, Any]) -> tuple[Student, int]:
        """(N, D, L) of a run's students, and the side of their images."""
        side = self.runs[p["prepared_run"]]["image_size"]
        if p["architecture"] not in (*TIMM, "vit"):
            raise NotKnown(f"students of architecture {p['architecture']}")
        patch, width, depth = TIMM.get(p["architecture"], (p["patch_size"], p["width"], p["depth"]))
        return ((side // patch) ** 2 + 1, width, depth), side

    def _students(self, p: dict[str, Any]) -> int:
        """How many students a run of 03 trains."""
        weights = [weight for weight in p["weights"] if weight]
        settings = 1 if p["grid_run"] else (0.0 in p["weights"]) + len(weights) * len(p["temperatures"])
        found = self._pictures(p["prepared_run"])
        turns = max(repeat for _, repeat in found.pairs) + 1
        each = sum(repeat == number % turns for number in range(len(p["seeds"])) for _, repeat in found.pairs)
        return settings * each

    def _distil(self, p: dict[str, Any], cost: Cost) -> None:
        found, (shape, _) = self._pictures(p["prepared_run"]), self._shape(p)
        students = self._students(p)
        step, forward = self.rates.student_step(shape, p["precision"]), self.rates.student(shape)
        seconds = p["epochs"] * (found.train * step + found.validate * forward) + found.images * forward
        cost.spend(students, (0.0, seconds))
        weights = 12 * shape[2] * shape[1] ** 2
        cost.gib = students * 4 * weights / 2**30
        cost.memory_gib = KERNEL_GIB + 16 * weights / 2**30
        cost.heads, cost.note = students, f"{students} students"

    def _evaluate(self, p: dict[str, Any], cost: Cost) -> None:
        self._look(p, [p["student_run"]], "attention, mean", 1, cost)
        self._references(p, [p["student_run"]], cost)

    def _score(self, p: dict[str, Any], cost: Cost) -> None:
        controls = [name for name in p["student_runs"] if self.runs[name]["control"]]
        looked = [name for name in p["student_runs"] if name not in controls]
        if controls:  # of these one map
            self._look(p, controls, "attention, mean", 1, cost)
        shape = self._look(p, looked, "all methods", len(p["maps"]), cost)
        self._references(p, looked, cost)
        for names, what in ((controls, "attention, mean"), (looked, "all methods")):
            count = sum(self._students(self.runs[name]) for name in names)
            cost.spend(count * self._pictures(p["prepared_run"]).plain, (0.0, self.rates.student(shape, what)))
        # Each block in turn, alone and with those above it, of one student a method or more.
        looked_at = len(looked) * p["sanity_students"] * 2 * (shape[2] + 1) * len(p["random_seeds"])
        cost.spend(looked_at * p["sanity_images"], (0.0, self.rates.student(shape, "all methods")))
        # Insertion and deletion: half of the tokens on average, for each share of them; beside the maps a random order.
        maps = sum(self._students(self.runs[name]) for name in controls) * 2
        maps += sum(self._students(self.runs[name]) for name in looked) * (len(p["maps"]) + 1)
        cost.spend(maps * p["sanity_images"] * len(SHARES), (0.0, self.rates.student(shape)))

    def _look(self, p: dict[str, Any], students: list[str], what: str, maps: int, cost: Cost) -> Student:
        """Maps of all students of some runs, and their scores: the first map by finding, too."""
        found, each = self._pictures(p["prepared_run"]), [self.runs[name] for name in students]
        images = sum(found.regions.values())
        shape, side = self._shape(each[0])
        count = sum(map(self._students, each))
        cost.spend(count * images, (0.0, self.rates.student(shape, what)))
        cost.spend(count * (maps * self._scored(found) + found.named), (0.0, self.rates.scoring(side)))
        cost.gib, cost.memory_gib = None, KERNEL_GIB + maps * images * side**2 * 4 / 2**30
        cost.note = f"{count} students, {images:,} images"
        return shape

    def _references(self, p: dict[str, Any], students: list[str], cost: Cost) -> None:
        """Maps that know nothing of the finding, in every fold: those of random students, and the fixed ones."""
        found, (shape, side) = self._pictures(p["prepared_run"]), self._shape(self.runs[students[0]])
        random, known = len(p["random_seeds"]), len(REFERENCES) - 2  # of these two are students
        folds = len({fold for fold, _ in found.pairs})
        cost.spend(folds * random * sum(found.regions.values()), (0.0, self.rates.student(shape, "attention, mean")))
        cost.spend(folds * (random + known) * self._scored(found), (0.0, self.rates.scoring(side)))

    @staticmethod
    def _scored(found: Pictures) -> int:
        """How many maps are scored of one kind: of the validation images, of the test images, and of any finding."""
        return found.regions["validate"] + found.regions["test"] * (2 if found.named else 1)
