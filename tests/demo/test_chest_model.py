"""The simulator inside: projection, lesions, warp, causal model, wording."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from pkd_utils.demo.chest import anatomy, causal, film, findings, reports
from pkd_utils.demo.chest.cohort import ChestCohort
from pkd_utils.runs import paths

BODY = film.Body(sex="M", habitus=1.0, width=1.0, height=1.0, seed=(5,))
NAMED = {  # words of which at least one is in any report that calls or denies the finding
    "Atelectasis": "atelecta",
    "Cardiomegaly": "cardiomegaly|cardiac|heart size",
    "Consolidation": "consolidation",
    "Edema": "edema",
    "Pleural Effusion": "effusion|pleural fluid",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "pneumothorax",
}


@pytest.fixture(scope="module")
def scene(chest_ct):
    ct = anatomy.load(chest_ct)
    return ct, {name: findings.Field(view.points) for name, view in ct.views.items()}


@pytest.fixture(scope="module")
def people():
    return causal.simulate(400, 1)


@pytest.fixture(scope="module")
def studies(people):
    return [study for patient in people for study in patient.studies]


def lesion(finding, side="bilateral", lobe=0, severity=0.9, seed=9):
    return findings.Lesion(finding, severity, side, lobe, (seed,))


CASES = [
    lesion("Atelectasis", "left", 2),
    lesion("Cardiomegaly"),
    lesion("Consolidation", "right", 3),
    lesion("Edema"),
    lesion("Pleural Effusion", "left"),
]


def test_one_lesion_adds_exactly_its_own_projection(scene):
    points = scene[1]["PA"]
    one = lesion("Consolidation", "right", 5)
    with_it, _ = findings.study_delta(points, [one], 0.82)
    without, _ = findings.study_delta(points, [], 0.82)
    at, fill = findings.lesion_fill(points, one)
    inside_lung = points.points.heart_scale[at] > 9 - 1e-6  # away from the heart, whose size is edited too
    at, fill = at[inside_lung], fill[inside_lung]
    alone = points.project(fill * np.clip(anatomy.MU_WATER - points.points.mu[at], 0, None), at)
    far = points.project(np.ones(len(points.points.mu)) * (points.points.heart_scale < 9)) == 0
    np.testing.assert_allclose((with_it - without)[far], alone[far], atol=1e-6)
    assert (with_it - without).min() > -1e-9


def test_overlapping_lesions_never_exceed_water(scene):
    points = scene[1]["AP"]
    many = [lesion("Pleural Effusion", "left", severity=1.0), lesion("Consolidation", "left", 2, 1.0), lesion("Edema")]
    total, _ = findings.study_delta(points, many, 0.82)
    water = np.maximum(anatomy.MU_WATER - points.points.mu, 0)
    heart = findings.study_delta(points, [], 0.82)[0]
    # The heart's edit may make lung of heart (mu falls); filling that again with water restores at most MU_WATER.
    bound = points.project(water) + points.project((points.points.tissue > 5) * anatomy.MU_WATER)
    assert (total - heart <= bound + 1e-6).all()


@pytest.mark.parametrize("view", anatomy.VIEWS)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.finding)
def test_a_finding_brightens_its_own_region(scene, view, case):
    ct, points = scene
    scale = 1.2 if case.finding == "Cardiomegaly" else 0.82
    sick = film.Film(view, BODY, 50, scale, [case], noise=0.01, seed=(3,))
    well = replace(sick, heart_scale=0.82, lesions=[replace(case, severity=0.0)])
    coordinates = film.warp_coordinates(sick)
    p_sick, _ = film.line_integrals(ct, points[view], sick)
    p_well, none = film.line_integrals(ct, points[view], well)
    assert none == {}
    change = film.warp(p_sick - p_well, coordinates)
    _, masks = film.expose(ct, points[view], sick)
    mask = masks[case.finding]
    assert mask.shape == film.IMAGE_SHAPE[view] and 60 < mask.sum() < 0.4 * mask.size
    assert change[mask].mean() > 6 * abs(change[~mask].mean()) > 0
    assert change[mask].sum() > 0.5 * change.clip(0).sum()


def test_sides_are_as_on_a_radiograph_and_the_heart_looks_larger_on_ap(scene):
    """The patient's left, and the heart's apex, are on the viewer's right."""
    ct, points = scene
    width = {}
    for view in ("AP", "PA"):
        centre = {}
        for side in ("left", "right"):
            one = film.Film(view, BODY, 50, 0.82, [lesion("Pleural Effusion", side)], seed=(3,))
            centre[side] = ndimage.center_of_mass(film.expose(ct, points[view], one)[1]["Pleural Effusion"])[1]
        assert centre["right"] + 60 < centre["left"]
        large = film.Film(view, BODY, 50, 1.1, [lesion("Cardiomegaly")], seed=(3,))
        heart = film.expose(ct, points[view], large)[1]["Cardiomegaly"]
        assert ndimage.center_of_mass(heart)[1] > film.IMAGE_SHAPE[view][1] / 2 + 8
        region = findings.study_delta(points[view], large.lesions, large.heart_scale)[1]["Cardiomegaly"]
        width[view] = np.ptp(np.flatnonzero(region.any(0)))
    assert width["AP"] > 1.08 * width["PA"]


def test_age_thins_bone_and_calcifies_the_aorta_and_noise_is_a_parameter(scene):
    ct, points = scene
    young, old = (film.line_integrals(ct, points["PA"], film.Film("PA", BODY, age, 0.82))[0] for age in (30, 90))
    bone, aorta = ct.views["PA"].bone, ct.views["PA"].aorta
    assert (old - young)[bone > 0.2].mean() < -0.05
    assert (old - young)[(bone < 0.01) & (aorta > 4)].mean() > 0.005
    plain = film.Film("AP", BODY, 50, 0.82, seed=(3,))
    quiet, loud = (film.expose(ct, points["AP"], replace(plain, noise=n))[0].astype(float) for n in (0.2, 3))
    assert np.diff(loud[20:60], 2, axis=1).std() > 1.8 * np.diff(quiet[20:60], 2, axis=1).std()


def test_sub_threshold_findings_have_no_region_and_small_islands_are_dropped(scene):
    weak = [replace(c, severity=0.2) for c in CASES]
    assert findings.study_delta(scene[1]["AP"], weak, 0.85)[1] == {}
    mask = np.zeros((20, 30), bool)
    mask[2:8, 3:9] = mask[12:14, 20:22] = True
    clean = findings.drop_islands(mask, 10)
    assert findings.component_boxes(clean) == [(3, 2, 6, 6)] and findings.component_boxes(mask)[1] == (20, 12, 2, 2)
    assert findings.component_boxes(np.zeros((4, 4), bool)) == []


def test_findings_occur_together_plausibly_and_are_called(studies):
    severity = np.array([[s.severity[f] for f in findings.FINDINGS] for s in studies])
    _, heart, consolidation, _, effusion = np.corrcoef(severity.T)
    assert effusion[3] > 0.4 and heart[3] > 0.15 and effusion[2] > 0.15 and abs(consolidation[3]) < 0.2
    there = severity >= findings.VISIBLE
    assert (there.mean(0) > 0.12).all() and (there.mean(0) < 0.55).all() and 0.15 < (~there).all(1).mean() < 0.5
    said = [reports.assertions(study, 1) for study in studies]
    called = np.array([[s.get(f) in (1.0, -1.0) for f in findings.FINDINGS] for s in said])
    for k, finding in enumerate(findings.FINDINGS):
        assert called[there[:, k], k].mean() > 0.88 and called[~there[:, k], k].mean() < 0.12, finding


def test_views_depend_on_state(studies):
    worst = np.array([max(s.heart_failure, s.infection, s.immobility) for s in studies])
    portable = np.array([s.portable for s in studies])
    assert portable[worst > 0.6].mean() > 2 * portable[worst < 0.3].mean()
    assert {f.position for s in studies for f in s.films} == {"AP", "PA", "LATERAL", "LL"}


def test_discharge_depends_weakly_on_state(people):
    days, state = [], []
    for patient in people:
        for stay in patient.stays:
            first = next(s for s in patient.studies if abs((s.time - stay.admitted).days) < 2)
            days.append((stay.discharged - first.time).total_seconds() / 86400)
            state.append(first.heart_failure + first.infection + first.immobility)
    assert 0.1 < np.corrcoef(np.log(days), state)[0, 1] < 0.6 and 0.2 < np.mean(np.array(days) <= 3) < 0.7


def test_nothing_happens_after_death_and_no_split_of_a_small_cohort_is_empty(people):
    dead = [p for p in people if p.died]
    assert dead and all(p.died >= p.studies[-1].time for p in dead)
    assert sorted(set(causal.split_names(3, 0))) == ["test", "train", "validate"]
    assert causal.split_names(1, 0) == ["train"]


def test_lesions_keep_their_place_within_an_encounter(people):
    for patient in people[:60]:
        seen = {}
        for study in patient.studies:
            for item in study.lesions:
                key = (study.encounter, item.finding, item.side if item.finding == "Pleural Effusion" else "")
                assert seen.setdefault(key, (item.seed, item.lobe)) == (item.seed, item.lobe)


def test_labels_do_not_depend_on_informativeness_but_text_does(people):
    pattern = r"\b(?:minimal|mild|moderate|severe|small|large|trace|left|right|bilateral|lobe)\b"
    details, said = [], []
    for told in (0.0, 0.5, 1.0):
        written = [reports.compose(p, s, None, told, 1) for p in people[:80] for s in p.studies]
        details.append(sum(len(re.findall(pattern, report.text, re.I)) for report in written))
        said.append([report.assertions for report in written])
    assert said[0] == said[1] == said[2]
    assert details[0] < 0.35 * details[1] and details[1] < 0.8 * details[2]


def test_report_says_what_its_labels_say(people):
    for patient in people[:150]:
        previous = None
        for study in patient.studies:
            report = reports.compose(patient, study, previous, 0.7, 1)
            flat = " ".join(report.text.split())
            body = re.split(r" (?:FINDINGS|IMPRESSION): ", flat, maxsplit=1)[1].lower()
            for label, words in NAMED.items():
                assert bool(re.search(words, body)) == (label in report.assertions), (label, body)
            for finding, phrase in report.phrases.items():
                assert phrase in flat and report.assertions[finding] in (1.0, -1.0)
            previous = study


def test_labeller_noise():
    said = {"Edema": 1.0, "Pleural Effusion": 0.0, "Support Devices": 1.0}
    exact = reports.read_labels(said, 0.0, 0, 50000001, "chexpert")
    assert exact["Edema"] == 1.0 and exact["Pleural Effusion"] == 0.0 and np.isnan(exact["No Finding"])
    assert np.isnan(exact["Atelectasis"])
    assert reports.read_labels({"Support Devices": 1.0}, 0.0, 0, 50000001, "negbio")["No Finding"] == 1.0
    wrong = {
        labeller: np.mean([reports.read_labels(said, 0.2, 0, i, labeller)["Edema"] != 1.0 for i in range(2000)])
        for labeller in ("chexpert", "negbio")
    }
    assert 0.16 < wrong["chexpert"] < 0.24 and 0.25 < wrong["negbio"] < 0.35


def test_the_page_counts_what_the_default_cohort_holds():
    """`book/data/embedded-cohort.md` states counts; they are those of the default cohort."""
    cohort = ChestCohort()
    people = cohort.patients_drawn
    films = [(p.split, f.position in ("AP", "PA")) for p in people for s in p.studies for f in s.films]
    frontal = [split for split, is_frontal in films if is_frontal]
    page = (paths.PROJECT_ROOT / "book" / "data" / "embedded-cohort.md").read_text()
    parts = " / ".join(f"{frontal.count(split):,}" for split in ("train", "validate", "test"))
    assert f"| all | {len(films):,} |" in page and f"| frontal (AP, PA) | {len(frontal):,} |" in page
    assert f"| train / validate / test, frontal | {parts} |" in page
    assert f"{cohort.patients} patients" in page and len(films) >= 3000 and len(frontal) >= 2400
    for name in ("report_informativeness", "noise", "label_noise", "train_box_share"):
        assert f"| `{name}` | {getattr(cohort, name)} |" in page
