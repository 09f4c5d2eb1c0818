"""What a profile's runs of the reports study will cost, before any of them starts: heads, hours and disk.

`python -m workflow.budget paper [--rates FOLDER] [--report-tokens 128] [--json]`

Rates are those that `make bench` measured (`book/results/benchmark-{encoders,heads,tokens}.json`, or with --rates the
same three files of another machine). The model:

- images: those of the finished run of 01-prepare-tasks; where there is none, the paper's counts with Tables 3 to 7
- encoding: images x (views + 1) x (a pass of the encoder + preprocessing), and one decoding an image. Where the store
  would exceed `limit_gib`, crops are fresh: a decoding, preprocessing and pass for every training image of every epoch,
  and one for every evaluation image that is not kept clean, shared by all heads, seeds and sizes of a task whose heads
  fit half of `memory_gib` together (else by those of a wave)
- a head and training image: 4 N D^2 + 4 N^2 D operations, forward and back, for N tokens of D numbers; the teacher's
  report tokens likewise. Evaluating an image after an epoch, and hearing a teacher, is half of that. Linear probes cost
  nothing beside it. Operations per second: those of the measured shape nearest in operations, and of the largest
  measured number of heads that is not above that of the heads trained together
- disk: (views + 1) x images x N x D numbers, report tokens, logits of all epochs, weights of heads that teach

CPU-hours are hours of one core, GPU-hours those of the GPU that was measured. Not in it: steps 01, 05 and 06, and
reading from disks slower than the page cache.
"""

import argparse
import inspect
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pkd_utils.cohorts.tasks.build import INSPECT_TASKS, PAPER_COUNTS
from pkd_utils.cohorts.tasks.splits import training_sizes
from pkd_utils.distillation.heads.modules import DISTILLED, PROBES, TEACHES
from pkd_utils.encoders.image_facts import IMAGE_ENCODERS
from pkd_utils.encoders.text_facts import TEXT_ENCODERS
from pkd_utils.runs import files, notebooks, paths, run
from pkd_utils.runs.errors import DataError
from workflow.report_counts import TaskCount, pool_of
from workflow.report_rates import RATES, Rates, operations

REPORT_TOKENS = 128  # as long as the texts of benchmarks/encoders.py; MIMIC's reports were not measured
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
_TEACHER_OF = {"self_distilled": "image_only", "report_distilled": "teacher"}


@dataclass(frozen=True)
class Prepared:
    """What a run of 01-prepare-tasks gives, or will give, to the others; `images` are those to encode."""

    tasks: dict[str, TaskCount]
    images: int
    source: str


@dataclass
class Cost:
    """What one run costs; `unknown` says which rate was not measured."""

    name: str
    heads: int = 0
    image_steps: int = 0  # training images x epochs x heads
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    gib: float = 0.0
    note: str = ""
    unknown: str = ""

    def spend(self, times: float, seconds: tuple[float, float]) -> None:
        """Add `times` x (GPU, CPU) seconds."""
        self.gpu_hours += times * seconds[0] / 3600
        self.cpu_hours += times * seconds[1] / 3600


def count_tasks(reference: str, parameters: dict[str, Any]) -> Prepared:
    """Images of every task: of the finished run, or, for MIMIC-CXR and INSPECT, as the paper counts them.

    Without a run, images to encode are what the seeds' draws are expected to cover; MIMIC 5x1200 draws its images anew
    for every seed from all that qualify, so there it is the most that they can be. Images of two tasks count twice.

    Raises
    ------
    DataError
        If the run is not there and the paper counts no such tasks.
    """
    try:
        return _count_finished(run.find_run(reference))
    except FileNotFoundError:
        pass
    counted = set(parameters["tasks"]) <= set(PAPER_COUNTS) and parameters["source"] in ("mimic_cxr", "inspect")
    if parameters["simulate_patients"] or not counted:
        raise DataError(f"The images of {reference} are not known before it has run: run it first.")
    tasks, images = {}, 0.0
    for name in parameters["tasks"]:
        tasks[name] = task = _count_as_paper(name, parameters)
        images += task.together(task.evaluation + max(samples for samples, _ in task.sizes), len(task.seeds))
    return Prepared(tasks, round(images), "the paper's counts")


def _count_as_paper(name: str, parameters: dict[str, Any]) -> TaskCount:
    from pkd_utils.cohorts.tasks import age, mimic
    from pkd_utils.cohorts.tasks.inspect import outcome

    build = {"mimic_5x1200": mimic.five_findings, "discharge_3_day": mimic.discharge, "age": age.age}
    build = outcome if name in INSPECT_TASKS else build[name]
    options = {n: p.default for n, p in inspect.signature(build).parameters.items()}
    options |= parameters["task_options"].get(name, {})
    if "train_per_class" in options:
        pool, classes = None, len(options["findings"])
        train, evaluation = classes * options["train_per_class"], classes * options["evaluate_per_class"]
    else:
        pool, classes = options.get("at_most", PAPER_COUNTS[name]), options.get("bins", 2)
        evaluation = round(pool * options["evaluate"])
        train = pool - evaluation
    chosen = parameters["sizes"].get(name, parameters["sizes"].get("*", []))
    if chosen:
        sizes = [(int(size * train) if size <= 1 else int(size), parameters["epochs"]) for size in chosen]
    else:
        sizes = training_sizes(name)[["samples", "epochs"]].itertuples(index=False, name=None)
    sizes = tuple((int(samples), int(epochs)) for samples, epochs in sizes)
    return TaskCount(classes, tuple(parameters["seeds"]), evaluation, sizes, pool)


def _count_finished(folder: Path) -> Prepared:
    splits = pd.read_parquet(folder / "splits.parquet", columns=["task", "seed", "part", "image_id"])
    sizes, facts = pd.read_csv(folder / "sizes.csv"), files.read_json(folder / "tasks.json")
    tasks = {}
    for name, rows in splits.groupby("task", sort=False):
        seeds = tuple(int(seed) for seed in rows["seed"].unique())
        mine = sizes[sizes["task"] == name]
        pairs = tuple((int(row.samples), int(row.epochs)) for row in mine.itertuples())
        evaluation = round((rows["part"] == "evaluate").sum() / len(seeds))
        pool = pool_of(rows["image_id"].nunique(), len(rows) / len(seeds), len(seeds))
        tasks[name] = TaskCount(len(facts[name]["classes"]), seeds, evaluation, pairs, pool)
    return Prepared(tasks, len(pd.read_parquet(folder / "images.parquet", columns=["image_id"])), "a finished run")


class Budget:
    """Costs of all runs of the reports study in a profile.

    Parameters
    ----------
    jobs : list of notebooks.Job
        A profile's plan; other studies' runs are left out.
    rates : Rates
    report_tokens : tokens of a mean report
    """

    def __init__(self, jobs: Sequence[notebooks.Job], rates: Rates, report_tokens: float = REPORT_TOKENS):
        self.rates, self.report_tokens = rates, report_tokens
        self.jobs = [job for job in jobs if job.notebook.startswith("reports/")]
        self.known = {_reference(job): job.parameters for job in jobs}
        self.prepared: dict[str, Prepared] = {}
        self.costs = [self._cost(job) for job in self.jobs]

    def _parameters(self, reference: str) -> dict[str, Any]:
        """Parameters of a run that is planned, or was finished before."""
        if reference not in self.known:
            self.known[reference] = files.read_json(run.find_run(reference) / "run.json")["parameters"]
        return self.known[reference]

    def _tasks(self, reference: str) -> Prepared:
        if reference not in self.prepared:
            self.prepared[reference] = count_tasks(reference, self._parameters(reference))
        return self.prepared[reference]

    def _cost(self, job: notebooks.Job) -> Cost:
        cost = Cost(job.name.removeprefix("reports/"))
        step = job.notebook.split("/")[1]
        if step == "02-encode":
            self._encode(job, cost)
        elif step in ("03-train-teachers", "04-distil-students"):
            self._train(job, cost)
        return cost

    def _store(self, encode: dict[str, Any]) -> tuple[tuple[int, int], int, bool, bool]:
        """(N, D), bytes of one view of all images, whether crops are fresh, whether clean views are kept."""
        facts = IMAGE_ENCODERS[encode["image_encoder"]]
        feature = facts.features[encode["feature"] or next(iter(facts.features))]
        steps = facts.preprocessing[encode["preprocessing"] or next(iter(facts.preprocessing))]
        side = encode["input_size"] or steps.crop
        count = feature.grid[0] * side // steps.crop * (feature.grid[1] * side // steps.crop)
        kept = (count + facts.class_token) * feature.width * _BYTES[encode["storage"]]
        one_view = self._tasks(encode["tasks_run"]).images * kept
        limit = encode["limit_gib"] * 2**30 or math.inf
        fresh = one_view * (encode["views"] + 1) > limit
        return (count, feature.width), one_view, fresh, not fresh or one_view <= limit

    def _image(self, encode: dict[str, Any], views: int, cost: Cost) -> tuple[float, float]:
        """Decoding one image, and preprocessing and encoding some views of it."""
        name = encode["image_encoder"]
        seen = self.rates.view(name, encode["precision"], encode["device"])
        if seen is None:  # a finished run of its own tells how long all of that took
            rate = _encoded(encode).get("rates", {}).get("views/s")
            cost.unknown = "" if rate else f"image encoder {name}"
            return 0.0, views / rate if rate else 0.0
        (tokens, _), *_ = self._store(encode)
        (usual, _), *_ = self._store({**encode, "input_size": 0})
        parts = zip(seen, self.rates.preparation(name), self.rates.decoding(), strict=True)
        return tuple(views * (a * tokens / usual + b) + c for a, b, c in parts)

    def _tokens_a_report(self, encode: dict[str, Any]) -> float:
        """Mean tokens of a report where a run has read them, else what was assumed."""
        read = self._parameters(encode["text_run"]) if encode["text_run"] else encode
        kept = [row["tokens"] for row in _encoded(read).get("kept", []) if row["what"] == "reports"]
        return kept[0] if kept else self.report_tokens

    def _encode(self, job: notebooks.Job, cost: Cost) -> None:
        p = job.parameters
        images = self._tasks(p["tasks_run"]).images
        if p["image_encoder"]:
            _, one_view, fresh, clean = self._store(p)
            views = clean * (1 if fresh else p["views"] + 1)
            gib = (p["views"] + 1) * one_view / 2**30
            how = f"fresh crops ({p['views'] + 1} views would take {gib:,.0f} GiB)" if fresh else f"{views} views"
            cost.note = f"{images:,} images, {how}"
            cost.spend(images if views else 0, self._image(p, views, cost))
            cost.gib += views * one_view / 2**30
        if p["text_encoder"] and not p["text_run"]:
            tokens = self._tokens_a_report(p)
            read = self.rates.report(p["text_encoder"], p["precision"], tokens)
            cost.unknown = cost.unknown if read else f"text encoder {p['text_encoder']}"
            cost.spend(images, read or (0.0, 0.0))
            cost.gib += images * tokens * TEXT_ENCODERS[p["text_encoder"]].width * 2 / 2**30
            cost.note += (", " if cost.note else f"{images:,} images, ") + "reports"

    def _train(self, job: notebooks.Job, cost: Cost) -> None:
        p = job.parameters
        first = self._parameters(p["teachers_run"]) if "teachers_run" in p else p
        encode = self._parameters(first["encode_run"])
        if first.get("text_run"):  # reports as another text encoder reads them
            other = self._parameters(first["text_run"])
            encode = {**encode, "text_encoder": other["text_encoder"], "text_run": first["text_run"]}
        prepared, (shape, _, fresh, clean) = self._tasks(encode["tasks_run"]), self._store(encode)
        how = first["precision"], p["device"]
        for name in first["tasks"] or prepared.tasks:
            task = prepared.tasks[name]
            methods = [m for m in p["methods"] if m not in DISTILLED]
            if "teachers_run" in p:
                taus = p["temperatures_of"].get(name, p["temperatures"])
                methods = [m for m in p["methods"] for _ in p["weights"] for _ in taus]
            seeds = len([seed for seed in task.seeds if not first["seeds"] or seed in first["seeds"]])
            sizes = [(n, first["epochs"] or own) for n, own in task.sizes if not first["sizes"] or n in first["sizes"]]
            for samples, epochs in sizes:
                work = _Work(samples, epochs, task, seeds)
                self._train_together(methods, work, encode, (shape, fresh), how, cost)
            if fresh and sizes and set(methods) - {"text_only"}:
                waves = seeds * len(sizes) * self._head_bytes(methods, encode) / (p["memory_gib"] * 2**30 / 2)
                passes = task.fresh_passes(sizes, seeds, max(1, math.ceil(waves)))
                passes += 0 if clean else task.together(task.evaluation, seeds)
                cost.spend(passes, self._image(encode, 1, cost))
        cost.note = "crops encoded in every epoch" if fresh else ""

    def _head_bytes(self, methods: Sequence[str], encode: dict[str, Any]) -> int:
        """Memory of these heads in training, in float32 (as `heads.training.fit_heads` counts it)."""
        (_, image), *_ = self._store(encode)
        text = TEXT_ENCODERS[encode["text_encoder"]].width if encode["text_encoder"] else 0
        squares = {"text_only": text**2, "teacher": image**2 + text**2, **dict.fromkeys(PROBES, 0)}
        return 4 * 17 * sum(squares.get(method, image**2) for method in methods)

    def _train_together(self, methods, work: "_Work", encode, store, how: tuple[str, str], cost: Cost) -> None:
        """The heads of one task and size: those of a seed share their minibatches."""
        (shape, fresh), (precision, device) = store, how
        width = TEXT_ENCODERS[encode["text_encoder"]].width if encode["text_encoder"] else 0
        a_step = {"text_only": operations(self._tokens_a_report(encode), width), **dict.fromkeys(PROBES, 0.0)}
        image = operations(*shape)
        a_step["teacher"] = image + a_step["text_only"]
        per_operation = self.rates.operation(len(methods), shape, precision, device)
        seen = work.samples * work.epochs + 0.5 * work.task.evaluation * work.epochs
        spent = sum(a_step.get(method, image) for method in methods) * seen
        heard = work.samples * min(work.epochs, work.epochs if fresh else max(1, encode["views"]))
        spent += sum(a_step.get(t, image) for t in {_TEACHER_OF[m] for m in methods if m in DISTILLED}) * 0.5 * heard
        cost.spend(work.seeds * spent, per_operation)
        cost.heads += len(methods) * work.seeds
        cost.image_steps += len(methods) * work.seeds * work.samples * work.epochs
        logits = len(methods) * work.epochs * work.task.evaluation * work.task.classes * 4
        weights = sum(12 * (shape[1] ** 2 + (m == "teacher") * width**2) for m in methods if m in TEACHES)
        cost.gib += work.seeds * (logits + weights) / 2**30

    def totals(self) -> dict[str, Any]:
        """Sums over all runs."""
        names = ("heads", "image_steps", "gpu_hours", "cpu_hours", "gib")
        return {"runs": len(self.costs), **{name: sum(getattr(cost, name) for cost in self.costs) for name in names}}

    def assumptions(self) -> list[str]:
        """What the numbers stand on, and what is not in them."""
        cpu, threads = self.rates.encoders["machine"]["cpu"], self.rates.encoders["machine"]["threads"]
        said = [f"Rates: measured on {cpu}, {threads} threads" + (f", and {self.rates.gpu}" if self.rates.gpu else "")]
        said += [f"Images of {name}: {p.images:,} to encode, by {p.source}" for name, p in self.prepared.items()]
        said.append(f"Every image has a report, of {self.report_tokens:g} tokens (assumed) unless a run has read them.")
        size = "2,000 x 2,500 pixels; smaller films cost less"
        said.append(f"Decoding and preprocessing are those of the benchmarks' radiographs of {size}.")
        if any("mimic_5x1200" in p.tasks and p.source.startswith("the paper") for p in self.prepared.values()):
            said.append("MIMIC 5x1200 draws its images anew for every seed, here counted as all different: at most.")
        without = sorted({cost.unknown for cost in self.costs if cost.unknown})
        if without:
            said.append(f"Not counted, because no rate was measured: passes of {', '.join(without)}.")
        return said

    def __str__(self) -> str:
        gpu, total = self.rates.gpu or self.totals()["gpu_hours"], self.totals()
        lines = [] if gpu else ["no GPU was measured; CPU-hours:"]
        hours = ("GPU-hours", "CPU-hours") if gpu else ("CPU-hours",)
        lines.append(f"{'run':56}{'heads':>7}" + "".join(f"{name:>12}" for name in hours) + f"{'GiB':>9}  what")
        rows = [*self.costs, Cost(f"all {total.pop('runs')} runs", **total)]
        rows[-1].unknown = "".join(cost.unknown for cost in self.costs)
        for cost in rows:
            values = (cost.gpu_hours, cost.cpu_hours) if gpu else (cost.cpu_hours,)
            mark = "+?" if cost.unknown else "  "  # more than that: a rate is missing
            numbers = "".join(f"{value:>10,.2f}{mark}" for value in values)
            lines.append(f"{cost.name:56}{cost.heads or '':>7}{numbers}{cost.gib:>9,.1f}  {cost.note}".rstrip())
        return "\n".join([*lines, "", *self.assumptions()])

    def record(self) -> dict[str, Any]:
        """Everything as plain values."""
        rows = [asdict(cost) for cost in self.costs]
        return {"totals": self.totals(), "gpu": self.rates.gpu, "runs": rows, "assumptions": self.assumptions()}


@dataclass(frozen=True)
class _Work:
    samples: int
    epochs: int
    task: TaskCount
    seeds: int


def _reference(job: notebooks.Job) -> str:
    study, step = job.notebook.split("/")
    return f"{study}/{job.parameters['cohort']}/{step}/{job.parameters['run']}"


def _encoded(encode: dict[str, Any]) -> dict[str, Any]:
    """What a finished run of 02-encode says of itself (which is one thread's work), or nothing."""
    file = paths.runs_dir() / f"reports/{encode['cohort']}/02-encode/{encode['run']}" / "encoding.json"
    return files.read_json(file) if file.exists() else {}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m workflow.budget", description=__doc__.splitlines()[0])
    parser.add_argument("profile", help="a folder of params/, such as paper or demo")
    parser.add_argument("--rates", default=RATES, help="folder of the three benchmark files")
    parser.add_argument("--report-tokens", type=float, default=REPORT_TOKENS, help="tokens of a mean report")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(arguments)
    try:
        budget = Budget(notebooks.plan(args.profile), Rates(args.rates), args.report_tokens)
    except (DataError, FileNotFoundError) as error:
        sys.exit(str(error))
    if args.json:
        import json

        print(json.dumps(budget.record(), indent=1))
    else:
        print(budget)


if __name__ == "__main__":
    main()
