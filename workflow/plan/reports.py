"""The model of the reports study.

- images: those of the finished run of 01-prepare-tasks; where there is none, the paper's counts with Tables 3 to 7
- 00: every volume of INSPECT's release, at most in proportion to the detector's pixels
- 01: MIMIC-CXR's tables joined and its reports read; building tasks of other sources was not measured
- encoding: images x (views + 1) x (a pass of the encoder + preprocessing), and one decoding an image; both by the
  pixels of the images, where a finished run names them. Where crops are
  fresh: a decoding, preprocessing and pass for every training image of every epoch, and one for every evaluation image
  that is not kept clean, shared by all heads, seeds and sizes of a task whose heads fit half of `memory_gib` together
  (else by those of a wave)
- a head and training image: 4 N D^2 + 4 N^2 D operations, forward and back, for N tokens of D numbers; the teacher's
  report tokens likewise. Evaluating an image after an epoch, and hearing a teacher, is half of that. Linear probes cost
  nothing beside it. Operations per second: those of the measured shape nearest in operations, between the measured
  numbers of heads trained together
- disk: (views + 1) x images x N x D numbers, report tokens, logits of all epochs, weights of heads that teach
- memory: a kernel, the networks' weights in float32, heads up to `memory_gib`; tokens are mapped, and not in it

05, 06 and 07, which make tables and figures of finished runs, were not measured.
"""

import math
from collections.abc import Sequence
from typing import Any

from pkd_utils.cohorts import mimic_cxr
from pkd_utils.cohorts.inspect.studies import RELEASED
from pkd_utils.distillation.heads.modules import DISTILLED, PROBES, READS_TEXT, TEACHES
from pkd_utils.encoders.zoo import IMAGE_ENCODERS, TEXT_ENCODERS
from pkd_utils.runs import files, paths
from pkd_utils.studies.reports.heads import TEACHER_OF
from workflow.plan.costs import KERNEL_GIB, Cost, Runs
from workflow.plan.rates import Rates, Seconds, operations
from workflow.plan.tasks import NotKnown, Prepared, TaskCount, count_tasks

REPORT_TOKENS = 128  # as long as the texts of benchmarks/encoders.py; MIMIC's reports were not measured
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


class Reports:
    """Costs of runs of the reports study."""

    def __init__(self, runs: Runs, rates: Rates):
        self.rates = rates
        self.runs = runs
        self.prepared: dict[str, Prepared] = {}
        self.models = {
            "reports/00-reconstruct-radiographs": self._reconstruct,
            "reports/01-prepare-tasks": self._prepare,
            "reports/02-encode": self._encode,
            "reports/03-train-teachers": self._train,
            "reports/04-distil-students": self._train,
        }

    def _reconstruct(self, p: dict[str, Any], cost: Cost) -> None:
        if p["cohort"] != "inspect" or p["simulate_patients"]:
            raise NotKnown("volumes are counted when they are read")
        volumes, pixels = RELEASED["volumes"], math.prod(p["detector_pixels"])
        cost.spend(volumes, (0.0, self.rates.projection(pixels)))
        cost.gib, cost.memory_gib = None, None
        cost.note = f"{volumes:,} volumes"

    def _tasks(self, reference: str) -> Prepared:
        if reference not in self.prepared:
            self.prepared[reference] = count_tasks(reference, self.runs[reference])
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
            cost.unknown |= set() if rate else {f"passes of image encoder {name}"}
            return 0.0, views / rate if rate else 0.0
        (tokens, _), *_ = self._store(encode)
        (usual, _), *_ = self._store({**encode, "input_size": 0})
        gpu, cpu = (views * seconds * tokens / usual for seconds in seen)
        pixels = self._tasks(encode["tasks_run"]).pixels
        return gpu, cpu + views * self.rates.preparation(name, pixels) + self.rates.decoding(pixels)

    def _report_tokens(self, encode: dict[str, Any]) -> float:
        """Mean tokens of a report where a run has read them, else what was assumed."""
        read = self.runs[encode["text_run"]] if encode["text_run"] else encode
        kept = [row["tokens"] for row in _encoded(read).get("kept", []) if row["what"] == "reports"]
        return kept[0] if kept else REPORT_TOKENS

    def _prepare(self, p: dict[str, Any], cost: Cost) -> None:
        if p["source"] != "mimic_cxr" or p["simulate_patients"]:
            raise NotKnown(f"building tasks of {p['source']}")
        images = mimic_cxr.RELEASED["all"]
        cost.spend(images, (0.0, self.rates.indexed()))
        cost.gib, cost.memory_gib = None, KERNEL_GIB + images * self.rates.indexed_gib()
        cost.note = f"{images:,} images indexed"

    def _encode(self, p: dict[str, Any], cost: Cost) -> None:
        images, notes = self._tasks(p["tasks_run"]).images, []
        read_here = [p["image_encoder"], "" if p["text_run"] else p["text_encoder"]]
        networks = [(IMAGE_ENCODERS | TEXT_ENCODERS)[name].parameters for name in read_here if name]
        cost.memory_gib = KERNEL_GIB + sum(networks) * 4 / 2**30
        if p["image_encoder"]:
            _, one_view, fresh, clean = self._store(p)
            views = clean * (1 if fresh else p["views"] + 1)
            notes = ["fresh crops" if fresh else f"{views} views"]
            cost.spend(images if views else 0, self._image(p, views, cost))
            cost.gib += views * one_view / 2**30
        if p["text_encoder"] and not p["text_run"]:
            tokens = self._report_tokens(p)
            read = self.rates.report_token(p["text_encoder"], p["precision"])
            cost.unknown |= set() if read else {f"passes of text encoder {p['text_encoder']}"}
            cost.spend(images * tokens, read or (0.0, 0.0))
            cost.gib += images * tokens * TEXT_ENCODERS[p["text_encoder"]].width * 2 / 2**30
            notes.append("reports")
        cost.note = ", ".join([f"{images:,} images", *notes] if notes else [])

    def _train(self, p: dict[str, Any], cost: Cost) -> None:
        first = self.runs[p["teachers_run"]] if "teachers_run" in p else p
        encode = self.runs[first["encode_run"]]
        if first.get("text_run"):  # reports as another text encoder reads them
            other = self.runs[first["text_run"]]
            encode = {**encode, "text_encoder": other["text_encoder"], "text_run": first["text_run"]}
        prepared, (_, _, fresh, clean) = self._tasks(encode["tasks_run"]), self._store(encode)
        together = 0.0  # bytes of heads in training
        for name in first["tasks"] or prepared.tasks:
            task = prepared.tasks[name]
            methods = [m for m in p["methods"] if m not in DISTILLED and not self._trained_before(m, name, first)]
            if "teachers_run" in p:
                taus = p["temperatures_of"].get(name, p["temperatures"])
                methods = [m for m in p["methods"] for _ in p["weights"] for _ in taus]
            seeds = len([seed for seed in task.seeds if not first["seeds"] or seed in first["seeds"]])
            sizes = [(n, first["epochs"] or own) for n, own in task.sizes if not first["sizes"] or n in first["sizes"]]
            together = max(together, seeds * len(sizes) * self._head_bytes(methods, encode))
            for size in sizes if methods else ():
                self._train_together(methods, size, task, seeds, encode, (first["precision"], p["device"]), cost)
            if fresh and sizes and set(methods) - {"text_only"}:
                waves = seeds * len(sizes) * self._head_bytes(methods, encode) / (p["memory_gib"] * 2**30 / 2)
                passes = task.fresh_passes(sizes, seeds, max(1, math.ceil(waves)))
                passes += 0 if clean else task.together(task.evaluation, seeds)
                cost.spend(passes, self._image(encode, 1, cost))
        encoder = IMAGE_ENCODERS[encode["image_encoder"]].parameters * 4 / 2**30 if fresh else 0.0
        cost.memory_gib = KERNEL_GIB + encoder + min(p["memory_gib"], together / 2**30)
        cost.note = "crops encoded in every epoch" if fresh else ""

    def _trained_before(self, method: str, task: str, p: dict[str, Any]) -> bool:
        """Whether heads of this method are taken from the run that `heads_run` names."""
        before = self.runs[p["heads_run"]] if p.get("heads_run") else {"methods": ()}
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
        together = sum(method not in PROBES for method in methods)
        cost.spend(seeds * spent, self.rates.operation(max(1, together), shape, *how))
        cost.heads += len(methods) * seeds
        logits = len(methods) * epochs * task.evaluation * task.classes * 4
        weights = sum(12 * (shape[1] ** 2 + (m == "teacher") * text**2) for m in methods if m in TEACHES)
        cost.gib += seeds * (logits + weights) / 2**30


def _text_width(encode: dict[str, Any]) -> int:
    return TEXT_ENCODERS[encode["text_encoder"]].width if encode["text_encoder"] else 0


def _encoded(encode: dict[str, Any]) -> dict[str, Any]:
    """What a finished run of 02-encode says of itself, or nothing."""
    file = paths.runs_dir() / f"reports/{encode['cohort']}/02-encode/{encode['run']}" / "encoding.json"
    return files.read_json(file) if file.exists() else {}
