"""What a profile's runs of the reports study will cost, before any of them starts: heads, hours and disk.

`python -m workflow.budget paper [--rates FOLDER]`

Rates are those that `make bench` measured (`book/results/benchmark-{encoders,heads,tokens}.json`, or with --rates the
same three files of another machine). The model:

- images: those of the finished run of 01-prepare-tasks; where there is none, the paper's counts with Tables 3 to 7
- encoding: images x (views + 1) x (a pass of the encoder + preprocessing), and one decoding an image. Where crops are
  fresh: a decoding, preprocessing and pass for every training image of every epoch, and one for every evaluation image
  that is not kept clean, shared by all heads, seeds and sizes of a task whose heads fit half of `memory_gib` together
  (else by those of a wave)
- a head and training image: 4 N D^2 + 4 N^2 D operations, forward and back, for N tokens of D numbers; the teacher's
  report tokens likewise. Evaluating an image after an epoch, and hearing a teacher, is half of that. Linear probes cost
  nothing beside it. Operations per second: those of the measured shape nearest in operations, and of the largest
  measured number of heads that is not above that of the heads trained together
- disk: (views + 1) x images x N x D numbers, report tokens, logits of all epochs, weights of heads that teach

CPU-hours are those of one core, GPU-hours of the GPU that was measured, which device `auto` takes (params/local.yml).
Not in it: steps 01, 05 and 06, and reading from disks slower than the page cache.
"""

import argparse
import inspect
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pkd_utils.cohorts.tasks import age, mimic
from pkd_utils.cohorts.tasks.base import PAPER_COUNTS
from pkd_utils.cohorts.tasks.build import INSPECT_TASKS
from pkd_utils.cohorts.tasks.outcomes import outcome
from pkd_utils.cohorts.tasks.splits import training_sizes
from pkd_utils.distillation.heads.modules import DISTILLED, PROBES, READS_TEXT, TEACHES
from pkd_utils.encoders.zoo import IMAGE_ENCODERS, TEXT_ENCODERS
from pkd_utils.runs import files, notebooks, paths, run
from pkd_utils.runs.errors import DataError
from pkd_utils.studies.reports.heads import TEACHER_OF

RATES = "book/results"
REPORT_TOKENS = 128  # as long as the texts of benchmarks/encoders.py; MIMIC's reports were not measured
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
_KINDS = {"float32": "fp32", "float64": "fp32", "bfloat16": "bf16"}
_BUILDERS = {"mimic_5x1200": mimic.five_findings, "discharge_3_day": mimic.discharge, "age": age.age}
_BUILDERS |= dict.fromkeys(INSPECT_TASKS, outcome)

Seconds = tuple[float, float]  # of the GPU, and of one CPU core


def operations(n_tokens: float, width: int) -> float:
    """Least operations of one attention head for one training image, forward and back: 4 N D^2 + 4 N^2 D."""
    return 4 * n_tokens * width**2 + 4 * n_tokens**2 * width


class Rates:
    """Measured rates, read from a folder that holds the three benchmark files."""

    def __init__(self, folder: str | Path = RATES):
        self.folder = paths.resolve(str(folder))
        self.encoders, self.heads, self.tokens = (self._read(name) for name in ("encoders", "heads", "tokens"))
        self.gpu = self.encoders["machine"].get("gpu", "")  # its name, "" where none was measured

    def _read(self, name: str) -> dict[str, Any]:
        file = self.folder / f"benchmark-{name}.json"
        if not file.exists():
            raise FileNotFoundError(f"{file} is missing: measure the rates with `make bench` (or --rates FOLDER).")
        return files.read_json(file)

    def _fastest(self, kind: str, encoders: Sequence[str], precision: str, rate: str) -> Seconds | None:
        """Seconds of one unit; "auto" is the faster of the measured precisions; None: no rate."""
        rows = [row for row in self.encoders[kind] if row["encoder"] in encoders]
        rows = [row for row in rows if precision in ("auto", row["precision"])]
        return (0.0, self.encoders["machine"]["threads"] / max(row[rate] for row in rows)) if rows else None

    def view(self, encoder: str, precision: str, device: str) -> Seconds | None:
        """One pass of an image encoder for one view."""
        on_gpu = [row for row in self.encoders.get("gpu", []) if row and row["encoder"] == encoder]
        if device != "cpu" and on_gpu:
            return 1 / on_gpu[0]["images_per_s"], 0.0
        return self._fastest("rows", [encoder], precision, "images_per_s")

    def report_token(self, encoder: str, precision: str) -> Seconds | None:
        """One token of a report through a text encoder, or through a measured one of the same depth and width."""
        size = TEXT_ENCODERS[encoder].layers, TEXT_ENCODERS[encoder].width
        alike = [name for name, facts in TEXT_ENCODERS.items() if (facts.layers, facts.width) == size]
        return self._fastest("text_rows", alike, precision, "tokens_per_s")

    def preparation(self, encoder: str) -> float:
        """Seconds of a CPU core to crop, resize and normalise one view."""
        return {row["encoder"]: row["ms_per_image"] for row in self.encoders["preprocessing"]}[encoder] / 1e3

    def decoding(self) -> float:
        """Seconds of a CPU core to decode a radiograph: what encoding takes beyond encoder (C2L) and preprocessing."""
        rows = [row for row in self.tokens["rows"] if row["what"].endswith("bare encoder, inputs ready")]
        row = next(row for row in rows if row["ours"] == "one thread for all")
        reading = 1 / row["ours_images_per_s"] - 1 / row["reference_images_per_s"]
        return max(0.0, reading - (self.tokens["settings"]["views"] + 1) * self.preparation("c2l"))

    def operation(self, together: int, shape: tuple[int, int], precision: str, device: str) -> Seconds:
        """One operation of the least work, of `together` heads on `shape` (N, D) tokens."""
        settings = self.heads["settings"]
        on_gpu = settings["device"].startswith("cuda")
        if on_gpu and device == "cpu":
            raise DataError(f"{self.folder}/benchmark-heads.json was measured on a GPU, and heads train on a CPU here.")
        shapes = {tuple(map(int, name.split("x"))): times for name, times in self.heads["seconds"].items()}
        nearest = min(shapes, key=lambda known: abs(math.log(operations(*known) / operations(*shape))))
        count = max([n for n in settings["heads"] if n <= together] or [min(settings["heads"])])
        best = min(shapes[nearest][f"{count} heads, {_KINDS[precision]}"])
        seconds = best / (count * settings["batch"] * operations(*nearest))
        return (seconds, 0.0) if on_gpu else (0.0, seconds * settings["threads"])


@dataclass(frozen=True)
class TaskCount:
    """Images of one task: classes, seeds, evaluation images a seed, and (training images, epochs) of each size.

    `pool` is the number of images that every seed draws its own from; None where all draws are counted as different.
    """

    classes: int
    seeds: tuple[int, ...]
    evaluation: int
    sizes: tuple[tuple[int, int], ...]
    pool: float | None = None

    def together(self, images: int, seeds: float) -> float:
        """Different images, as expected, where each of some seeds has so many."""
        if self.pool is None:
            return seeds * images
        return self.pool * (1 - max(0.0, 1 - images / self.pool) ** seeds)

    def fresh_passes(self, sizes: Sequence[tuple[int, int]], seeds: int, waves: int) -> float:
        """Training images that are encoded in all epochs: in each, those of the largest subset still in training.

        Subsets of a seed are nested. The seeds are spread over the waves, of which each has passes of its own.
        """
        passes, done = 0.0, 0
        for epochs in sorted({epochs for _, epochs in sizes}):
            largest = max(samples for samples, longer in sizes if longer >= epochs)
            passes += (epochs - done) * waves * self.together(largest, max(1.0, seeds / waves))
            done = epochs
        return passes


class Prepared(NamedTuple):  # by a run of 01-prepare-tasks, finished or to come; images: those to encode
    tasks: dict[str, TaskCount]
    images: int
    source: str


def count_tasks(reference: str, parameters: dict[str, Any]) -> Prepared:
    """Images of every task: of the finished run, or, for MIMIC-CXR and INSPECT, as the paper counts them.

    Without a run, images to encode are what the seeds' draws are expected to cover. Images of two tasks count twice.
    """
    if (paths.runs_dir() / reference / "run.json").exists():
        return _count_finished(run.find_run(reference))
    counted = set(parameters["tasks"]) <= set(PAPER_COUNTS) and parameters["source"] in ("mimic_cxr", "inspect")
    if parameters["simulate_patients"] or not counted:
        raise DataError(f"The images of {reference} are not known before it has run: run it first.")
    tasks = {name: _count_as_paper(name, parameters) for name in parameters["tasks"]}
    images = sum(t.together(t.evaluation + max(n for n, _ in t.sizes), len(t.seeds)) for t in tasks.values())
    return Prepared(tasks, round(images), "the paper's counts")


def _count_as_paper(name: str, parameters: dict[str, Any]) -> TaskCount:
    options = {n: p.default for n, p in inspect.signature(_BUILDERS[name]).parameters.items()}
    options |= parameters["task_options"].get(name, {})
    if "train_per_class" in options:
        classes = len(options["findings"])
        train, evaluation = classes * options["train_per_class"], classes * options["evaluate_per_class"]
        pool = train + evaluation if options["drawn"] == "once" else None
    else:
        pool, classes = options.get("at_most", PAPER_COUNTS[name]), options.get("bins", 2)
        evaluation = round(pool * options["evaluate"])
        train = pool - evaluation
    chosen = parameters["sizes"].get(name, parameters["sizes"].get("*", []))
    epochs = parameters["epochs_of"].get(name, [parameters["epochs"]] * len(chosen))
    sizes = [(int(n * train) if n <= 1 else int(n), own) for n, own in zip(chosen, epochs, strict=True)]
    sizes = sizes or [(int(row.samples), int(row.epochs)) for row in training_sizes(name).itertuples()]
    return TaskCount(classes, tuple(parameters["seeds"]), evaluation, tuple(sizes), pool)


def _count_finished(folder: Path) -> Prepared:
    splits = pd.read_parquet(folder / "splits.parquet", columns=["task", "seed", "part", "image_id"])
    sizes, facts = pd.read_csv(folder / "sizes.csv"), files.read_json(folder / "tasks.json")
    tasks = {}
    for name, rows in splits.groupby("task", sort=False):
        seeds = tuple(int(seed) for seed in rows["seed"].unique())
        pairs = tuple((int(row.samples), int(row.epochs)) for row in sizes[sizes["task"] == name].itertuples())
        evaluation = round((rows["part"] == "evaluate").sum() / len(seeds))
        different = rows["image_id"].nunique()  # the pool, as far as the seeds have drawn from it
        pool = different if different < len(rows) else None
        tasks[name] = TaskCount(len(facts[name]["classes"]), seeds, evaluation, pairs, pool)
    return Prepared(tasks, len(pd.read_parquet(folder / "images.parquet", columns=["image_id"])), "a finished run")


@dataclass
class Cost:
    """What one run costs; `unknown` says which rate was not measured."""

    name: str
    heads: int = 0
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    gib: float = 0.0
    note: str = ""
    unknown: str = ""

    def spend(self, times: float, seconds: Seconds) -> None:
        """Add `times` x (GPU, CPU) seconds."""
        self.gpu_hours += times * seconds[0] / 3600
        self.cpu_hours += times * seconds[1] / 3600

    def row(self, gpu: bool) -> str:
        """One line of the table; "+?" marks hours that lack a rate."""
        hours = (self.gpu_hours, self.cpu_hours) if gpu else (self.cpu_hours,)
        numbers = "".join(f"{value:>10,.2f}{'+?' if self.unknown else '  '}" for value in hours)
        return f"{self.name:56}{self.heads or '':>7}{numbers}{self.gib:>9,.1f}  {self.note}".rstrip()


class Budget:
    """Costs of all runs of the reports study in a profile's plan; other studies' runs are left out."""

    def __init__(self, jobs: Sequence[notebooks.Job], rates: Rates):
        self.rates = rates
        plan = [(*job.notebook.split("/"), job.parameters) for job in jobs]
        self.known = {f"{study}/{p['cohort']}/{step}/{p['run']}": p for study, step, p in plan}
        self.prepared: dict[str, Prepared] = {}
        self.costs = []
        for job in [job for job in jobs if job.notebook.startswith("reports/")]:
            self.costs.append(Cost(job.name.removeprefix("reports/")))
            if job.notebook == "reports/02-encode":
                self._encode(job.parameters, self.costs[-1])
            elif job.notebook in ("reports/03-train-teachers", "reports/04-distil-students"):
                self._train(job.parameters, self.costs[-1])

    def _parameters(self, reference: str) -> dict[str, Any]:
        """Parameters of a run that is planned, or was finished before."""
        if reference not in self.known:
            self.known[reference] = files.read_json(run.find_run(reference) / "run.json")["parameters"]
        return self.known[reference]

    def _tasks(self, reference: str) -> Prepared:
        if reference not in self.prepared:
            self.prepared[reference] = count_tasks(reference, self._parameters(reference))
        return self.prepared[reference]

    def _store(self, encode: dict[str, Any]) -> tuple[tuple[int, int], int, bool, bool]:
        """(N, D), bytes of one view of all images, whether crops are fresh, whether clean views are kept."""
        facts = IMAGE_ENCODERS[encode["image_encoder"]]
        feature = facts.features[encode["feature"] or next(iter(facts.features))]
        steps = facts.preprocessing[encode["preprocessing"] or next(iter(facts.preprocessing))]
        side = encode["input_size"] or steps.crop
        count = feature.grid[0] * side // steps.crop * (feature.grid[1] * side // steps.crop)
        kept = (count + facts.class_token) * feature.width * _BYTES[encode["storage"]]
        one_view = self._tasks(encode["tasks_run"]).images * kept
        fresh = encode["crops"] == "fresh"
        clean = not fresh or one_view <= (encode["limit_gib"] * 2**30 or math.inf)
        return (count, feature.width), one_view, fresh, clean

    def _image(self, encode: dict[str, Any], views: int, cost: Cost) -> Seconds:
        """Decoding one image, and preprocessing and encoding some views of it."""
        name = encode["image_encoder"]
        seen = self.rates.view(name, encode["precision"], encode["device"])
        if seen is None:  # a finished run of its own tells how long all of that took
            rate = _encoded(encode).get("rates", {}).get("views/s")
            cost.unknown = "" if rate else f"image encoder {name}"
            return 0.0, views / rate if rate else 0.0
        (tokens, _), *_ = self._store(encode)
        (usual, _), *_ = self._store({**encode, "input_size": 0})
        gpu, cpu = (views * seconds * tokens / usual for seconds in seen)
        return gpu, cpu + views * self.rates.preparation(name) + self.rates.decoding()

    def _report_tokens(self, encode: dict[str, Any]) -> float:
        """Mean tokens of a report where a run has read them, else what was assumed."""
        read = self._parameters(encode["text_run"]) if encode["text_run"] else encode
        kept = [row["tokens"] for row in _encoded(read).get("kept", []) if row["what"] == "reports"]
        return kept[0] if kept else REPORT_TOKENS

    def _encode(self, p: dict[str, Any], cost: Cost) -> None:
        images, notes = self._tasks(p["tasks_run"]).images, []
        if p["image_encoder"]:
            _, one_view, fresh, clean = self._store(p)
            views = clean * (1 if fresh else p["views"] + 1)
            notes = ["fresh crops" if fresh else f"{views} views"]
            cost.spend(images if views else 0, self._image(p, views, cost))
            cost.gib += views * one_view / 2**30
        if p["text_encoder"] and not p["text_run"]:
            tokens = self._report_tokens(p)
            read = self.rates.report_token(p["text_encoder"], p["precision"])
            cost.unknown = cost.unknown if read else f"text encoder {p['text_encoder']}"
            cost.spend(images * tokens, read or (0.0, 0.0))
            cost.gib += images * tokens * TEXT_ENCODERS[p["text_encoder"]].width * 2 / 2**30
            notes.append("reports")
        cost.note = ", ".join([f"{images:,} images", *notes] if notes else [])

    def _train(self, p: dict[str, Any], cost: Cost) -> None:
        first = self._parameters(p["teachers_run"]) if "teachers_run" in p else p
        encode = self._parameters(first["encode_run"])
        if first.get("text_run"):  # reports as another text encoder reads them
            other = self._parameters(first["text_run"])
            encode = {**encode, "text_encoder": other["text_encoder"], "text_run": first["text_run"]}
        prepared, (_, _, fresh, clean) = self._tasks(encode["tasks_run"]), self._store(encode)
        for name in first["tasks"] or prepared.tasks:
            task = prepared.tasks[name]
            methods = [m for m in p["methods"] if m not in DISTILLED and not self._trained_before(m, name, first)]
            if "teachers_run" in p:
                taus = p["temperatures_of"].get(name, p["temperatures"])
                methods = [m for m in p["methods"] for _ in p["weights"] for _ in taus]
            seeds = len([seed for seed in task.seeds if not first["seeds"] or seed in first["seeds"]])
            sizes = [(n, first["epochs"] or own) for n, own in task.sizes if not first["sizes"] or n in first["sizes"]]
            for size in sizes if methods else ():
                self._train_together(methods, size, task, seeds, encode, (first["precision"], p["device"]), cost)
            if fresh and sizes and set(methods) - {"text_only"}:
                waves = seeds * len(sizes) * self._head_bytes(methods, encode) / (p["memory_gib"] * 2**30 / 2)
                passes = task.fresh_passes(sizes, seeds, max(1, math.ceil(waves)))
                passes += 0 if clean else task.together(task.evaluation, seeds)
                cost.spend(passes, self._image(encode, 1, cost))
        cost.note = "crops encoded in every epoch" if fresh else ""

    def _trained_before(self, method: str, task: str, p: dict[str, Any]) -> bool:
        """Whether heads of this method are taken from the run that `heads_run` names."""
        before = self._parameters(p["heads_run"]) if p.get("heads_run") else {"methods": ()}
        same = method in before["methods"] and (method not in READS_TEXT or p["text_run"] == before["text_run"])
        return same and (not before["tasks"] or task in before["tasks"])

    def _head_bytes(self, methods: Sequence[str], encode: dict[str, Any]) -> int:
        """Memory of these heads in training, in float32 (as `heads.training.fit_heads` counts it)."""
        ((_, image), *_), text = self._store(encode), _text_width(encode)
        squares = {"text_only": text**2, "teacher": image**2 + text**2, **dict.fromkeys(PROBES, 0)}
        return 4 * 17 * sum(squares.get(method, image**2) for method in methods)

    def _train_together(self, methods, size, task: TaskCount, seeds: int, encode, how: tuple[str, str], cost: Cost):
        """The heads of one task and size: those of a seed share their minibatches."""
        (samples, epochs), (shape, _, fresh, _), text = size, self._store(encode), _text_width(encode)
        a_step = {"text_only": operations(self._report_tokens(encode), text), **dict.fromkeys(PROBES, 0.0)}
        image = operations(*shape)
        a_step["teacher"] = image + a_step["text_only"]
        spent = sum(a_step.get(method, image) for method in methods) * (samples + 0.5 * task.evaluation) * epochs
        heard = samples * min(epochs, epochs if fresh else max(1, encode["views"]))
        spent += sum(a_step.get(t, image) for t in {TEACHER_OF[m] for m in methods if m in DISTILLED}) * 0.5 * heard
        cost.spend(seeds * spent, self.rates.operation(len(methods), shape, *how))
        cost.heads += len(methods) * seeds
        logits = len(methods) * epochs * task.evaluation * task.classes * 4
        weights = sum(12 * (shape[1] ** 2 + (m == "teacher") * text**2) for m in methods if m in TEACHES)
        cost.gib += seeds * (logits + weights) / 2**30

    def assumptions(self) -> list[str]:
        """What the numbers stand on, and what is not in them."""
        machine, gpu = self.rates.encoders["machine"], f", and {self.rates.gpu}" if self.rates.gpu else ""
        said = [f"Rates: measured on {machine['cpu']}, {machine['threads']} threads{gpu}"]
        said += [f"Images of {name}: {p.images:,} to encode, by {p.source}" for name, p in self.prepared.items()]
        said.append(f"Every image has a report, of {REPORT_TOKENS} tokens (assumed) unless a run has read them.")
        said.append("Decoding and preprocessing are those of the benchmarks' radiographs of 2,000 x 2,500 pixels; "
                    "smaller films cost less.")  # fmt: skip
        without = sorted({cost.unknown for cost in self.costs if cost.unknown})
        if without:
            said.append(f"Not counted, because no rate was measured: passes of {', '.join(without)}.")
        return said

    def __str__(self) -> str:
        sums = {name: sum(getattr(c, name) for c in self.costs) for name in ("heads", "gpu_hours", "cpu_hours", "gib")}
        total = Cost(f"all {len(self.costs)} runs", **sums, unknown="".join(cost.unknown for cost in self.costs))
        gpu = bool(self.rates.gpu or total.gpu_hours)
        lines = [] if gpu else ["no GPU was measured; CPU-hours:"]
        hours = ("GPU-hours", "CPU-hours") if gpu else ("CPU-hours",)
        lines.append(f"{'run':56}{'heads':>7}" + "".join(f"{name:>12}" for name in hours) + f"{'GiB':>9}  what")
        return "\n".join([*lines, *(cost.row(gpu) for cost in [*self.costs, total]), "", *self.assumptions()])


def _text_width(encode: dict[str, Any]) -> int:
    return TEXT_ENCODERS[encode["text_encoder"]].width if encode["text_encoder"] else 0


def _encoded(encode: dict[str, Any]) -> dict[str, Any]:
    """What a finished run of 02-encode says of itself, or nothing."""
    file = paths.runs_dir() / f"reports/{encode['cohort']}/02-encode/{encode['run']}" / "encoding.json"
    return files.read_json(file) if file.exists() else {}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m workflow.budget", description=__doc__.splitlines()[0])
    parser.add_argument("profile", help="a folder of params/, such as paper or demo")
    parser.add_argument("--rates", default=RATES, help="folder of the three benchmark files")
    args = parser.parse_args(arguments)
    try:
        print(Budget(notebooks.plan(args.profile), Rates(args.rates)))
    except (DataError, FileNotFoundError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
