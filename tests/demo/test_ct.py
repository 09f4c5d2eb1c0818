"""The simulated cohort in INSPECT's layout: its volumes show what its tables say, and it is whole or not there."""

import filecmp
import json
import re
from dataclasses import replace

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pkd_utils import demo
from pkd_utils.cohorts import load_cohort
from pkd_utils.cohorts.inspect import studies, tables
from pkd_utils.cohorts.tasks.build import INSPECT_TASKS, build_task
from pkd_utils.demo import build
from pkd_utils.demo.chest import causal, findings
from pkd_utils.demo.ct import volumes
from pkd_utils.demo.ct.cohort import CTCohort, embolism, plan
from pkd_utils.demo.ct.tables import FINDING_COLUMNS, MONTHS, STRAIN, SUBSEGMENTAL, impression, label_rows, write_tables
from pkd_utils.images.ct import radiograph
from pkd_utils.runs import paths
from pkd_utils.studies.reports import relations
from tests.demo.conftest import SMALL

VOXEL = SMALL["ct"]["voxel"]  # mm; coarser than the default, so that the tests are quick
BODY = causal.Body("M", 1.0, 1.0, 1.0, (0, 4, 0))
PLAIN = volumes.Scan(BODY, 50.0, 0.82, noise=0.0, seed=(1,))
STRAIGHT = volumes.VolumeGeometry("LAS", (0.0, 0.0, 0.0), ((0.0, 0.0),) * 3)


@pytest.fixture(scope="session")
def torso(chest_ct):
    return volumes.load(chest_ct, VOXEL)


@pytest.fixture(scope="session")
def points(torso):
    return findings.Field(torso.points)


@pytest.fixture(scope="session")
def scan(torso, points):
    """A function: a volume without noise, and its voxels in the order of the points."""

    def of(**changes):
        volume = volumes.make_volume(torso, points, replace(PLAIN, **changes))
        return volume, volume.ravel()[torso.points.pixel].astype(float)

    return of


@pytest.fixture(scope="module")
def root(small):
    return small("ct")


def table(root, name, **options):
    return pd.read_csv(root / name, sep="\t" if name.endswith(".tsv") else ",", dtype=str, **options)


# --- on disk


def test_the_2023_layout_has_the_same_content(root, tmp_path):
    other = build.ensure(CTCohort(release="2023", **SMALL["ct"]), tmp_path / "csv")
    assert {file.name for file in other.glob("Final_*")} == {
        *("Final_metadata.csv", "Final_labels.csv", "Final_splits.csv", "Final_Impressions.csv")
    }
    assert table(other, "Final_metadata.csv")["image_id"].str.endswith(".nii.gz").all()
    assert "Censored" not in (other / "Final_labels.csv").read_text()
    one, two = (load_cohort("inspect", r, pixels="ct") for r in (root, other))
    assert "2025" in one.info.title and "2023" in two.info.title
    pd.testing.assert_frame_equal(one.images, two.images)
    pd.testing.assert_frame_equal(one.privileged, two.privileged)
    assert filecmp.cmpfiles(root, other, one.images["path"], shallow=False)[0] == one.images["path"].tolist()


def test_the_loader_reads_it(root):
    cohort = load_cohort("inspect", root, pixels="ct")
    assert cohort.info.simulated and "Simulated" in cohort.info.title and cohort.info.shareable_images
    assert nibabel.load(root / cohort.images["path"].iloc[0]).get_data_dtype() == np.int16
    assert max(f.stat().st_size for f in (root / "CTPA").iterdir()) < 1e6
    assert set(cohort.images["study_id"]) <= set(relations.read_state(root).index)
    # No number in the tables has the form of MIMIC's.
    assert cohort.images["study_id"].str.len().eq(9).all() and cohort.images["patient_id"].str.len().eq(9).all()


def test_the_releases_defects_are_there_and_can_be_left_out(root, tmp_path):
    steps = load_cohort("inspect", root, pixels="ct").funnel.set_index("step")
    counts = json.loads((root / "cohort.json").read_text())["counts"]
    assert steps.iloc[0]["rows"] == counts["studies"] + 1
    assert steps.loc["one row an impression", "note"] == "repeated ids: 1 in splits, 1 in studies; collapse"
    assert steps.loc["CT volume there", "rows"] == counts["volumes"] == counts["studies"] - 1
    assert steps.loc["time known (others kept)", "rows"] == counts["studies"] - counts["without time"]
    assert counts["without time"] >= 1
    clean = build.ensure(CTCohort(faults=0, **SMALL["ct"]), tmp_path / "clean")
    steps = load_cohort("inspect", clean, pixels="ct").funnel
    assert set(steps.loc[:2, "rows"]) == {counts["studies"]} and set(steps.loc[8:9, "rows"]) == {counts["studies"]}


# --- volumes


def test_six_ways_to_store_a_scan_show_the_same_patient_and_give_one_radiograph(scan, tmp_path):
    volume, _ = scan()
    for codes in volumes.ORIENTATIONS:
        image = volumes.orient(volume, VOXEL, PLAIN, replace(STRAIGHT, codes=codes))
        assert "".join(nibabel.aff2axcodes(image.affine)) == codes
        canonical = np.asanyarray(nibabel.as_closest_canonical(image).dataobj)  # R, A, S
        np.testing.assert_array_equal(canonical, volume[::-1])
        np.testing.assert_allclose(nibabel.affines.voxel_sizes(image.affine), [VOXEL] * 3, rtol=1e-6)
        (tmp_path / f"{codes}.nii.gz").write_bytes(volumes.compress(image))
    files = sorted(tmp_path.glob("*.nii.gz"))
    radiograph.reconstruct(files, tmp_path / "jpg", projector_name="parallel")
    pictures = [np.asarray(Image.open(file), float) for file in sorted((tmp_path / "jpg").glob("*.jpg"))]
    assert len(pictures) == 6
    # Own projection, head up and the patient's left on the viewer's right; a mirrored picture would fit it worse.
    own = np.clip(1 + volume / 1000, 0, None).sum(axis=1).T[::-1].astype(np.float32)
    own = np.asarray(Image.fromarray(own).resize(pictures[0].shape[::-1])).astype(float)
    others = [*pictures[1:], own, own[:, ::-1], own[::-1]]
    fits = [np.corrcoef(pictures[0].ravel(), image.ravel())[0, 1] for image in others]
    assert min(fits[:5]) > 0.999 and fits[5] > 0.9 and fits[5] > max(fits[6:]) + 0.01, fits


def test_size_is_in_the_spacing_and_pose_in_the_affine(scan):
    volume, _ = scan()
    body = causal.Body("M", 1.1, 0.9, 0.8, (0, 4, 0))
    geometry = volumes.VolumeGeometry("ALS", (5.0, -3.0, 2.0), ((0.0, 0.0), (0.0, 0.1), (0.2, 0.0)))
    image = volumes.orient(volume, 4.0, replace(PLAIN, body=body), geometry)
    shape = np.array(volume.shape) - [0, round(0.1 * volume.shape[1]), round(0.2 * volume.shape[2])]
    assert image.shape == tuple(shape[[1, 0, 2]])
    np.testing.assert_allclose(nibabel.affines.voxel_sizes(image.affine), [4 * 0.9 * 1.1, 3.6, 3.2], rtol=1e-6)
    assert not np.allclose(np.abs(image.affine[:3, :3]).astype(bool).sum(), 3) and image.header["qform_code"] == 1
    drawn = [volumes.draw_geometry((s,)) for s in range(300)]
    assert {g.codes for g in drawn} == set(volumes.ORIENTATIONS)
    assert 0.25 < np.mean([any(g.angles) for g in drawn]) < 0.42
    assert 0.10 < np.mean([any(map(any, g.crop)) for g in drawn]) < 0.24


def test_anatomy_is_where_it_belongs(torso, scan):
    volume, _ = scan()
    ox, oy, oz = torso.origin.round().astype(int)
    right_dome, left_dome = torso.domes / VOXEL + torso.origin[2]
    assert right_dome > left_dome + 2  # the liver lifts the right side
    below = round((right_dome + left_dome) / 2)
    liver, lung = ((volume[ox + round(x / VOXEL), :, below] > -100).sum() for x in (-70, 70))
    assert liver > lung + 2
    spine = volume[ox, : oy - round(40 / VOXEL), oz].max()
    assert spine > 150 and volume.min() >= -1024 and volume.max() <= 3071
    heart = torso.points.xyz[torso.points.tissue == 6]
    assert heart[:, 0].mean() > 10 and heart[:, 1].mean() > 0  # to the left and in front
    left, right, aorta = (np.argwhere(torso.arteries == code).mean(0) - torso.origin for code in (1, 2, 3))
    assert left[0] > 0 > right[0] and right[0] < aorta[0] < left[0] and abs(left[2]) * VOXEL < 40


@pytest.mark.parametrize("finding", ["Pleural Effusion", "Consolidation", "Atelectasis", "Edema"])
def test_a_finding_is_drawn_where_its_lesion_says(torso, points, scan, finding):
    lobe = 5 if finding in ("Consolidation", "Atelectasis") else 0
    side = "bilateral" if finding == "Edema" else "right"
    lesion = findings.Lesion(finding, 0.8, side, lobe, (5,))
    _, healthy = scan()
    _, ill = scan(lesions=[lesion])
    change = ill - healthy
    right, left = points.side["right"], points.side["left"]
    assert change[right].mean() > 15
    if finding == "Edema":
        assert change[left].mean() > 15
    elif finding != "Atelectasis":  # whose diaphragm rises, which moves what lies above it
        assert abs(change[left].mean()) < 0.1 * change[right].mean()
    if finding == "Pleural Effusion":  # the patient lies on the back
        y = torso.points.xyz[right, 1]
        behind, front = change[right][y < np.quantile(y, 0.2)], change[right][y > np.quantile(y, 0.8)]
        assert behind.mean() > 5 * max(front.mean(), 1)


def test_an_embolism_takes_contrast_from_its_side_and_widens_the_heart(torso, scan):
    healthy, _ = scan()
    clotted, _ = scan(burden=0.8, side="right")
    # The warp moves vessels by about a voxel, so their surroundings count too.
    for code, filled in ((2, True), (1, False)):
        at = torso.arteries == code
        lost = healthy[at].astype(float) - clotted[at]
        assert (lost.mean() > 60) == filled and (filled or abs(lost.mean()) < 10)
    exams = [e for mine in plan(80, 0) for e in mine]
    burdens = np.array([e.scan.burden for e in exams])
    assert 0.1 < (burdens > 0).mean() < 0.35 and burdens.max() <= 1 and burdens[burdens > 0].min() >= 0.15
    wider = np.array([e.scan.heart_scale - e.study.heart_scale for e in exams])
    np.testing.assert_allclose(wider, 0.10 * burdens)
    still = np.array([e.study.immobility for e in exams])
    assert still[burdens > 0].mean() > still[burdens == 0].mean() + 0.1
    _, large = scan(heart_scale=1.25)
    assert (large > 0).sum() > (scan()[1] > 0).sum() + 0.1 * (torso.points.tissue == 6).sum()


def test_noise_is_what_it_is_said_to_be(scan):
    quiet, _ = scan()
    noisy, _ = scan(noise=20.0)
    difference = (noisy.astype(float) - quiet)[quiet > -900]
    assert 19 < difference.std() < 21 and abs(difference.mean()) < 1
    assert (noisy[quiet < -985] == quiet[quiet < -985]).all()  # air around the body


# --- tables


@pytest.fixture(scope="module")
def exams():
    return [exam for mine in plan(150, 1) for exam in mine]


def test_impressions_assert_the_embolism_and_labels_repeat_it(exams):
    labels = label_rows(exams, 1, noise=0.0).set_index("impression_id")
    for exam in exams:
        text = impression(exam, 0.7, 1)
        called = labels.loc[exam.impression_id, "pe_positive"]
        assert text.startswith("1. ") and "\n" not in text and "  " not in text
        denied = any(words in text for words in ("No pulmonary embolism", "No evidence of pulm", "Negative for acute"))
        assert called != denied and ("pulmonary embolism" in text)
    assert (labels["pe_positive_nlp"] == labels["pe_positive"]).all()
    misread = label_rows(exams, 1, noise=0.3).set_index("impression_id")
    share = (misread["pe_positive_nlp"] != misread["pe_positive"]).mean()
    assert 0.2 < share < 0.4 and (misread["pe_positive"] == labels["pe_positive"]).all()
    burden = pd.Series({exam.impression_id: exam.scan.burden for exam in exams})
    assert labels.loc[burden > 0.6, "pe_positive"].all() and not labels.loc[burden == 0, "pe_positive"].mean() > 0.03
    assert (burden[labels["pe_subsegmentalonly"]] < SUBSEGMENTAL).all()


def test_informativeness_changes_words_and_each_encounter_has_one_scan(exams):
    terse, full = ([impression(exam, told, 1) for exam in exams] for told in (0.0, 1.0))
    assert sum(map(len, full)) > 1.3 * sum(map(len, terse))
    assert not any("strain" in text for text in terse) and any("strain" in text for text in full)
    assert len({(exam.person_id, exam.study.encounter) for exam in exams}) == len(exams)
    assert len({exam.image_id for exam in exams}) == len(exams)
    for exam in exams:
        assert re.fullmatch(r"PE[0-9a-f]{7}", exam.image_id)
        assert exam.study == next(s for s in exam.patient.studies if s.encounter == exam.study.encounter)


def test_outcomes_agree_with_their_times(exams):
    labels = label_rows(exams, 1, noise=0.0)
    for column in ("12_month_PH", "12_month_readmission"):  # commoner than in INSPECT, which is larger
        assert (labels[column] == "True").mean() > 1.5 * studies.POSITIVE[column] / studies.RELEASED["studies"]
    assert {"True", "False", "Censored"} == set(labels["12_month_PH"]) == set(labels["12_month_readmission"])
    for name in ("readmission", "mortality"):
        for months, days in MONTHS.items():
            if (months, name) == ("12_month", "readmission"):
                continue
            value, minutes = labels[f"{months}_{name}"], labels[f"tte_{name}"]
            happened = ~labels[f"is_censored_{name}"]
            assert (value[happened & (minutes <= days * 1440)] == "True").all()
            assert (value[minutes > days * 1440] == "False").all()
            assert (value[~happened & (minutes < days * 1440)] == "Censored").all()
    alive = labels["is_censored_mortality"]
    followed = labels[["tte_readmission", "tte_PH"]].max(axis=1)
    assert alive.any() and (labels["tte_mortality"] == followed)[alive].all()
    early = labels["12_month_readmission"] == "True"
    assert (labels.loc[early, "tte_readmission"] <= 365 * 1440).all()
    assert (labels.loc[labels["1_month_readmission"] == "True", "12_month_readmission"] == "True").all()
    assert (labels.filter(like="tte_") >= 0).all(axis=None)
    columns = ["mortality", "readmission", "PH", *FINDING_COLUMNS.values()]
    assert {f"tte_{c}" for c in columns} | {f"is_censored_{c}" for c in columns} <= set(labels.columns)


def test_the_three_tasks_can_be_built(exams, tmp_path):
    (tmp_path / "SIMULATED.txt").write_text("simulated")
    write_tables(tmp_path, CTCohort(patients=150, seed=1))
    cohort = load_cohort("inspect", tmp_path, pixels="none")
    for name in INSPECT_TASKS:
        task = build_task(name, cohort)
        assert min(task.counts.values()) >= 20 and len(task.table) <= len(exams)
    assert cohort.images["split"].value_counts(normalize=True)["train"] > 0.55


# --- through the reconstruction, and what the page says


def test_volumes_become_radiographs_that_the_loader_finds(root):
    scans = load_cohort("inspect", root, pixels="ct")
    files = [scans.image_path(image_id) for image_id in scans.images["image_id"]]
    done = radiograph.reconstruct(files, root / "radiographs", projector_name="parallel")
    assert (done["status"] == "done").all()
    cohort = load_cohort("inspect", root)
    assert cohort.images["image_id"].tolist() == scans.images["image_id"].tolist()
    assert cohort.has_images and min(cohort.image_size(cohort.images["image_id"].iloc[0])) > 100
    assert cohort.funnel.set_index("step").loc["reconstructed radiograph there", "note"] == "1 without"
    assert demo.verify(root) == []  # what was made of the cohort is no part of it


def test_the_page_says_what_the_code_does():
    page = " ".join((paths.PROJECT_ROOT / "book" / "data" / "inspect.md").read_text().split())
    exams = sum(map(len, plan(CTCohort().patients, 0)))
    assert f"{CTCohort().patients} patients with {exams} scans" in page
    for name, paper in studies.BALANCED.items():
        positive = studies.POSITIVE[name]
        assert f"| {positive:,} | {2 * positive:,} | {paper:,} |" in page
    released = studies.RELEASED
    assert f"{released['studies']:,} studies, of which {released['volumes']:,} have a volume" in page
    assert f"{released['train']:,} / {released['validate']:,} / {released['test']:,} in train" in page
    assert released["train"] + released["validate"] + released["test"] == released["volumes"]
    for names in tables.RELEASES.values():
        assert all(f"`{accepted[0]}`" in page or f"`{accepted[-1]}`" in page for accepted in names.values())
    score = re.search(r"sigma\((.+?)\)", page)[1]
    constant, *weights = (float(number.replace(" ", "")) for number in re.findall(r"[-+]? ?\d\.\d", score))
    study = causal.simulate(1, 0)[0].studies[0]
    for state, weight in (((0, 0, 0), 0.0), *zip(np.eye(3), weights, strict=True)):
        named = dict(zip(("immobility", "infection", "heart_failure"), state, strict=True))
        drawn = [embolism(np.random.default_rng(k), replace(study, **named))[0] for k in range(4000)]
        assert abs(np.mean(np.array(drawn) > 0) - 1 / (1 + np.exp(-constant - weight))) < 0.03
    assert f"h + {STRAIN:g}\\,b" in page
    assert f"errs in {100 * CTCohort().label_noise:.0f} %" in page
    assert f"voxels of {CTCohort().voxel:.0f} mm" in page
