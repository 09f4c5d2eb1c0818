"""The budget of the reports study: arithmetic on rates made by hand, and every planned run counted."""

import json
from pathlib import Path

import pandas as pd
import pytest

from pkd_utils.encoders.zoo import IMAGE_ENCODERS
from pkd_utils.runs import notebooks, paths
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import write, write_json
from pkd_utils.runs.parameters import resolve
from pkd_utils.runs.profiles import read_runs
from workflow.budget import REPORT_TOKENS, Budget, Rates, TaskCount, count_tasks, main, operations

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
    folder.mkdir(exist_ok=True)
    for name, content in (("encoders", encoders), ("heads", heads), ("tokens", tokens)):
        (folder / f"benchmark-{name}.json").write_text(json.dumps(content))
    return folder


def job(notebook: str, **values) -> notebooks.Job:
    parameters = resolve(f"reports/{notebook}", {}) | {"cohort": "mimic_cxr"} | values
    name = f"reports/{notebook}.{parameters['run']}"
    return notebooks.Job(name, f"reports/{notebook}", Path("x.yml"), "", parameters, "0", Path("x"), ())


def tiny_plan(device="cpu", encode=None, teachers=None, students=None) -> list[notebooks.Job]:
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
    budget = Budget(tiny_plan(), rates)
    prepared = budget.prepared[TASKS]
    assert prepared.images == IMAGES
    age = prepared.tasks["age"]
    assert (age.classes, age.evaluation, age.sizes, age.seeds) == (5, 100, ((100, 10),), (0, 1))


def test_encoding_counts_views_passes_preprocessing_and_decoding(rates):
    cost = Budget(tiny_plan(), rates).costs[1]
    assert cost.cpu_hours * 3600 == pytest.approx(IMAGES * (2 * (2 / 10 + 0.005) + DECODE))
    assert cost.gib * 2**30 == pytest.approx(IMAGES * 2 * 49 * 512 * 2)
    assert cost.gpu_hours == 0 and not cost.unknown


def test_a_smaller_input_is_scaled_by_its_tokens(rates):
    cost = Budget(tiny_plan(encode={"input_size": 64}), rates).costs[1]  # 2 x 2 tokens of 7 x 7
    assert cost.cpu_hours * 3600 == pytest.approx(IMAGES * (2 * (4 / 49 * 2 / 10 + 0.005) + DECODE))
    assert cost.gib * 2**30 == pytest.approx(IMAGES * 2 * 4 * 512 * 2)


def test_one_head_costs_training_and_half_for_evaluation(rates):
    cost = Budget(tiny_plan(), rates).costs[2]
    assert cost.heads == 2
    assert cost.cpu_hours * 3600 == pytest.approx(1.5 * 2 * 100 * 10 * 1.0 / 64 * 2)  # the best time, on two threads
    assert cost.gib * 2**30 == pytest.approx(2 * (10 * 100 * 5 * 4 + 12 * 512**2))


def test_students_are_trained_together_and_hear_each_teacher_once_a_view(rates):
    cost = Budget(tiny_plan(), rates).costs[3]
    a_seed = 4 * 1.5 * 100 * 10 + 0.5 * 100 * 1
    assert cost.heads == 8
    assert cost.cpu_hours * 3600 == pytest.approx(2 * a_seed * 2.0 / (4 * 64) * 2)
    assert cost.gib * 2**30 == pytest.approx(2 * 4 * 10 * 100 * 5 * 4)  # the teachers' weights are linked, not copied


def test_the_teacher_reads_report_tokens_and_probes_cost_nothing(rates):
    plan = tiny_plan(encode={"text_encoder": "biovil_t_bert"}, teachers={"methods": ["teacher", "mean_probe"]})
    budget = Budget(plan, rates)
    a_step = (STEP + operations(REPORT_TOKENS, 768)) / STEP
    assert budget.costs[2].cpu_hours * 3600 == pytest.approx(2 * a_step * 1.5 * 1000 / 64 * 2)
    images = IMAGES * (2 * (2 / 10 + 0.005) + DECODE)
    assert budget.costs[1].cpu_hours * 3600 == pytest.approx(images + IMAGES * REPORT_TOKENS * 2 / 1000)


def test_reports_that_a_run_has_read_have_the_length_that_it_found(rates, tmp_path):
    folder = tmp_path / "runs" / "reports" / "mimic_cxr" / "02-encode" / "reader"
    write_json(folder / "encoding.json", {"rates": {}, "kept": [{"what": "reports", "tokens": 50.0}]})
    reader = job("02-encode", run="reader", tasks_run=TASKS, image_encoder="", precision="fp32")
    plan = tiny_plan(encode={"text_encoder": "minilm", "text_run": "reports/mimic_cxr/02-encode/reader"},
                     teachers={"methods": ["text_only"]})  # fmt: skip
    budget = Budget([plan[0], reader, *plan[1:]], rates)
    assert budget.costs[1].cpu_hours * 3600 == pytest.approx(IMAGES * 50 * 2 / 1000)
    assert budget.costs[1].gib * 2**30 == pytest.approx(IMAGES * 50 * 384 * 2)
    text = operations(50, 384) / STEP
    assert budget.costs[3].cpu_hours * 3600 == pytest.approx(text * 1.5 * 2000 / 64 * 2)


def test_operations_are_scaled_to_other_shapes(rates):
    one = rates.operation(1, (49, 512), "float32", "cpu")[1]
    assert rates.operation(1, (64, 480), "float32", "cpu")[1] == one == pytest.approx(2 / 64 / STEP)
    assert rates.operation(1, (361, 1024), "float32", "cpu")[1] > one  # nearer to 196 x 768
    assert rates.operation(3, (49, 512), "bfloat16", "cpu")[1] == one  # three are no four
    assert operations(2, 3) == 4 * 2 * 9 + 4 * 4 * 3


CROPS = ("kept", "fresh")


def test_fresh_crops_are_encoded_in_every_epoch_once_for_all_seeds(rates):
    stored, fresh = (Budget(tiny_plan(encode={"crops": kind, "limit_gib": 0.02}), rates).costs for kind in CROPS)
    a_pass = 2 / 10 + 0.005 + DECODE
    together = 1000 * (1 - 0.9 * 0.9)  # images of two seeds that draw 100 of 1,000
    for step in (2, 3):
        more = together * 10 * a_pass
        if step == 3:  # and the teacher is heard at every step, not once a view
            more += 2 * 0.5 * 100 * 9 * 2.0 / (4 * 64) * 2
        assert (fresh[step].cpu_hours - stored[step].cpu_hours) * 3600 == pytest.approx(more)
    assert fresh[1].gib == pytest.approx(stored[1].gib / 2)  # the clean view is kept
    nothing = Budget(tiny_plan(encode={"crops": "fresh", "limit_gib": 0.001}), rates).costs
    assert nothing[1].gib == 0 and nothing[1].cpu_hours == 0
    clean = (nothing[2].cpu_hours - fresh[2].cpu_hours) * 3600
    assert clean == pytest.approx(together * a_pass)  # evaluation images, once


@pytest.mark.parametrize("methods", [["image_only", "cls_probe", "mean_probe"], ["image_only", "image_only"]])
def test_methods_share_the_passes_and_small_memory_costs_more(rates, methods):
    def more(memory_gib):
        teachers = {"methods": methods, "memory_gib": memory_gib}
        costs = [Budget(tiny_plan(encode={"crops": kind}, teachers=teachers), rates).costs[2] for kind in CROPS]
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
        Budget(tiny_plan(encode={**encode, "crops": kind}, teachers={"methods": ["text_only"]}), rates).costs[2]
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
    assert Budget(plan, rates).costs[-1].heads == trained * 2  # two seeds


def test_smaller_subsets_are_part_of_larger_ones_and_stop_by_themselves():
    task = TaskCount(5, (0, 1), 100, ((50, 30), (200, 10)), 1000)
    assert task.together(200, 2) == pytest.approx(1000 * (1 - 0.8**2))
    assert task.fresh_passes(task.sizes, 1, 1) == pytest.approx(10 * 200 + 20 * 50)
    assert task.fresh_passes(task.sizes, 2, 2) == pytest.approx(2 * (10 * 200 + 20 * 50))
    assert TaskCount(5, (0, 1), 100, task.sizes).fresh_passes(task.sizes, 2, 1) == pytest.approx(2 * 3000)
    assert TaskCount(5, (0, 1), 3, task.sizes, 40).together(50, 2) == 40


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_a_measured_gpu_takes_the_passes_and_the_cpu_keeps_the_decoding(device, tmp_path):
    budget = Budget(tiny_plan(device=device), Rates(write_rates(tmp_path / "gpu", gpu=True)))
    encode, teachers = budget.costs[1:3]
    assert encode.gpu_hours * 3600 == pytest.approx(IMAGES * 2 / 1000)
    assert encode.cpu_hours * 3600 == pytest.approx(IMAGES * (2 * 0.005 + DECODE))
    assert teachers.gpu_hours * 3600 == pytest.approx(1.5 * 2000 / 64) and teachers.cpu_hours == 0
    assert "GPU-hours" in str(budget) and "no GPU" not in str(budget)
    with pytest.raises(DataError, match=r"measured on a GPU, and heads train on a CPU here\.$"):
        Budget(tiny_plan(), Rates(tmp_path / "gpu"))


def test_without_a_gpu_it_says_so(rates):
    assert str(Budget(tiny_plan(device="cuda"), rates)).startswith("no GPU was measured; CPU-hours:\n")


def test_an_encoder_without_a_rate_is_named_and_marks_the_sums(tmp_path):
    budget = Budget(tiny_plan(), Rates(write_rates(tmp_path / "few", only=["mrm", "c2l"])))
    assert "+?" not in str(budget)
    plan = tiny_plan(encode={"image_encoder": "simulated_masked"})
    text = str(Budget(plan, Rates(tmp_path / "few")))
    assert "no rate was measured: passes of image encoder simulated_masked." in text
    assert "+?" in next(line for line in text.splitlines() if line.startswith("all 4 runs"))


def test_an_encoder_without_a_rate_takes_that_of_its_own_finished_run(rates, monkeypatch, tmp_path):
    folder = tmp_path / "runs" / "reports" / "mimic_cxr" / "02-encode" / "c2l"
    write_json(folder / "encoding.json", {"rates": {"views/s": 50.0}})
    cost = Budget(tiny_plan(encode={"image_encoder": "simulated_masked"}), rates).costs[1]
    assert not cost.unknown
    assert cost.cpu_hours * 3600 == pytest.approx(IMAGES * 2 / 50)  # decoding was in it


@pytest.mark.parametrize("name", ["encoders", "heads", "tokens"])
def test_a_missing_benchmark_is_one_sentence(name, tmp_path, capsys):
    (write_rates(tmp_path / "rates") / f"benchmark-{name}.json").unlink()
    with pytest.raises(SystemExit) as stopped:
        main(["paper", "--rates", str(tmp_path / "rates")])
    said = str(stopped.value)
    assert f"benchmark-{name}.json is missing: measure the rates with `make bench`" in said and "\n" not in said


def test_every_planned_run_of_the_paper_is_counted(rates):
    budget = Budget(notebooks.plan("paper"), rates)
    files = (paths.PROJECT_ROOT / "params" / "paper" / "reports").glob("*.yml")
    runs = [f"{file.stem}.{label}" for file in files for label in read_runs(file)]
    assert sorted(cost.name for cost in budget.costs) == sorted(runs)
    total = next(line for line in str(budget).splitlines() if line.startswith("all "))
    hours, gib = (sum(getattr(cost, name) for cost in budget.costs) for name in ("cpu_hours", "gib"))
    heads = sum(cost.heads for cost in budget.costs)
    assert total[:56].strip() == f"all {len(budget.costs)} runs"
    assert total[56:].split() == [f"{heads}{hours:,.2f}", f"{gib:,.1f}"]
    for cost in budget.costs:
        trains = cost.name.startswith(("03", "04"))
        assert (cost.heads > 0 and cost.cpu_hours > 0) == trains, cost.name
        assert not cost.unknown, cost.name
    by_name = {cost.name: cost for cost in budget.costs}
    assert by_name["02-encode.mimic-biovil-t-bert"].note.endswith("reports")
    assert "reports" not in by_name["02-encode.mimic-mrm"].note  # takes them from that run
    # Tables 3 to 5 have 6 + 4 + 6 sizes; five seeds.
    assert by_name["03-train-teachers.mimic-mrm"].heads == 3 * 16 * 5
    assert by_name["04-distil-students.mimic-mrm-temperatures"].heads == 2 * 6 * 6 * 5


def test_the_papers_counts_are_those_of_the_tasks(rates):
    prepared = Budget(notebooks.plan("paper"), rates).prepared["reports/mimic_cxr/01-prepare-tasks/paper"]
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
    write(folder / "images.parquet", pd.DataFrame({"image_id": list("abcdef")}))
    write_json(folder / "tasks.json", {"age": {"classes": ["young", "old"]}})
    write_json(folder / "run.json", {})
    prepared = count_tasks(TASKS, {})
    age = prepared.tasks["age"]
    assert (prepared.images, prepared.source) == (6, "a finished run")
    assert (age.classes, age.seeds, age.evaluation, age.sizes) == (2, (0, 1), 2, ((3, 7),))
    assert age.pool == 6  # that both seeds together have drawn


def test_images_that_nobody_counted_are_refused(rates):
    plan = tiny_plan()
    plan[0].parameters["simulate_patients"] = 60
    with pytest.raises(DataError, match=r"^The images of .* are not known before it has run: run it first\.$"):
        Budget(plan, rates)
