"""The simulated mammography cohort: the real table behind it, its pictures, its layout, and that all says simulated."""

import copy
import functools
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pydicom
import pytest
from scipy import ndimage

from pkd_utils.cohorts import load_cohort
from pkd_utils.demo.breast import anatomy, birads, cbis_layout, lesions
from pkd_utils.demo.breast.cases import CALC_SHARES, PATHOLOGY, USUAL_MASS, calc_cases, mass_cases
from pkd_utils.demo.breast.cohort import BreastCohort, draw, write_tables
from pkd_utils.runs.errors import DataError
from tests.demo.conftest import SMALL

SHAPES, MARGINS = list(birads.SHAPES.values()), list(birads.MARGINS.values())
TYPES = sorted({word for kind in CALC_SHARES["calc type"] for word in kind.split("-")})


@pytest.fixture(scope="module")
def cohort(small):
    return small("breast")


def tree(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


# The real table


def test_the_real_table(birads_table):
    table = birads_table
    assert len(table) == birads.ROWS and table.index[0] == 1 and table["severity"].sum() == 403
    assert table["birads"].value_counts().to_dict() == {4: 468, 5: 316, 3: 24, 6: 9, 2: 7, 0: 5, 55: 1}
    assert table["assessment"].between(0, 5).all()
    assert (table.loc[table["birads"].isin([6, 55]), "assessment"] == 5).all()
    # Published medicine, which a shifted column or a swapped code would break.
    malignant = table.groupby("margin")["severity"].mean()
    assert malignant["SPICULATED"] > 0.8 and malignant["CIRCUMSCRIBED"] < 0.15
    assert table.groupby("shape")["severity"].mean()["IRREGULAR"] > 0.75
    first = table.loc[1, ["birads", "age", "shape", "margin", "mass_density", "severity"]].tolist()
    assert first == [5, 67, "LOBULATED", "SPICULATED", 3, 1]


# Who is in it


def test_every_row_of_the_table_is_one_mammogram(birads_table):
    cases = mass_cases(birads_table, seed=0)
    assert [case.table_row for case in cases] == list(birads_table.index)
    for case, row in zip(cases, birads_table.itertuples(), strict=True):
        assert case.descriptors == (row.shape, row.margin) and (case.pathology == "MALIGNANT") == (row.severity == 1)
        assert (case.age, case.mass_density, case.assessment) == (row.age, row.mass_density, row.assessment)
        assert (case.pathology == "BENIGN_WITHOUT_CALLBACK") == (row.severity == 0 and row.assessment in (2, 3))
    frame = pd.DataFrame(vars(case) for case in cases)
    assert frame["split"].eq("train").mean() == pytest.approx(0.78, abs=0.005)
    assert {*frame["side"]} == {"LEFT", "RIGHT"} and {*frame["view"]} == {"CC", "MLO"}
    # Nothing that is drawn knows the outcome: the usual size knows the shape, breast density knows age.
    shape = frame["descriptors"].str[0]
    usual = pd.DataFrame(USUAL_MASS, index=["radius", "contrast"]).T.loc[shape].reset_index(drop=True)
    for drawn in (frame["radius"] / usual["radius"], frame["contrast"] / usual["contrast"], frame["subtlety"]):
        assert abs(np.corrcoef(drawn, frame["pathology"] == "MALIGNANT")[0, 1]) < 0.07
    assert frame.groupby(shape)["radius"].mean()["IRREGULAR"] > 1.2 * frame.groupby(shape)["radius"].mean()["ROUND"]
    assert -0.6 < np.corrcoef(frame["breast_density"], frame["age"])[0, 1] < -0.25
    assert frame["breast_density"].value_counts().min() > 30 and {*frame["subtlety"]} == {1, 2, 3, 4, 5}
    assert 0.08 < np.mean([cbis_layout.swapped(case, 0) for case in cases]) < 0.22


def test_fewer_rows_are_some_of_the_same_persons(birads_table):
    whole = {case.number: case for case in mass_cases(birads_table, 5)}
    few = mass_cases(birads_table, 5, 30)
    assert len(few) == 30 and {case.split for case in few} == {"train", "test"}
    assert all(replace(case, split="") == replace(whole[case.number], split="") for case in few)


def test_calcification_patients_keep_their_words_on_both_views():
    cases = calc_cases(seed=1, cases=601)
    assert len(cases) == 601
    frame = pd.DataFrame(vars(case) for case in cases)
    per = frame.groupby("number")
    for name in ("side", "descriptors", "pathology", "assessment", "breast_density", "subtlety", "radius", "split"):
        assert (per[name].nunique() == 1).all(), name
    assert (per["view"].nunique() == per.size()).all() and per.size().value_counts(normalize=True)[2] > 0.75
    patients = per.first()
    assert patients["split"].eq("train").mean() == pytest.approx(0.78, abs=0.01)
    shares = patients["pathology"].value_counts(normalize=True)
    for name, share in CALC_SHARES["pathology"].items():
        assert shares[name] == pytest.approx(share, abs=0.08)
    assert {kind for kind, _ in frame["descriptors"]} >= set(TYPES) - {"LUCENT_CENTER"}
    for column in ("calc type", "calc distribution", "assessment"):
        assert np.sum(list(CALC_SHARES[column].values()), axis=0) == pytest.approx(1), column


@pytest.mark.shared
def test_shares_are_near_those_of_the_real_tables(shared_data):
    files = [shared_data / "cbis-ddsm" / f"calc_case_description_{split}_set.csv" for split in ("train", "test")]
    real = pd.concat([pd.read_csv(file, keep_default_na=False) for file in files])
    for column in ("calc distribution", "assessment"):
        for at, name in enumerate(PATHOLOGY):
            found = real.loc[real["pathology"] == name, column].replace("NA", "").value_counts(normalize=True)
            for value, shares in CALC_SHARES[column].items():
                assert shares[at] == pytest.approx(found.get(value, 0), abs=0.05), (column, name, value)


# The pictures


@functools.cache
def made_once(seed, density, view, rows):
    rng = np.random.default_rng(seed)
    return anatomy.make(anatomy.draw_woman(rng, density), view, rows, rng), rng


def body(seed=0, density=2, view="CC", rows=160):
    """A breast, and a generator of its own as the making left it."""
    return made_once(seed, density, view, rows)[0], copy.deepcopy(made_once(seed, density, view, rows)[1])


def mass(shape, margin, radius, made, rng):
    return lesions.mass(made, shape, margin, 3, radius, 1.0, rng, lesions.place(made, radius, rng))


def calcifications(kind, distribution, size, made, rng):
    return lesions.calcifications(made, kind, distribution, size, 1.0, rng, lesions.place(made, size, rng))


def test_power_law_has_its_slope():
    window = np.outer(np.hanning(224), np.hanning(224))
    fields = [anatomy.power_law(np.random.default_rng(seed), (224, 224), 3.0) for seed in range(8)]
    power = np.mean([np.abs(np.fft.fft2(field * window)) ** 2 for field in fields], 0)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(224), np.fft.fftfreq(224)))
    edges = np.geomspace(0.03, 0.3, 9)
    rings = [power[(radius >= a) & (radius < b)].mean() for a, b in pairwise(edges)]
    slope = np.polyfit(np.log(np.sqrt(edges[:-1] * edges[1:])), np.log(rings), 1)[0]
    assert slope == pytest.approx(-3.0, abs=0.25)


def test_denser_breasts_have_more_glandular_tissue():
    shares = []
    for density in (1, 2, 3, 4):
        made = [body(seed, density)[0] for seed in range(6)]
        shares.append(np.mean([b.gland[b.inside].mean() for b in made]))
    assert np.all(np.diff(shares) > 0.04)


def test_only_oblique_views_have_a_pectoral_muscle():
    for seed in range(4):
        cc, mlo = body(seed, view="CC")[0], body(seed, view="MLO")[0]
        assert not cc.pectoral.any() and 0.03 < mlo.pectoral.sum() / mlo.inside.sum() < 0.4
        rows = np.flatnonzero(mlo.pectoral[:, 0])
        assert rows[0] == 0 and mlo.pectoral[0].sum() > mlo.pectoral[rows[-1] // 2].sum()
        assert mlo.inside[0].any() and not cc.inside[0].any()
        for made in (cc, mlo):  # one piece, attached to the left edge
            assert ndimage.label(made.inside)[1] == 1 and made.inside[:, 0].sum() > 60 and not made.inside[:, -1].any()
            assert (made.skin[~made.inside] == 0).all()


def test_film_is_dark_outside_and_noise_is_a_parameter():
    made, _ = body(1)
    films = [anatomy.develop(made.path, made.inside, np.random.default_rng(0), noise) for noise in (0, 1, 4)]
    still, image, rougher = films
    assert image.dtype == np.uint16 and image[~made.inside].mean() < 0.12 * 65535 < image[made.skin > 15].mean()
    error, rough = (np.abs(made_of - still.astype(float))[made.inside].mean() for made_of in (image, rougher))
    assert error > 500 and rough > 3 * error  # of 65,535


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_mask_is_where_the_mass_is(shape, margin):
    made, rng = body(2, rows=256)
    centre = lesions.place(made, 12.0, rng)
    lesion = lesions.mass(made, shape, margin, 3, 12.0, 1.0, rng, centre)
    assert lesion.mask[centre] and ndimage.label(lesion.mask)[1] == 1
    inside = lesion.path[lesion.mask].mean()
    away = ndimage.binary_dilation(lesion.mask, iterations=3)
    outside = lesion.path[~away & made.inside].mean()
    assert inside > 0.1 and inside > 8 * outside
    assert lesion.path[lesion.mask].sum() > (0.6 if margin == "SPICULATED" else 0.75) * lesion.path.sum()


def edge_sharpness(margin, seed):
    """Steepest fall of the mean profile across the outline of a round mass, over its height."""
    made, rng = body(seed, rows=256)
    lesion = mass("ROUND", margin, 12.0, made, rng)
    inside, outside = (ndimage.distance_transform_edt(mask) for mask in (lesion.mask, ~lesion.mask))
    distance = outside - inside
    profile = [lesion.path[(distance > d) & (distance <= d + 2)].mean() for d in range(-8, 8, 2)]
    return -np.diff(profile).min() / max(profile)


def roughness(shape, margin, seed):
    made, rng = body(seed, rows=224)
    mask = mass(shape, margin, 14.0, made, rng).mask
    return (mask & ~ndimage.binary_erosion(mask)).sum() ** 2 / mask.sum()


def test_margins_and_shapes_differ():
    sharp = {name: np.mean([edge_sharpness(name, seed) for seed in range(3)]) for name in MARGINS}
    assert sharp["CIRCUMSCRIBED"] > 1.1 * max(sharp["ILL_DEFINED"], sharp["OBSCURED"], sharp["SPICULATED"])
    rough = {name: np.mean([roughness(name, "CIRCUMSCRIBED", seed) for seed in range(5)]) for name in SHAPES}
    assert rough["ROUND"] < min(rough["OVAL"], rough["LOBULATED"]) < rough["IRREGULAR"]
    assert max(rough["OVAL"], rough["LOBULATED"]) < rough["IRREGULAR"]
    assert np.mean([roughness("ROUND", "MICROLOBULATED", seed) for seed in range(5)]) > 1.2 * rough["ROUND"]


def test_spiculated_masses_reach_beyond_their_outline():
    made, _ = body(4, rows=320)
    reach = {}
    for margin in ("SPICULATED", "CIRCUMSCRIBED", "ILL_DEFINED"):
        lesion = lesions.mass(made, "ROUND", margin, 3, 10.0, 1.0, np.random.default_rng(1), (160.0, 70.0))
        row, col = np.indices(lesion.path.shape)
        ring = np.abs(np.hypot(row - 160, col - 70) * made.pixel - 17) < 1
        reach[margin] = lesion.path[ring].std() / lesion.path.max()
    assert reach["SPICULATED"] > 5 * max(reach["CIRCUMSCRIBED"], reach["ILL_DEFINED"])


def test_dense_masses_are_brighter_and_fat_has_a_lucent_centre():
    made, _ = body(5)
    added = {}
    for density in (1, 2, 3, 4):
        lesion = lesions.mass(made, "OVAL", "CIRCUMSCRIBED", density, 12.0, 1.0, np.random.default_rng(2), (80, 30))
        added[density] = lesion.path[lesion.mask].mean()
        assert (lesion.path[80, 30] < 0) == (density == 4)
    assert added[1] > added[2] > added[3] > added[4]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("distribution", list(CALC_SHARES["calc distribution"]))
def test_the_mask_covers_the_calcifications(kind, distribution):
    made, rng = body(6, rows=192)
    lesion = calcifications(kind, distribution, 8.0, made, rng)
    assert lesion.path.min() >= 0 and lesion.path.max() > 0.2
    assert lesion.path[lesion.mask].sum() > 0.97 * lesion.path.sum()
    assert not lesion.mask[~made.inside].any() and ndimage.label(lesion.mask)[1] == 1


def test_distributions_differ_in_extent():
    areas = {}
    for distribution in ("CLUSTERED", "REGIONAL", "DIFFUSELY_SCATTERED"):
        masks = [calcifications("PUNCTATE", distribution, 8.0, *body(seed, rows=256)).mask for seed in range(5)]
        areas[distribution] = np.mean(masks)
    assert areas["CLUSTERED"] < areas["REGIONAL"] < areas["DIFFUSELY_SCATTERED"]
    mask = calcifications("PUNCTATE", "LINEAR", 10.0, *body(0, rows=256)).mask
    long, wide = np.linalg.eigvalsh(np.cov(np.argwhere(mask).T))[::-1] ** 0.5
    assert long > 2 * wide


def test_a_lesion_that_finds_no_place_is_refused():
    made, rng = body()
    with pytest.raises(DataError, match="finds no place"):
        lesions.place(made, 500, rng)


# On disk


def cases_of(root):
    return pd.concat([pd.read_csv(file, keep_default_na=False) for file in sorted(root.glob("*_set.csv"))])


def test_layout_is_that_of_tcia_and_its_pictures_agree(cohort):
    metadata = pd.read_csv(cohort / "metadata.csv", dtype=str).set_index("Series UID")
    truth = pd.read_csv(cohort / "truth.csv").set_index("case")
    cases = cases_of(cohort)
    assert len(cases) == 15 and len(metadata) == 30
    for row in cases.to_dict("records"):
        paths = {name: row[f"{name} file path"] for name in ("image", "cropped image", "ROI mask")}
        nominal = 2 if row["abnormality type"] == "mass" else 1  # file of the mask, if it is not swapped
        broken = "ROI mask" if nominal == 2 else "cropped image"
        assert {name for name, path in paths.items() if path.endswith("000001.dcm\n")} == {broken}
        name, study, series, _ = paths["image"].split("/")
        part = metadata.loc[series]
        assert (part["Study UID"], part["Subject ID"]) == (study, name)
        assert part["File Location"].endswith(
            f"/CBIS-DDSM/{name}/01-01-2000-DDSM-NA-{study[-5:]}/1.000000-full mammogram images-{series[-5:]}"
        )
        assert tree(cohort / part["File Location"]) == ["1-1.dcm"]
        roi_folder, _, roi_series, _ = paths["ROI mask"].split("/")
        assert roi_folder == f"{name}_1" and roi_series == paths["cropped image"].split("/")[2]
        roi = metadata.loc[roi_series]
        assert tree(cohort / roi["File Location"]) == ["1-1.dcm", "1-2.dcm"] and roi["Number of Images"] == "2"
        assert roi["Series Description"] == "ROI mask images"

        header = pydicom.dcmread(cohort / part["File Location"] / "1-1.dcm")
        assert header.PhotometricInterpretation == "MONOCHROME2" and header.Modality == "MG"
        assert header.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1" and header.PatientID == name
        assert len(header.SOPInstanceUID) <= 64 and str(header.PatientName) == "SIMULATED"
        image = header.pixel_array
        two = [pydicom.dcmread(cohort / roi["File Location"] / f"1-{n}.dcm").pixel_array for n in (1, 2)]
        at = int(two[1].dtype == np.uint8)
        mask, crop = two[at], two[1 - at]
        assert image.shape == mask.shape == (128, 102) and image.dtype == crop.dtype == np.uint16
        assert set(np.unique(mask)) == {0, 255} and truth.loc[name, "mask_pixels"] == (mask > 0).sum()
        assert np.array_equal(image[cbis_layout.crop_box(mask > 0, round(4 / 2.0))], crop)
        assert (at + 1 != nominal) == truth.loc[name, "swapped"]
        edge = image[:, :10].mean() - image[:, -10:].mean()
        assert (edge > 0) == (row["left or right breast"] == "LEFT")


def test_views_of_a_patient_show_the_lesion_at_the_same_depth():
    pairs, cohort = {}, BreastCohort(seed=2, image_height=128)
    for case in calc_cases(2, 24):
        pairs.setdefault(case.number, []).append(case)
    gaps, other = [], []
    for first, second in (pair for pair in pairs.values() if len(pair) == 2):
        depth = draw(first, cohort)[2]
        gaps.append(abs(draw(second, cohort, depth)[2] - depth))
        other.append(abs(draw(second, cohort)[2] - depth))
    assert np.mean(gaps) < 9 and np.mean(gaps) < 0.6 * np.mean(other)


# Read by the ordinary loader


@pytest.mark.parametrize("kind", ["mass", "calc"])
def test_tables_alone_are_those_of_the_cohort_and_are_read(cohort, tmp_path, kind):
    size = {name: SMALL["breast"][name] for name in ("seed", "mass_rows", "calc_cases")}
    root = write_tables(tmp_path / "tables", **size)
    for file in cohort.glob("*_set.csv"):
        assert (root / file.name).read_bytes() == file.read_bytes()
    assert sorted(tree(root)) == sorted([*(p.name for p in cohort.glob("*_set.csv")), "SIMULATED.txt"])
    read = load_cohort(f"cbis_{kind}", root)
    assert read.info.simulated and len(read.images) == (8 if kind == "mass" else 7)
    with pytest.raises(DataError, match="whole cohort"):
        write_tables(cohort, **size)


def test_tables_have_all_kinds_of_rows(birads_table, tmp_path):
    root = write_tables(tmp_path, seed=0)
    for kind in ("mass", "calc"):
        read = load_cohort(f"cbis_{kind}", root)
        assert set(read.images["pathology"]) == set(PATHOLOGY)
        assert (read.images.groupby("split")["pathology"].nunique() == 3).all()
        assert read.images.groupby("patient_id")["split"].nunique().max() == 1
    calc = load_cohort("cbis_calc", root)
    assert any(column.endswith("=missing") for column in calc.privileged.columns)


@pytest.mark.shared
def test_columns_are_those_of_the_real_tables(shared_data, birads_table, tmp_path):
    for file in sorted(write_tables(tmp_path, mass_rows=20, calc_cases=20).glob("*_set.csv")):
        real = list(pd.read_csv(shared_data / "cbis-ddsm" / file.name, nrows=1).columns)
        extra = ["age", "mass density"] if file.name.startswith("mass") else []
        assert list(pd.read_csv(file).columns) == real + extra


@pytest.mark.parametrize("kind", ["mass", "calc"])
def test_pixels_masks_and_boxes_are_read(cohort, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("PKD_DATA", str(tmp_path))  # of the lesions that are cut
    read = load_cohort(f"cbis_{kind}", cohort, pixels="full")
    truth = pd.read_csv(cohort / "truth.csv").query("kind == @kind").set_index("case")
    boxes, sizes = read.boxes.set_index("image_id"), {}
    assert len(read.images) == len(boxes) == len(truth) and read.info.simulated
    for row in read.images.itertuples():
        mask = read.mask(row.image_id)
        case = row.path.split("CBIS-DDSM/")[1].split("/")[0]
        assert mask.sum() == truth.loc[case, "mask_pixels"] and mask.shape == (128, 102)
        sizes[row.image_id] = mask.sum()
        rows, cols = np.nonzero(mask)
        assert tuple(boxes.loc[row.image_id, ["x0", "y0"]]) == (cols.min(), rows.min())
    for pixels in ("crop", "lesion_crop"):
        crops = load_cohort(f"cbis_{kind}", cohort, pixels=pixels)
        for row in crops.images.itertuples():  # the whole lesion lies in the crop
            assert crops.mask(row.image_id).sum() == sizes[f"{kind}_{row.study_id}"]
    if kind == "mass":
        assert {"age", "mass_density"} <= set(read.privileged.columns)
