"""The causal model of the simulated cohort: from a patient's state to findings, films, stays and outcomes.

Everything here is drawn in one process before any film is made, patient by patient from
`numpy.random.default_rng([seed, stream, patient])`. Equations and a diagram: `book/data/embedded-cohort.md`.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np

from pkd_utils.demo.chest.film import Body
from pkd_utils.demo.chest.findings import FINDINGS, VISIBLE, Lesion

SPLIT_SHARES = {"train": 0.69, "validate": 0.105, "test": 0.205}  # of patients; MIMIC-CXR's are 0.98 / 0.008 / 0.014
YEAR_GROUPS = ("2008 - 2010", "2011 - 2013", "2014 - 2016", "2017 - 2019", "2020 - 2022")
_STREAM_IDS, _STREAM_PATIENT, _STREAM_LESION, _STREAM_FILM, _STREAM_BODY = range(5)


@dataclass(frozen=True)
class FilmPlan:
    """One image to be: identifier, MIMIC's ViewPosition, the simulator's view, and exposure."""

    dicom_id: str
    position: str  # AP, PA, LATERAL or LL
    view: str  # AP, PA or LATERAL
    inspiration: float
    tilt: float
    seed: tuple


@dataclass
class Study:
    """One study: when, in which state, with which lesions, and its films."""

    study_id: int
    time: datetime
    age: float
    encounter: int
    portable: bool
    heart_failure: float
    infection: float
    immobility: float
    severity: dict[str, float]
    lesions: list[Lesion]
    heart_scale: float
    devices: tuple
    films: list[FilmPlan]


@dataclass
class Stay:
    """One hospital stay (a row of MIMIC-IV's admissions)."""

    hadm_id: int
    admitted: datetime
    discharged: datetime
    registered: datetime
    left_emergency: datetime
    emergency: bool
    died: bool
    location: str
    insurance: str


@dataclass
class Patient:
    """One patient with all studies and stays."""

    index: int
    subject_id: int
    split: str
    sex: str
    body: Body
    heart_disease: float
    anchor_age: int
    anchor_year: int
    year_group: str
    died: datetime | None = None
    race: str = "UNKNOWN"
    marital: str = ""
    studies: list[Study] = field(default_factory=list)
    stays: list[Stay] = field(default_factory=list)


def _logistic(x):
    return 1 / (1 + np.exp(-x))


def _clip(x):
    """Severity in [0, 1]; traces below 0.08 are nothing at all."""
    x = float(np.clip(x, 0, 1))
    return x if x >= 0.08 else 0.0


def unique_numbers(rng, low, high, count):
    """`count` different integers of [low, high), in random order."""
    numbers = np.unique(rng.integers(low, high, count + count // 8 + 64))
    while len(numbers) < count:
        numbers = np.unique(np.concatenate([numbers, rng.integers(low, high, count)]))
    return rng.permutation(numbers)[:count]


def _dicom_id(rng) -> str:
    return "-".join(f"{int(word):08x}" for word in rng.integers(0, 2**32, 5))


def split_names(patients: int, seed: int) -> list[str]:
    """Split of each patient; with three patients or more no split is empty."""
    order = np.random.default_rng([seed, _STREAM_IDS, 1]).permutation(patients)
    held = {s: max(round(SPLIT_SHARES[s] * patients), int(patients >= 3)) for s in ("validate", "test")}
    names = np.array(["train"] * patients, dtype=object)
    names[order[: held["test"]]] = "test"
    names[order[held["test"] : held["test"] + held["validate"]]] = "validate"
    return names.tolist()


def _severities(rng, state, heart_disease, infection_side):
    """Findings given the state: the structural equations of the model.

    Returns the severities per finding, and those of each side's effusion.
    """
    hf, infection, immobility = state
    cardiomegaly = _clip(0.95 * heart_disease**1.3 + 0.22 * hf - 0.20 + rng.normal(0, 0.06))
    edema = _clip(1.15 * hf - 0.14 + rng.normal(0, 0.09))
    consolidation = _clip(1.15 * infection - 0.10 + rng.normal(0, 0.07))
    fluid = {}
    for side, habit in (("right", 0.20), ("left", 0.26)):
        para = 0.50 * infection * (side == infection_side)
        fluid[side] = _clip(0.78 * hf + para + 0.28 * immobility - habit + rng.normal(0, 0.12))
    atelectasis = _clip(0.95 * immobility + 0.35 * max(fluid.values()) - 0.12 + rng.normal(0, 0.12))
    severity = dict(zip(FINDINGS, (atelectasis, cardiomegaly, consolidation, edema, max(fluid.values())), strict=True))
    return severity, fluid


def _lesions(severity, fluid, lobes, seed) -> list[Lesion]:
    """Lesions of a study; a lesion keeps its place and shape through an encounter, only its severity changes."""
    out = []
    for k, finding in enumerate(FINDINGS):
        if finding == "Pleural Effusion":
            for side in ("right", "left"):
                if fluid[side] > 0:
                    out.append(Lesion(finding, fluid[side], side, 0, (*seed, k, side == "left")))
        elif severity[finding] > 0:
            lobe = lobes.get(finding, 0)
            side = ("left" if lobe <= 2 else "right") if lobe else "bilateral"
            out.append(Lesion(finding, severity[finding], side, lobe, (*seed, k)))
    return out


def _first_state(rng, heart_disease, age):
    """Heart failure, infection and immobility at the start of an encounter, each 0..1."""
    hf = rng.beta(2.2, 1.8) if rng.random() < 0.10 + 0.62 * heart_disease else rng.beta(1, 9)
    infection = rng.beta(2.4, 1.8) if rng.random() < 0.22 + 0.0015 * (age - 50) else rng.beta(1, 12)
    immobility = rng.beta(2.0, 1.6) if rng.random() < 0.24 else rng.beta(1, 9)
    return np.array([hf, infection, immobility])


def _films(rng, portable, state, seed) -> list[FilmPlan]:
    """Which views are taken: sick patients get portable AP films, others PA and lateral."""
    if portable:
        views = [("AP", "AP")] * (2 if rng.random() < 0.10 else 1)
        if rng.random() < 0.04:
            views.append(("LATERAL", "LATERAL"))
    else:
        views = [("PA", "PA")]
        if rng.random() < 0.74:
            views.append((("LATERAL", "LL")[int(rng.random() < 0.3)], "LATERAL"))
    plans = []
    for k, (position, view) in enumerate(views):
        shallow = 0.30 * state[2] + 0.15 * state[0] if portable else 0.05
        inspiration = float(np.clip(rng.normal(0.86 - shallow, 0.10 if portable else 0.06), 0.2, 1))
        leaning = view == "AP" and rng.random() < 0.35
        tilt = float(rng.uniform(0.3, 0.8)) if leaning else 0.0
        plans.append(FilmPlan(_dicom_id(rng), position, view, inspiration, tilt, (*seed, k)))
    return plans


def _devices(rng, portable, state, pacemaker) -> tuple:
    names = ["pacemaker"] if pacemaker else []
    if portable:
        worst = float(state.max())
        names += ["endotracheal tube"] if rng.random() < 0.45 * max(0.0, worst - 0.35) / 0.65 else []
        names += ["central line"] if rng.random() < 0.08 + 0.35 * worst else []
        names += ["wires"] if rng.random() < 0.45 else []
    return tuple(names)


def _stay(rng, hadm_id, start, state, age, last_study):
    """A hospital stay around an encounter: its length depends weakly on the state, its rest is luck."""
    hf, infection, immobility = state
    days = np.exp(0.75 + 0.55 * hf + 0.65 * infection + 0.50 * immobility + 0.005 * (age - 60) + rng.normal(0, 0.6))
    emergency = bool(rng.random() < 0.7)
    registered = start - timedelta(hours=float(rng.uniform(1, 7)))
    discharged = max(start + timedelta(days=float(days)), last_study + timedelta(hours=float(rng.uniform(4, 30))))
    risk = _logistic(-5.2 + 1.6 * hf + 1.4 * infection + 0.6 * immobility + 0.03 * (age - 60))
    died = bool(rng.random() < risk)
    ill = 0.25 + 0.35 * max(state)
    location = "DIED"
    if not died:
        places = ["HOME", "HOME HEALTH CARE", "SKILLED NURSING FACILITY"]
        location = str(rng.choice(places, p=[1 - ill, ill / 2, ill / 2]))
    insurance = "Medicare" if age >= 65 else str(rng.choice(["Private", "Medicaid", "Other"]))
    moments = (start, discharged.replace(microsecond=0), registered, start + timedelta(hours=1))
    return Stay(hadm_id, *moments, emergency, died, location, insurance)


def simulate_patient(index, subject_id, split, study_ids, stay_ids, seed) -> Patient:
    """Draw one patient: constitution, encounters, studies, stays, death.

    `index`, the patient's number in the cohort, selects the random stream; `study_ids` and `stay_ids` are at least 16
    and 4 unused identifiers.
    """
    rng = np.random.default_rng([seed, _STREAM_PATIENT, index])
    study_ids, stay_ids = iter(study_ids), iter(stay_ids)
    sex = "F" if rng.random() < 0.48 else "M"
    age = float(np.clip(rng.normal(67, 14) if rng.random() < 0.75 else rng.normal(44, 14), 18, 96))
    heart_disease = float(np.clip(_logistic(-3.1 + 0.042 * age + 0.2 * (sex == "M") + rng.normal(0, 1.25)), 0, 1))
    body = Body(
        sex=sex,
        habitus=float(np.clip(rng.normal(1.02, 0.07), 0.88, 1.25)),
        width=float(np.exp(rng.normal(0.0 if sex == "M" else -0.03, 0.035))),
        height=float(np.exp(rng.normal(0.0 if sex == "M" else -0.03, 0.035) - 0.05 * max(0, age - 60) / 30)),
        seed=(seed, _STREAM_BODY, index),
    )
    heart_base = float(np.clip(rng.normal(0.82, 0.035), 0.74, 0.90))
    pacemaker = bool(age > 50 and rng.random() < 0.22 * heart_disease)
    start = datetime(int(rng.integers(2110, 2195)), 1, 1) + timedelta(minutes=int(rng.integers(0, 525600)))
    patient = Patient(
        index=index,
        subject_id=int(subject_id),
        split=split,
        sex=sex,
        body=body,
        heart_disease=heart_disease,
        anchor_age=91 if int(age) > 89 else int(age),
        anchor_year=start.year,
        year_group=str(rng.choice(YEAR_GROUPS, p=[0.10, 0.40, 0.40, 0.06, 0.04])),
        race=str(rng.choice(["WHITE", "BLACK/AFRICAN AMERICAN", "ASIAN", "HISPANIC OR LATINO", "OTHER", "UNKNOWN"])),
        marital=str(rng.choice(["MARRIED", "SINGLE", "WIDOWED", "DIVORCED", ""])),
    )
    for encounter in range(min(1 + int(rng.poisson(0.75)), 4)):
        age_now = int(age) + (start.year - patient.anchor_year)
        state = _first_state(rng, heart_disease, age_now)
        admitted = bool(rng.random() < 0.38 + 0.5 * float(state.max()))
        films_planned = min(1 + int(rng.poisson(0.95)), 4) if admitted else 1
        lobes = {
            "Consolidation": int(rng.choice([1, 2, 3, 4, 5], p=[0.14, 0.27, 0.17, 0.12, 0.30])),
            "Atelectasis": int(rng.choice([2, 5, 4], p=[0.48, 0.42, 0.10])),
        }
        time, now = start, state.copy()
        for _ in range(films_planned):
            infection_side = "left" if lobes["Consolidation"] <= 2 else "right"
            severity, fluid = _severities(rng, now, heart_disease, infection_side)
            lesion_seed = (seed, _STREAM_LESION, index, encounter)
            study_id = int(next(study_ids))
            portable = bool(rng.random() < (_logistic(-1.6 + 4.0 * float(now.max())) if admitted else 0.06))
            patient.studies.append(
                Study(
                    study_id=study_id,
                    time=time.replace(microsecond=0),
                    age=age_now,
                    encounter=encounter,
                    portable=portable,
                    heart_failure=float(now[0]),
                    infection=float(now[1]),
                    immobility=float(now[2]),
                    severity=severity,
                    lesions=_lesions(severity, fluid, lobes, lesion_seed),
                    heart_scale=heart_base + 0.44 * severity["Cardiomegaly"],
                    devices=_devices(rng, portable, now, pacemaker),
                    films=_films(rng, portable, now, (seed, _STREAM_FILM, index, study_id)),
                )
            )
            last = time
            time = time + timedelta(hours=float(rng.uniform(9, 60)))
            now = np.clip(0.86 * now + rng.normal(0, 0.13, 3), 0.01, 0.99)
        if admitted:
            # A quarter of first films are taken in the emergency room, before the admission.
            lead = float(rng.uniform(0.5, 20)) if rng.random() < 0.75 else -float(rng.uniform(0.5, 4))
            begin = (start - timedelta(hours=lead)).replace(microsecond=0)
            patient.stays.append(_stay(rng, int(next(stay_ids)), begin, state, age_now, last))
            if patient.stays[-1].died:
                patient.died = patient.stays[-1].discharged
                break
            last = max(last, patient.stays[-1].discharged)
        start = last + timedelta(days=float(rng.exponential(160) + 3))
    if patient.died is None and rng.random() < _logistic(-4.2 + 1.5 * heart_disease + 0.05 * (age - 60)):
        # MIMIC-IV knows deaths up to one year after the last discharge.
        patient.died = last + timedelta(days=float(rng.uniform(5, 360)))
    return patient


def simulate(patients: int, seed: int) -> list[Patient]:
    """Draw the whole cohort's latent history, in the order of the random streams; nothing is rendered.

    Identifiers are unique and carry no order.
    """
    rng = np.random.default_rng([seed, _STREAM_IDS])
    subject_ids = unique_numbers(rng, 10_000_000, 20_000_000, patients)
    study_ids = unique_numbers(rng, 50_000_000, 60_000_000, 16 * patients)
    stay_ids = unique_numbers(rng, 20_000_000, 30_000_000, 4 * patients)
    splits = split_names(patients, seed)
    return [
        simulate_patient(i, subject_ids[i], splits[i], study_ids[16 * i :][:16], stay_ids[4 * i :][:4], seed)
        for i in range(patients)
    ]


def visible(study: Study, finding: str) -> bool:
    """Whether a finding of a study is severe enough to be called (and to have a region)."""
    return study.severity[finding] >= VISIBLE
