"""What a plan costs: arithmetic on rates made by hand, records of finished runs, and every planned run counted."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from pkd_utils.encoders.zoo import IMAGE_ENCODERS
from pkd_utils.runs import notebooks, paths
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import hash_params, write, write_json
from pkd_utils.runs.parameters import identifying, resolve
from pkd_utils.runs.profiles import read_runs
from workflow.plan.__main__ import Plan, main
from workflow.plan.maps import pictures
from workflow.plan.rates import FILES, MEASURED_STUDENTS, Rates, operations
from workflow.plan.reports import REPORT_TOKENS
from workflow.plan.tasks import TaskCount, count_tasks

TASKS = "reports/mimic_cxr/01-prepare-tasks/tiny"
ENCODE = "reports/mimic_cxr/02-encode/c2l"
TEACHERS = "reports/mimic_cxr/03-train-teachers/c2l"
IMAGES = 360  # 1,000 images, 200 of them a seed, two seeds: 1,000 x (1 - 0.8 x 0.8)
DECODE = 1 / 8 - 1 / 16 - 3 * 0.005
STEP = operations(49, 512)


def write_rates(folder: Path, gpu=False, only=None) -> Path:
    """Benchmark files with round numbers: ten views a second on two threads, 5 ms of preprocessing."""
    names = only or [name for name in IMAGE_ENCODERS if not name.startswith("simulated")]
    rows = [{"encoder": n, "precision": p, "images_per_s": r} for n in names for p, r in (("fp32", 10), ("bf16", 20))]
    encoders = {
        "machine": {"cpu": "a CPU", "threads": 2},
        "rows": rows,
        "text_rows": [{"encoder": n, "precision": "fp32", "tokens_per_s": 1000} for n in ("minilm", "biovil_t_bert")],
        "preprocessing": [{"encoder": name, "ms_per_image": 5.0} for name in names],
        "gpu": [{"encoder": name, "images_per_s": 1000} for name in names] if gpu else [],
    }
    if gpu:
        encoders["machine"]["gpu"] = "a GPU"
    times = {f"{n} heads, {kind}": [s, 9.0] for n, s in ((1, 1.0), (4, 2.0)) for kind in ("fp32", "bf16")}
    heads = {
        "settings": {"heads": [1, 4], "batch": 64, "threads": 2, "device": "cuda" if gpu else "cpu"},
        "seconds": {"49x512": times, "196x768": {name: [100.0] for name in times}},
    }
    what = {"what": "encoding against bare encoder, inputs ready", "ours": "one thread for all"}
    tokens = {
        "settings": {"views": 2},
        "rows": [{**what, "ours_images_per_s": 8, "reference_images_per_s": 16}],
    }
    machine = {"cpu": "a CPU, 2 cores", "threads": 2}
    others = {
        "training": {"machine": {**machine, "best_precision": "bf16"},
                     "settings": {"size": 64, "patch": 8, "width": 64, "depth": 4, "threads": 1},
                     "rows": [{"ours": f"ours, {kind}", "ours_images_per_s": rate}
                              for kind, rate in (("fp32", 50), ("bf16", 100))]},
        "saliency": {"rows": [{"student": student, "what": what, "images_per_s": rate / share}
                              for student, rate in (("demo student, 64 px", 200), ("ViT-Tiny/16, 224 px", 10))
                              for what, share in (("forward", 1), ("attention, mean", 1), ("all methods", 4))]},
        "localization-suite": {"settings": {"size": 64}, "rows": [{"ours_s_per_1000_images": 2.0}]},
        "notebooks": {"rows": [{"cpu_seconds": 0.0}] * 4},
        "demonstration": {"rows": []},
        "packing": {"rows": [{"ours": "ours, 1 process", "ours_images_per_s_a_core": 50}]},
        "text-teacher": {"rows": [{"what": what, "ms_per_report": ms} for what, ms in (
            ("a pass: all blocks, bucketed by length", 10.0), ("a pass: last block, kept states, mean of tokens", 1.0),
            ("a pass: last block, kept states, first token", 0.1), ("once: tokenizing", 0.5),
            ("once: tokenizing and keeping states, all but the last block", 5.0))]},
        "drr": {"rows": [{"what": "ours, 1 process, plastimatch with 2 threads", "cpu_seconds_a_volume": 1.5}]},
        "mimic-size": {"settings": {"images": 1000}, "rows": [
            {"what": "tables joined", "ours_seconds": 3.0, "peak_gib": 0.1},
            {"what": "every report", "ours_seconds": 7.0, "peak_gib": 0.2}]},
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    for name, content in {"encoders": encoders, "heads": heads, "tokens": tokens, **others}.items():
        (folder / f"benchmark-{name}.json").write_text(json.dumps({"machine": machine, **content}))
    return folder


def job(notebook: str, study: str = "reports", **values) -> notebooks.Described:
    parameters = resolve(f"{study}/{notebook}", {}) | {"cohort": "mimic_cxr"} | values
    name = f"{study}/{notebook}.{parameters['run']}"
    return notebooks.Described(name, Path(study) / f"{notebook}.yml", "", parameters)


def plan_of(jobs: list[notebooks.Described], rates: Rates, records: bool = True) -> Plan:
    """The plan of these runs, by reference."""
    named = {}
    for one in jobs:
        study, step = one.notebook.split("/")
        named[f"{study}/{one.parameters['cohort']}/{step}/{one.parameters['run']}"] = one
    return Plan(named, rates, records)


def costs_of(jobs: list[notebooks.Described], rates: Rates) -> list:
    return list(plan_of(jobs, rates).costs.values())


def tiny_plan(device="cpu", encode=None, teachers=None, students=None) -> list[notebooks.Described]:
    """1,000 images of one task: 100 evaluated, 100 trained on for 10 epochs, by two seeds."""
    prepared = job("01-prepare-tasks", run="tiny", simulate_patients=0, tasks=["age"], seeds=[0, 1], epochs=10,
                   task_options={"age": {"at_most": 1000}}, sizes={"*": [100]})  # fmt: skip
    settings = {"image_encoder": "c2l", "precision": "fp32", "views": 1, "text_encoder": "", **(encode or {})}
    return [
        prepared,
        job("02-encode", run="c2l", tasks_run=TASKS, device=device, **settings),
        job("03-train-teachers", run="c2l", encode_run=ENCODE, device=device,
            **{"methods": ["image_only"], **(teachers or {})}),
        job("04-distil-students", run="c2l", teachers_run=TEACHERS, device=device,
            **{"methods": ["self_distilled"], "temperatures": [0.1, 0.25, 1.0, 2.5], **(students or {})}),
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def no_runs_and_quick_plans(tmp_path, monkeypatch):
    monkeypatch.setenv("PKD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(notebooks.identity, "code_hash", lambda notebook: "0")  # most of a plan's time; not asked for


@pytest.fixture
def rates(tmp_path):
    return Rates(write_rates(tmp_path / "rates"))


def test_images_are_those_that_the_draws_of_the_seeds_cover(rates):
    prepared = plan_of(tiny_plan(), rates).studies[0].prepared[TASKS]
    assert prepared.images == IMAGES
    age = prepared.tasks["age"]
    assert (age.classes, age.evaluation, age.sizes, age.seeds) == (5, 100, ((100, 10),), (0, 1))


def test_encoding_counts_views_passes_preprocessing_and_decoding(rates):
    cost = costs_of(tiny_plan(), rates)[1]
    assert cost.cpu_hours * 3600 == pytest.approx(IMAGES * (2 * (2 / 10 + 0.005) + DECODE))
    assert cost.gib * 2**30 == pytest.approx(IMAGES * 2 * 49 * 512 * 2)
    assert cost.gpu_hours == 0 and not cost.unknown


def test_a_smaller_input_is_scaled_by_its_tokens(rates):
    cost = costs_of(tiny_plan(encode={"input_size": 64}), rates)[1]  # 2 x 2 tokens of 7 x 7
    assert cost.cpu_hours * 3600 == pytest.approx(IMAGES * (2 * (4 / 49 * 2 / 10 + 0.005) + DECODE))
    assert cost.gib * 2**30 == pytest.approx(IMAGES * 2 * 4 * 512 * 2)


def test_one_head_costs_training_and_half_for_evaluation(rates):
    cost = costs_of(tiny_plan(), rates)[2]
    assert cost.heads == 2
    assert cost.cpu_hours * 3600 == pytest.approx(1.5 * 2 * 100 * 10 * 1.0 / 64 * 2)  # the best time, on two threads
    assert cost.gib * 2**30 == pytest.approx(2 * (10 * 100 * 5 * 4 + 12 * 512**2))


def test_students_are_trained_together_and_hear_each_teacher_once_a_view(rates):
    cost = costs_of(tiny_plan(), rates)[3]
    a_seed = 4 * 1.5 * 100 * 10 + 0.5 * 100 * 1
    assert cost.heads == 8
    assert cost.cpu_hours * 3600 == pytest.approx(2 * a_seed * 2.0 / (4 * 64) * 2)
    assert cost.gib * 2**30 == pytest.approx(2 * 4 * 10 * 100 * 5 * 4)  # the teachers' weights are linked, not copied


def test_the_teacher_reads_report_tokens_and_probes_cost_nothing(rates):
    plan = tiny_plan(encode={"text_encoder": "biovil_t_bert"}, teachers={"methods": ["teacher", "mean_probe"]})
    costs = costs_of(plan, rates)
    a_step = (STEP + operations(REPORT_TOKENS, 768)) / STEP
    assert costs[2].cpu_hours * 3600 == pytest.approx(2 * a_step * 1.5 * 1000 / 64 * 2)
    images = IMAGES * (2 * (2 / 10 + 0.005) + DECODE)
    assert costs[1].cpu_hours * 3600 == pytest.approx(images + IMAGES * REPORT_TOKENS * 2 / 1000)


def test_reports_that_a_run_has_read_have_the_length_that_it_found(rates, tmp_path):
    folder = tmp_path / "runs" / "reports" / "mimic_cxr" / "02-encode" / "reader"
    write_json(folder / "encoding.json", {"rates": {}, "kept": [{"what": "reports", "tokens": 50.0}]})
    reader = job("02-encode", run="reader", tasks_run=TASKS, image_encoder="", precision="fp32")
    plan = tiny_plan(encode={"text_encoder": "minilm", "text_run": "reports/mimic_cxr/02-encode/reader"},
                     teachers={"methods": ["text_only"]})  # fmt: skip
    costs = costs_of([plan[0], reader, *plan[1:]], rates)
    assert costs[1].cpu_hours * 3600 == pytest.approx(IMAGES * 50 * 2 / 1000)
    assert costs[1].gib * 2**30 == pytest.approx(IMAGES * 50 * 384 * 2)
    text = operations(50, 384) / STEP
    assert costs[3].cpu_hours * 3600 == pytest.approx(text * 1.5 * 2000 / 64 * 2)


def test_operations_are_scaled_to_other_shapes(rates):
    one = rates.operation(1, (49, 512), "fp32", "cpu")[1]
    assert rates.operation(1, (64, 480), "fp32", "cpu")[1] == one == pytest.approx(2 / 64 / STEP)
    assert rates.operation(1, (361, 1024), "fp32", "cpu")[1] > one  # nearer to 196 x 768
    for heads, seconds in ((3, 1 + 2 / 3), (4, 2.0), (8, 4.0)):  # one takes a second, four take two, more in proportion
        many = heads * rates.operation(heads, (49, 512), "bf16", "cpu")[1]
        assert many == pytest.approx(seconds * one)
    assert operations(2, 3) == 4 * 2 * 9 + 4 * 4 * 3


CROPS = ("kept", "fresh")


def test_fresh_crops_are_encoded_in_every_epoch_once_for_all_seeds(rates):
    stored, fresh = (costs_of(tiny_plan(encode={"crops": kind, "limit_gib": 0.02}), rates) for kind in CROPS)
    a_pass = 2 / 10 + 0.005 + DECODE
    together = 1000 * (1 - 0.9 * 0.9)  # images of two seeds that draw 100 of 1,000
    for step in (2, 3):
        more = together * 10 * a_pass
        if step == 3:  # and the teacher is heard at every step, not once a view
            more += 2 * 0.5 * 100 * 9 * 2.0 / (4 * 64) * 2
        assert (fresh[step].cpu_hours - stored[step].cpu_hours) * 3600 == pytest.approx(more)
    assert fresh[1].gib == pytest.approx(stored[1].gib / 2)  # the clean view is kept
    nothing = costs_of(tiny_plan(encode={"crops": "fresh", "limit_gib": 0.001}), rates)
    assert nothing[1].gib == 0 and nothing[1].cpu_hours == 0
    clean = (nothing[2].cpu_hours - fresh[2].cpu_hours) * 3600
    assert clean == pytest.approx(together * a_pass)  # evaluation images, once


@pytest.mark.parametrize("methods", [["image_only", "cls_probe", "mean_probe"], ["image_only", "image_only"]])
def test_methods_share_the_passes_and_small_memory_costs_more(rates, methods):
    def more(memory_gib):
        teachers = {"methods": methods, "memory_gib": memory_gib}
        costs = [costs_of(tiny_plan(encode={"crops": kind}, teachers=teachers), rates)[2] for kind in CROPS]
        return (costs[1].cpu_hours - costs[0].cpu_hours) * 3600

    a_pass = 2 / 10 + 0.005 + DECODE
    a_head = 4 * 17 * 512**2 / 2**30  # in GiB
    heads = methods.count("image_only")  # probes weigh nothing
    assert more(2.0) == pytest.approx(190 * 10 * a_pass)
    assert more(2 * 2 * heads * a_head) == pytest.approx(190 * 10 * a_pass)  # two seeds just fit half of it
    assert more(2 * 1.5 * heads * a_head) == pytest.approx(2 * 100 * 10 * a_pass)  # a wave for each seed


def test_reports_alone_need_no_passes(rates):
    encode = {"text_encoder": "minilm"}
    stored, fresh = (
        costs_of(tiny_plan(encode={**encode, "crops": kind}, teachers={"methods": ["text_only"]}), rates)[2]
        for kind in CROPS
    )
    assert stored.cpu_hours == fresh.cpu_hours


@pytest.mark.parametrize(
    ("changes", "trained"),
    [({}, 1), ({"text_run": "reports/mimic_cxr/02-encode/other"}, 2), ({"tasks": ["age"]}, 1), ({"heads_run": ""}, 3)],
)
def test_heads_that_are_taken_from_another_run_cost_nothing(rates, changes, trained):
    plan = tiny_plan(encode={"text_encoder": "minilm"}, teachers={"methods": ["image_only", "teacher"]})
    other = job("02-encode", run="other", tasks_run=TASKS, image_encoder="", text_encoder="minilm")
    again = {"methods": ["image_only", "teacher", "text_only"], "heads_run": TEACHERS, **changes}
    plan += [other, job("03-train-teachers", run="again", encode_run=ENCODE, device="cpu", **again)]
    assert costs_of(plan, rates)[-1].heads == trained * 2  # two seeds


def test_smaller_subsets_are_part_of_larger_ones_and_stop_by_themselves():
    task = TaskCount(5, (0, 1), 100, ((50, 30), (200, 10)), 1000)
    assert task.together(200, 2) == pytest.approx(1000 * (1 - 0.8**2))
    assert task.fresh_passes(task.sizes, 1, 1) == pytest.approx(10 * 200 + 20 * 50)
    assert task.fresh_passes(task.sizes, 2, 2) == pytest.approx(2 * (10 * 200 + 20 * 50))
    assert TaskCount(5, (0, 1), 100, task.sizes).fresh_passes(task.sizes, 2, 1) == pytest.approx(2 * 3000)
    assert TaskCount(5, (0, 1), 3, task.sizes, 40).together(50, 2) == 40


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_a_measured_gpu_takes_the_passes_and_the_cpu_keeps_the_decoding(device, tmp_path):
    plan = plan_of(tiny_plan(device=device), Rates(write_rates(tmp_path / "gpu", gpu=True)))
    encode, teachers = list(plan.costs.values())[1:3]
    assert encode.gpu_hours * 3600 == pytest.approx(IMAGES * 2 / 1000)
    assert encode.cpu_hours * 3600 == pytest.approx(IMAGES * (2 * 0.005 + DECODE))
    assert teachers.gpu_hours * 3600 == pytest.approx(1.5 * 2000 / 64) and teachers.cpu_hours == 0
    assert "Rates: a CPU; a GPU." in plan.text()
    with pytest.raises(DataError, match=r"measured on a GPU, and heads train on a CPU here\.$"):
        plan_of(tiny_plan(), Rates(tmp_path / "gpu"))


def test_without_a_gpu_it_says_so(rates):
    text = plan_of(tiny_plan(device="cuda"), rates).text()
    assert "Rates: a CPU; no GPU was measured, so that all work stands in CPU-hours." in text
    assert next(line for line in text.splitlines() if line.startswith("reports/02"))[48:61] == " not measured"


def test_an_encoder_without_a_rate_is_named_and_marks_the_sums(tmp_path):
    rates = Rates(write_rates(tmp_path / "few", only=["mrm", "c2l"]))
    assert not any(cost.unknown for cost in costs_of(tiny_plan(), rates))
    text = plan_of(tiny_plan(encode={"image_encoder": "simulated_masked"}), rates).text()
    assert "Not measured: passes of image encoder simulated_masked." in text
    assert next(line for line in text.splitlines() if line.startswith("all"))[61:74].strip().startswith(">")


def test_an_encoder_without_a_rate_takes_that_of_its_own_finished_run(rates, monkeypatch, tmp_path):
    folder = tmp_path / "runs" / "reports" / "mimic_cxr" / "02-encode" / "c2l"
    write_json(folder / "encoding.json", {"rates": {"views/s": 50.0}})
    cost = costs_of(tiny_plan(encode={"image_encoder": "simulated_masked"}), rates)[1]
    assert not cost.unknown
    assert cost.cpu_hours * 3600 == pytest.approx(IMAGES * 2 / 50)  # decoding was in it


@pytest.mark.parametrize("name", FILES)
def test_a_missing_benchmark_is_one_sentence(name, tmp_path, capsys):
    (write_rates(tmp_path / "rates") / f"benchmark-{name}.json").unlink()
    with pytest.raises(SystemExit) as stopped:
        main(["paper", "--rates", str(tmp_path / "rates")])
    said = str(stopped.value)
    assert f"benchmark-{name}.json is missing: measure the rates with `make bench`" in said and "\n" not in said


def test_every_notebook_and_run_of_the_paper_is_counted(rates):
    plan = Plan(notebooks.described("paper"), rates)
    files = (paths.PROJECT_ROOT / "params" / "paper").glob("*/*.yml")
    runs = [".".join(filter(None, (f"{f.parent.name}/{f.stem}", label))) for f in files for label in read_runs(f)]
    costs = list(plan.costs.values())
    assert sorted(cost.name for cost in costs) == sorted(runs)
    lines = plan.text().splitlines()
    table = {line.split()[0]: line[38:48].split() for line in lines[2 : lines.index("-" * 100)]}
    assert table == {cost.notebook: [str(sum(c.notebook == cost.notebook for c in costs)), "0"] for cost in costs}
    total = next(line for line in lines if line.startswith("all "))
    hours, gib = (sum(getattr(c, name) for c in costs if getattr(c, name) is not None) for name in ("cpu_hours", "gib"))
    assert total[61:].split()[:2] == [f">{hours:,.1f}", f">{gib:,.1f}"] and total[38:43].strip() == str(len(runs))
    assert max(map(len, lines)) <= 100
    for cost in costs:
        modelled = (
            cost.notebook.split("/")[1][:2] in ("00", "03", "04", "08") or cost.notebook == "mmpkd/01-prepare-data"
        )
        assert not modelled or (cost.cpu_hours > 0 and not cost.unknown), cost.name
    by_name = {cost.name.removeprefix("reports/"): cost for cost in costs}
    assert by_name["02-encode.mimic-biovil-t-bert"].note.endswith("reports")
    assert "reports" not in by_name["02-encode.mimic-mrm"].note  # takes them from that run
    # Tables 3 to 5 have 6 + 4 + 6 sizes; five seeds.
    assert by_name["03-train-teachers.mimic-mrm"].heads == 3 * 16 * 5
    assert by_name["04-distil-students.mimic-mrm-temperatures"].heads == 2 * 6 * 6 * 5


def test_the_papers_counts_are_those_of_the_tasks(rates):
    prepared = Plan(notebooks.described("paper"), rates).studies[0].prepared["reports/mimic_cxr/01-prepare-tasks/paper"]
    assert {name: task.evaluation for name, task in prepared.tasks.items()} == {
        "mimic_5x1200": 1000, "age": 3524, "discharge_3_day": 1849}  # fmt: skip
    drawn = {"age": (35_242, 3524 + 3171), "discharge_3_day": (18_490, 1849 + 4145)}
    covered = [n * (1 - (1 - k / n) ** 5) for n, k in drawn.values()]
    assert prepared.images == round(6000 * (1 - (1 - 5 / 6) ** 5) + sum(covered))
    assert [task.classes for task in prepared.tasks.values()] == [5, 5, 2]


def test_a_finished_run_is_counted_itself(tmp_path):
    folder = tmp_path / "runs" / TASKS
    splits = pd.DataFrame(
        {"task": "age", "seed": [0] * 5 + [1] * 5, "part": ["train", "train", "train", *["evaluate"] * 2] * 2,
         "image_id": list("abcdebcdef")}
    )  # fmt: skip
    write(folder / "splits.parquet", splits)
    write(folder / "sizes.csv", pd.DataFrame({"task": ["age"], "samples": [3], "epochs": [7]}))
    write(folder / "images.parquet", pd.DataFrame({"image_id": list("abcdef"), "path": [*"abcde", None]}))
    write_json(folder / "tasks.json", {"age": {"classes": ["young", "old"]}})
    write_json(folder / "run.json", {})
    Image.new("L", (30, 40)).save(tmp_path / "c", "PNG")
    (tmp_path / "d").write_bytes(b"a volume")
    prepared = count_tasks(TASKS, {"data_root": str(tmp_path)})
    assert prepared.pixels == 30 * 40  # by the header of the one that is here
    age = prepared.tasks["age"]
    assert (prepared.images, prepared.source) == (6, "a finished run")
    assert (age.classes, age.seeds, age.evaluation, age.sizes) == (2, (0, 1), 2, ((3, 7),))
    assert age.pool == 6  # that both seeds together have drawn


def test_images_that_nobody_counted_are_not_known(rates):
    plan = tiny_plan()
    plan[0].parameters["simulate_patients"] = 60
    costs = costs_of(plan, rates)
    assert costs[1].unknown == {f"the images of {TASKS}, which are known when it has run"}
    assert costs[1].cpu_hours is None and costs[1].gib is None


MAPS = "mmpkd/mimic_cxr/01-prepare-data/tiny"
SHARE = 243_324 / 377_110  # frontal views


def maps_plan() -> list[notebooks.Described]:
    """MIMIC-CXR's frontal views, three kinds of student by two seeds."""
    options = {"run": "tiny", "simulate_patients": 0, "image_size": 64, "options": {}}
    student = {"prepared_run": MAPS, "teacher_run": "mmpkd/mimic_cxr/02-train-teacher/tiny", "seeds": [0, 1],
               "width": 64, "depth": 4, "epochs": 3, "weights": [0.0, 0.5], "temperatures": [1.0, 2.0]}  # fmt: skip
    return [
        job("01-prepare-data", "mmpkd", **options),
        job("02-train-teacher", "mmpkd", run="tiny", prepared_run=MAPS, text_encoder="data/none", trainable_layers=-1,
            seeds=[0, 1, 2], epochs=2),
        job("03-distil-student", "mmpkd", run="grid", **student),
        job("04-evaluate-attention", "mmpkd", run="grid", prepared_run=MAPS,
            student_run="mmpkd/mimic_cxr/03-distil-student/grid"),
    ]  # fmt: skip


def test_students_and_their_maps_are_counted(rates):
    prepare, teach, distil, evaluate = costs_of(maps_plan(), rates)
    assert prepare.cpu_hours * 3600 == pytest.approx(243_324 * (1 / 50 + 10 / 1000))
    assert prepare.gib * 2**30 == pytest.approx(243_324 * 64**2)
    bert = 12 * 768**2 / (6 * 384**2)  # times the measured encoder
    train, validate = round(SHARE * 368_960), round(SHARE * 2_991)
    read = 227_835 * (train + validate / 3) / 243_324
    assert teach.cpu_hours * 3600 == pytest.approx((3 * 2 * read * 0.010 + 227_835 * 0.0005) * 2 * bert)
    plan = maps_plan()
    plan[1].parameters.update(trainable_layers=1, pooling="cls")  # the frozen blocks once
    kept = (3 * 2 * read * 0.0001 + 227_835 * 0.005) * 2 * bert
    assert costs_of(plan, rates)[1].cpu_hours * 3600 == pytest.approx(kept)
    a_student = 3 * (train / 50 + validate / 200) + 243_324 / 200
    assert distil.heads == 6 and distil.cpu_hours * 3600 == pytest.approx(6 * a_student)
    references = 1_047 * (3 / 200 + (3 + 4) * 2 * 0.002)  # three random students, four maps that are none's
    students = 6 * 1_047 * (1 / 200 + 3 * 0.002)  # scored for the labels, for any finding, and by finding
    assert evaluate.cpu_hours * 3600 == pytest.approx(students + references)


def test_every_run_takes_what_notebooks_take_without_work(tmp_path):
    folder = write_rates(tmp_path / "rates")
    before = costs_of(maps_plan(), Rates(folder))
    rows = [{"cpu_seconds": seconds} for seconds in (2.0, 3.0, 3.0, 9.0, 20.0)]
    (folder / "benchmark-notebooks.json").write_text(json.dumps({"machine": {"cpu": "a CPU"}, "rows": rows}))
    for one, other in zip(before, costs_of(maps_plan(), Rates(folder)), strict=True):
        assert (other.cpu_hours - one.cpu_hours) * 3600 == pytest.approx(3.0)


def test_a_run_of_the_demonstration_costs_what_was_measured(tmp_path):
    folder, plan = write_rates(tmp_path / "rates"), maps_plan()
    known = {plan[2].name: hash_params(identifying(plan[2].parameters))}
    rows = [{"run": plan[2].name, "cpu_seconds": 360.0, "peak_gib": 0.5}]
    stored = {"machine": {"cpu": "a CPU"}, "rows": rows, "parameters": known}
    (folder / "benchmark-demonstration.json").write_text(json.dumps(stored))
    cost = costs_of(plan, Rates(folder))[2]
    assert (cost.cpu_hours, cost.memory_gib, cost.gib, cost.device) == (0.1, 0.5, None, "")
    modelled = list(plan_of(plan, Rates(folder), records=False).costs.values())[2]
    changed = [replace(job, parameters={**job.parameters, "epochs": 4}) if job is plan[2] else job for job in plan]
    assert 0.1 not in (modelled.cpu_hours, costs_of(changed, Rates(folder))[2].cpu_hours)


def test_students_between_the_measured_lie_between_and_others_go_with_their_operations(rates):
    small, tiny = MEASURED_STUDENTS.values()
    assert [rates.student(shape) for shape in (small, tiny)] == pytest.approx([1 / 200, 1 / 10])
    middle = [rates.student((tokens, 128, 6)) for tokens in (65, 101, 197)]
    assert middle == sorted(middle) and 1 / 200 < middle[0] < middle[-1] < 1 / 10
    deep, shallow = (rates.student((*shape[:2], depth)) for shape, depth in ((tiny, 24), (small, 1)))
    assert (deep, shallow) == pytest.approx((2 / 10, 1 / 800))


def test_a_larger_student_is_that_of_the_paper(rates):
    plan = maps_plan()
    plan[0].parameters["image_size"] = 224
    plan[2].parameters["architecture"] = "vit_tiny_patch16_224"
    train, validate = round(SHARE * 368_960), round(SHARE * 2_991)
    factor = 200 / 50  # what training adds, measured on the small one
    a_student = 3 * (train * factor / 10 + validate / 10) + 243_324 / 10
    assert costs_of(plan, rates)[2].cpu_hours * 3600 == pytest.approx(6 * a_student)


def test_maps_are_scored_at_the_images_size_and_by_finding(rates):
    """Of the same maps and images of half the side: a quarter of the scores' time."""
    small, found = maps_plan(), []
    small[0].parameters["image_size"], small[2].parameters["patch_size"] = 32, 4  # as many tokens
    for plan in (maps_plan(), small):
        found.append(costs_of(plan, rates)[3].cpu_hours * 3600)
    scores = 1_047 * (6 * 3 + 7 * 2) * 0.002
    assert found[0] - found[1] == pytest.approx(3 / 4 * scores)


def test_a_finished_cohort_is_counted_itself(tmp_path):
    folder = tmp_path / "runs" / MAPS
    write_json(folder / "run.json", {})
    write(folder / "images.parquet", pd.DataFrame({"image_id": list("abcdef")}))
    write(folder / "privileged.parquet", pd.DataFrame({"text": ["one", "two"]}))
    splits = ["train", "train", "validate", "test", "test", "test"]
    write(folder / "splits.parquet",
          pd.DataFrame({"image_id": list("abcdef"), "split": splits, "fold": 0, "repeat": 0}))  # fmt: skip
    boxes = [("a", "Edema"), ("c", "Edema"), ("d", "Edema"), ("d", "Edema"), ("d", "Mass"), ("e", "")]
    write(folder / "boxes.parquet", pd.DataFrame(boxes, columns=["image_id", "finding"]))
    write(folder / "pixels.index.parquet", pd.DataFrame({"width": [10, 30], "height": [10, 10]}))
    found = pictures(MAPS, {})
    assert (found.images, found.rows, found.train, found.validate) == (6, 2, 2, 1)
    assert found.regions == {"validate": 1, "test": 2} and found.pairs == ((0, 0),)
    assert (found.named, found.plain, found.pixels) == (2, 1, 200)  # two findings of d; f has no region


def test_every_volume_is_projected(rates):
    plan = [job("00-reconstruct-radiographs", cohort="inspect", detector_pixels=[1024, 1024])]
    assert costs_of(plan, rates)[0].cpu_hours * 3600 == pytest.approx(23_240 * 1.5 * 4)


def finished(folder: Path, parameters: dict, **facts) -> None:
    record = {"parameters": parameters, "seconds": 7200.0, "device": "a machine", "identity": "0"}
    write_json(folder / "run.json", {**record, "started": "2026-01-01T00:00:00Z", **facts})


def test_a_run_that_was_made_costs_what_it_says(rates, tmp_path):
    plan = maps_plan()
    folder = tmp_path / "runs" / "mmpkd" / "mimic_cxr" / "03-distil-student" / "grid"
    here = {"cpu_seconds": 3600.0, "peak_memory_gib": 1.25, "gpu_peak_memory_gib": None}
    finished(folder, {**plan[2].parameters, "device": "cuda"}, **here)  # the machine's own
    earlier = tmp_path / "earlier.npy"
    for file in (folder / "students" / "own.npy", earlier):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(3 * 2**20))
    os.utime(earlier, (0, 0))
    (folder / "linked.npy").hardlink_to(earlier)
    cost = costs_of(plan, rates)[2]
    assert (cost.cpu_hours, cost.gpu_hours, cost.memory_gib) == (1.0, 0.0, 1.25)
    assert cost.gib * 1024 == pytest.approx(3, rel=0.01)
    text = plan_of(plan, rates).text()
    assert "1 of the 4 runs were made here, on a machine." in text
    line = next(line for line in text.splitlines() if line.startswith("mmpkd/03"))
    assert line.split()[1:] == ["1", "1", "0.0", "1.0", "0.0", "1.2"]
    modelled = plan_of(plan, rates, records=False)
    hours = next(cost.cpu_hours for cost in modelled.costs.values() if cost.notebook == line.split()[0])
    (beside,) = [row.split() for row in modelled.beside_finished().splitlines() if row.startswith("mmpkd/")]
    assert hours != 1.0 and beside[1:4] == [f"{hours:.3f}", "1.000", f"{hours:.2f}"] and beside[5] == "1.250"
    finished(folder, plan[2].parameters, **here | {"gpu_peak_memory_gib": 3.0})
    assert costs_of(plan, rates)[2].gpu_hours == 2.0
    for other in ({"parameters": {**plan[2].parameters, "epochs": 4}}, {"resumed": True}):
        finished(folder, **{"parameters": plan[2].parameters, **here, **other})
        assert not costs_of(plan, rates)[2].device
