"""MIMIC-CXR at its published size: seconds and memory until every image is indexed and every report is in sections.

    python benchmarks/mimic_size.py [--images 377110] [--rounds 1] [--root DIR] [--json benchmarks.json]

A simulated tree in the published layouts is written first (`write_tree`, marked SIMULATED.txt): as many images,
studies, patients, views and boxes as release 2.1.0 has, a report of about 700 bytes a study, and for every image a hard
link to one small JPEG, since indexing reads no pixels. Then a process of its own does what a notebook does first:
`load_cohort` (tables joined and checked), `cohort.privileged` (all reports into sections), `data_hash` (size of every
image on disk), and twice the index that tells a run's data (`runs.index`). The reference, in a process of its own and
by turns with ours, is the least that any program must do, written plainly: pandas reads and joins the same tables;
every report is opened and read, nothing more. `make data-check` of the paper's MIMIC-CXR runs is timed as a user waits
for it, from start to exit: tables, reports, the size of every frontal image, the header and end of 1,000.

At the published size the script stops if indexing takes more than 2 minutes, or anything more than 4 GiB. Files were
just written, so they may lie in the operating system's cache: reading from a disk or a network drive takes longer, by
what that storage needs for so many small files; "answers after 1 ms" adds that to each of the first 5,000 reports.
Peak memory is the largest resident set of the process (VmHWM), everything imported included.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from pkd_utils.runs.machine import peak_gib

# Rows of MIMIC-CXR-JPG 2.1.0, MIMIC-IV 3.1 and MS-CXR 1.1.0; a smaller tree keeps the proportions.
IMAGES, STUDIES, PATIENTS, HOSPITAL_PATIENTS, BOXED, BOXES = 377_110, 227_835, 65_379, 364_627, 1_047, 1_448
VIEWS = {"AP": 147_169, "PA": 96_155, "LATERAL": 82_852, "LL": 35_129, "": 15_769}
TEST_IMAGES, VALIDATE_IMAGES = 5_159, 2_991
LABELS = ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture"]
LABELS += ["Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia"]
LABELS += ["Pneumothorax", "Support Devices"]
SENTENCES = [
    "The heart is normal in size.",
    "The cardiac silhouette is mildly enlarged, unchanged compared to the prior study.",
    "Lung volumes are low, with crowding of the bronchovascular structures.",
    "There is no focal consolidation, pleural effusion or pneumothorax.",
    "A small left pleural effusion has decreased since ___.",
    "Streaky opacities at the left base most likely reflect atelectasis.",
    "The mediastinal and hilar contours are within normal limits.",
    "Mild pulmonary vascular congestion is present without frank edema.",
    "The right internal jugular line ends in the mid superior vena cava.",
    "No acute osseous abnormality is detected.",
]
LIMIT_SECONDS, LIMIT_GIB = 120, 4  # at the published size
SLOW_REPORTS = 5_000


def spread(total: int, groups: int, rng: np.random.Generator) -> np.ndarray:
    """Group of each of `total` rows, sorted: every group at least once, the rest with a long tail."""
    share = rng.gamma(0.7, size=groups)
    return np.repeat(np.arange(groups), 1 + rng.multinomial(total - groups, share / share.sum()))


def report(rng: np.random.Generator) -> str:
    """One made-up report in MIMIC-CXR's format: one in ten without headers, as a paragraph."""
    lines = "\n ".join(SENTENCES[i] for i in rng.permutation(len(SENTENCES))[: rng.integers(4, 9)])
    head = "                                 FINAL REPORT\n INDICATION:  ___ year old with cough  // ? pneumonia\n \n"
    if rng.random() < 0.1:
        return f"{head} COMPARISON:  ___.\n \n Portable chest radiograph.\n \n {lines}\n"
    return (
        f"{head} TECHNIQUE:  Chest PA and lateral\n \n COMPARISON:  ___\n \n FINDINGS: \n \n {lines}\n \n"
        " IMPRESSION: \n \n No acute cardiopulmonary process. Findings are simulated.\n"
    )


def write_tree(root: Path, images: int = IMAGES, seed: int = 0) -> Path:
    """Write a simulated root in the layouts of MIMIC-CXR-JPG, MIMIC-CXR, MIMIC-IV and MS-CXR.

    Parameters
    ----------
    root : Path
        An empty or new folder.
    images : int
        Images; studies, patients and boxes follow in the published proportions. Each image's file is a hard link to
        one JPEG of 40 x 48 pixels.
    seed : int

    Returns
    -------
    Path
        `root`.
    """
    rng = np.random.default_rng(seed)
    scale = images / IMAGES
    studies, patients = max(1, round(STUDIES * scale)), max(1, round(PATIENTS * scale))
    # As many of a hospital's patients as the tree needs, none twice: ids as published have eight digits.
    everyone = np.sort(rng.choice(9_999_999, max(patients, round(HOSPITAL_PATIENTS * scale)), replace=False))
    subjects = np.sort(rng.choice(everyone, patients, replace=False)) + 10_000_000
    study_ids = rng.choice(9_999_999, studies, replace=False) + 50_000_000
    patient_of = spread(studies, patients, rng)
    study_of = spread(images, studies, rng)
    words = rng.integers(0, 2**32, (images, 5))
    split_of_patient = np.full(patients, "train", dtype=object)
    order = rng.permutation(patients)
    held_out = max(1, round(patients * TEST_IMAGES / IMAGES))
    split_of_patient[order[:held_out]] = "test"
    split_of_patient[order[held_out : held_out + max(1, round(patients * VALIDATE_IMAGES / IMAGES))]] = "validate"

    counts = np.array(list(VIEWS.values())) / sum(VIEWS.values())
    view = rng.choice(list(VIEWS), images, p=counts)
    day = pd.Timestamp("2110-01-01") + pd.to_timedelta(rng.integers(0, 36_500, studies)[study_of], unit="D")
    clock = rng.integers(0, 24, images) * 10_000 + rng.integers(0, 60, images) * 100 + rng.integers(0, 60, images)
    metadata = pd.DataFrame(
        {
            "dicom_id": ["-".join(f"{word:08x}" for word in row) for row in words],
            "subject_id": subjects[patient_of[study_of]],
            "study_id": study_ids[study_of],
            "PerformedProcedureStepDescription": "CHEST (PORTABLE AP)",
            "ViewPosition": view,
            "Rows": 3056,
            "Columns": 2544,
            "StudyDate": day.strftime("%Y%m%d"),
            "StudyTime": clock + rng.integers(0, 1000, images) / 1000,
            "ProcedureCodeSequence_CodeMeaning": "CHEST (PORTABLE AP)",
            "ViewCodeSequence_CodeMeaning": "antero-posterior",
            "PatientOrientationCodeSequence_CodeMeaning": "Erect",
        }
    )
    root.mkdir(parents=True, exist_ok=True)
    (root / "SIMULATED.txt").write_text("Simulated by benchmarks/mimic_size.py: no patient, no image, no report.\n")
    metadata.to_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", index=False)
    split = metadata[["dicom_id", "study_id", "subject_id"]].assign(split=split_of_patient[patient_of[study_of]])
    split.to_csv(root / "mimic-cxr-2.0.0-split.csv.gz", index=False)
    labels = pd.DataFrame(
        rng.choice(["", "1.0", "0.0", "-1.0"], (studies, len(LABELS)), p=[0.7, 0.18, 0.08, 0.04]), columns=LABELS
    )
    labels.insert(0, "subject_id", subjects[patient_of])
    labels.insert(1, "study_id", study_ids)
    labels.to_csv(root / "mimic-cxr-2.0.0-chexpert.csv.gz", index=False)

    (root / "hosp").mkdir()
    people = pd.DataFrame({"subject_id": everyone + 10_000_000, "gender": rng.choice(["F", "M"], len(everyone))})
    people["anchor_age"], people["anchor_year"] = rng.integers(18, 92, len(everyone)), 2110
    people["anchor_year_group"], people["dod"] = "2011 - 2013", ""
    people.to_csv(root / "hosp" / "patients.csv.gz", index=False)

    boxed = rng.choice(np.flatnonzero(np.isin(view, ["AP", "PA"])), max(1, round(BOXED * scale)), replace=False)
    rows = np.concatenate([boxed, rng.choice(boxed, round((BOXES - BOXED) * scale))])
    folders = np.array([f"files/p{subjects[p] // 1_000_000}/p{subjects[p]}" for p in patient_of], dtype=object)
    boxes = pd.DataFrame({"category_name": "Edema", "label_text": "made up", "dicom_id": metadata["dicom_id"][rows]})
    boxes["path"] = [f"{folders[study_of[i]]}/s{study_ids[study_of[i]]}/{metadata['dicom_id'][i]}.jpg" for i in rows]
    boxes = boxes.assign(x=640, y=640, w=640, h=640, image_width=2544, image_height=3056, split="test")
    (root / "ms-cxr").mkdir()
    boxes.to_csv(root / "ms-cxr" / "MS_CXR_Local_Alignment_v1.1.0.csv", index=False)

    reports = [report(rng).encode() for _ in range(997)]
    names, last = metadata["dicom_id"].to_list(), ""
    first_image = np.searchsorted(study_of, np.arange(studies + 1))
    for i in tqdm(range(studies), desc="writing studies", unit="study", disable=studies < 5000):
        folder = root / folders[i]
        if folders[i] != last:
            folder.mkdir(parents=True)
            last = folders[i]
        with open(f"{folder}/s{study_ids[i]}.txt", "wb") as file:
            file.write(reports[i % len(reports)])
        os.mkdir(f"{folder}/s{study_ids[i]}")
        for row in range(first_image[i], first_image[i + 1]):
            if row % 30_000 == 0:  # file systems allow some tens of thousands of links to one file
                template = root / f"template{row}.jpg"
                Image.new("L", (40, 48)).save(template)
            os.link(template, f"{folder}/s{study_ids[i]}/{names[row]}.jpg")
    return root


def timed(work) -> dict:
    start = time.perf_counter()
    result = work()
    return {"seconds": time.perf_counter() - start, "peak_gib": peak_gib(), "result": result}


def ours(root: Path) -> dict:
    """Seconds of each step and the peak after it, in this process."""
    from pkd_utils.cohorts import SOURCES, load_cohort, report_sections
    from pkd_utils.runs import index

    steps = {"index": timed(lambda: load_cohort("mimic_cxr", root, views=None))}
    cohort = steps["index"].pop("result")
    steps["reports"] = timed(lambda: len(cohort.privileged))
    steps["data hash"] = timed(cohort.data_hash)
    with tempfile.TemporaryDirectory() as folder:
        for step in ("first identity", "identity"):
            steps[step] = timed(
                lambda: len(index.hashes(root, SOURCES["mimic_cxr"].files, Path(folder, "index.parquet")))
            )
    some = cohort.images.drop_duplicates("study_id").head(SLOW_REPORTS)
    read = report_sections.ReportFolder.read
    report_sections.ReportFolder.read = lambda self, name: (time.sleep(0.001), read(self, name))[1]
    steps["slow reports"] = timed(lambda: len(cohort.privileged_source(some)))
    return {"images": len(cohort.images), "steps": steps}


def reference(root: Path) -> dict:
    """The least that anyone must do: read and join the tables, read every report."""

    def index() -> pd.DataFrame:
        tables = [pd.read_csv(root / f"mimic-cxr-2.0.0-{name}.csv.gz") for name in ("metadata", "split", "chexpert")]
        pd.read_csv(root / "hosp" / "patients.csv.gz")
        joined = tables[0].merge(tables[1], on=["dicom_id", "subject_id", "study_id"])
        return joined.merge(tables[2], on=["subject_id", "study_id"])

    def read(studies: pd.DataFrame, wait: float = 0) -> int:
        texts = []
        for subject, study in zip(studies["subject_id"], studies["study_id"], strict=True):
            if wait:
                time.sleep(wait)
            with open(f"{root}/files/p{subject // 1_000_000}/p{subject}/s{study}.txt") as file:
                texts.append(file.read())
        return len(texts)

    steps = {"index": timed(index)}
    joined = steps["index"].pop("result")
    studies = joined.drop_duplicates("study_id")
    steps["reports"] = timed(lambda: read(studies))
    steps["slow reports"] = timed(lambda: read(studies.head(SLOW_REPORTS), 0.001))
    return {"images": len(joined), "steps": steps}


def data_check(root: Path) -> dict:
    """Seconds and peak of the command that looks at the data before a run, with processor seconds."""
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder, "local.yml")
        names = ("data/mimic-cxr-jpg", "data/mimic-cxr", "data/mimic-iv", "data/ms-cxr")
        local.write_text("roots:\n" + "".join(f"  {name}: {root.resolve()}\n" for name in names))
        command = [sys.executable, "-m", "workflow.data_check", "paper", "mmpkd/mimic_cxr/01-prepare-data"]
        load, start = os.getloadavg()[0], time.perf_counter()
        project = Path(__file__).resolve().parents[1]
        environment = {**os.environ, "PKD_LOCAL": str(local), "PYTHONPATH": str(project)}
        started = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True)
        said = started.stdout.read()
        _, status, used = os.wait4(started.pid, 0)
        seconds = time.perf_counter() - start
    if status or not said.startswith("good"):
        sys.exit(f"The check did not find the tree whole: {said}")
    gib = used.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    used_seconds = used.ru_utime + used.ru_stime
    return {"seconds": seconds, "cpu_seconds": used_seconds, "load_before": load, "peak_gib": gib}


def measure(who: str, root: Path) -> dict:
    """Run `ours` or `reference` in a process of its own."""
    command = [sys.executable, __file__, "--child", who, "--root", str(root)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def summary(turns: list[tuple[dict, dict]]) -> list[dict]:
    """One row a step: medians of the turns, and the median of their ratios."""
    names = {
        "index": "tables joined and checked: every image indexed",
        "reports": "every report read and split into sections",
        "slow reports": f"{SLOW_REPORTS:,} reports from storage that answers after 1 ms",
        "data hash": "data hash: size of every image, text of every report",
        "first identity": "identity of the data, first pass: every file hashed",
        "data check": "make data-check: tables, reports, size of every frontal image, header and end of 1,000",
        "identity": "identity of the data, later passes: size and time of every file",
    }
    rows = []
    for step, what in names.items():
        pairs = [(first["steps"].get(step), second["steps"][step]) for first, second in turns]
        row = {"what": what, "ours_seconds": statistics.median(mine["seconds"] for _, mine in pairs)}
        row |= {"reference_seconds": None, "ratio": None, "peak_gib": max(mine["peak_gib"] for _, mine in pairs)}
        if pairs[0][0]:
            row["reference_seconds"] = statistics.median(least["seconds"] for least, _ in pairs)
            row["ratio"] = statistics.median(least["seconds"] / mine["seconds"] for least, mine in pairs)
        row |= {name: statistics.median(mine[name] for _, mine in pairs)
                for name in ("cpu_seconds", "load_before") if name in pairs[0][1]}  # fmt: skip
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--root", type=Path, help="folder for the tree; kept, and used again if it is there")
    parser.add_argument("--child", choices=("ours", "reference"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(ours(args.root) if args.child == "ours" else reference(args.root)))
        return

    with tempfile.TemporaryDirectory() as temporary:
        root = args.root or Path(temporary) / "mimic"
        if not (root / "complete").exists():
            write_tree(root, args.images)
            (root / "complete").touch()
        turns = [(measure("reference", root), measure("ours", root)) for _ in range(args.rounds)]
        for _, mine in turns:
            mine["steps"]["data check"] = data_check(root)
    found, rows = turns[0][1]["images"], summary(turns)
    print(f"simulated MIMIC-CXR-JPG of {found:,} images")
    for row in rows:
        against = f"; reference {row['reference_seconds']:.1f} s" if row["reference_seconds"] else ""
        print(f"{row['ours_seconds']:7.1f} s, peak {row['peak_gib']:.2f} GiB: {row['what']}{against}")
    if args.json:
        from pkd_utils.runs import files, machine

        settings = {"images": found, "rounds": args.rounds, "limit_seconds": LIMIT_SECONDS, "limit_gib": LIMIT_GIB}
        report = {"name": "mimic_size", "machine": {"cpu": machine.device_name(), "pandas": pd.__version__},
                  "settings": settings, "rows": rows, "turns": turns}  # fmt: skip
        files.write_json(args.json, report)
    if found >= IMAGES and (rows[0]["ours_seconds"] > LIMIT_SECONDS or max(r["peak_gib"] for r in rows) > LIMIT_GIB):
        sys.exit(f"Indexing must take at most {LIMIT_SECONDS} s, and nothing more than {LIMIT_GIB} GiB.")


if __name__ == "__main__":
    main()
