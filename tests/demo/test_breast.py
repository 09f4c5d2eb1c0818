"""The simulated mammography cohort: the real table behind it, its pictures, its layout, and that all says simulated."""

import json
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
DISTRIBUTIONS = list(CALC_SHARES["calc distribution"])
HEADER = "@relation mammographic\n" + "".join(f"@attribute {name} integer [0,9]\n" for name in birads.COLUMNS)


@pytest.fixture
def table(birads_table):
    return birads_table


@pytest.fixture(scope="module")
def cohort(small):
    return small("breast")


def tree(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


# The real table


def test_the_real_table(table):
    assert len(table) == birads.ROWS and table.index[0] == 1
    assert table["severity"].sum() == 403
    assert table["birads"].value_counts().to_dict() == {4: 468, 5: 316, 3: 24, 6: 9, 2: 7, 0: 5, 55: 1}
    assert (
        table["assessment"].between(0, 5).all() and (table.loc[table["birads"].isin([6, 55]), "assessment"] == 5).all()
    )
    # Published medicine, which a shifted column or a swapped code would break.
    malignant = table.groupby("margin")["severity"].mean()
    assert malignant["SPICULATED"] > 0.8 and malignant["CIRCUMSCRIBED"] < 0.15
    assert table.groupby("shape")["severity"].mean()["IRREGULAR"] > 0.75
    first = table.loc[1, ["birads", "age", "shape", "margin", "mass_density", "severity"]].tolist()
    assert first == [5, 67, "LOBULATED", "SPICULATED", 3, 1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("4,43,1,1,?,1", r"row 2 has Density = '\?'"),
        ("4,43,<null>,1,3,1", r"row 2 has Shape = '<null>'"),
        ("4,43,5,1,3,1", "row 2 has Shape = 5; it must be one of 1, 2, 3, 4"),
        ("4,43,1,0,3,1", "row 2 has Margin = 0"),
        ("7,43,1,1,3,1", "row 2 has BI-RADS = 7"),
        ("4,430,1,1,3,1", "row 2 has Age = 430; it must be between 15 and 110"),
        ("4,43,1,1,3,2", "row 2 has Severity = 2"),
        ("4,43,1,1,3", "row 2 has 5 values"),
    ],
)
def test_a_table_with_an_unknown_code_is_refused(tmp_path, row, message):
    file = tmp_path / "mammographic.dat"
    file.write_text(f"{HEADER}@data\n5,67,3,5,3,1\n{row}\n")
    with pytest.raises(DataError, match=message):
        birads.read(file)


def test_a_table_with_other_columns_is_refused(tmp_path):
    file = tmp_path / "mammographic.dat"
    file.write_text(HEADER.replace("Shape", "Margin2") + "@data\n")
    with pytest.raises(DataError, match="Margin2"):
        birads.read(file)


# Who is in it


def test_every_row_of_the_table_is_one_mammogram(table):
    cases = mass_cases(table, seed=0)
    assert [case.table_row for case in cases] == list(table.index)
    for case, row in zip(cases, table.itertuples(), strict=True):
        assert case.descriptors == (row.shape, row.margin) and (case.pathology == "MALIGNANT") == (row.severity == 1)
        assert (case.age, case.mass_density, case.assessment) == (row.age, row.mass_density, row.assessment)
        assert (case.pathology == "BENIGN_WITHOUT_CALLBACK") == (row.severity == 0 and row.assessment in (2, 3))
    split = pd.Series([case.split for case in cases]).value_counts(normalize=True)
    assert split["train"] == pytest.approx(0.78, abs=0.005)
    frame = pd.DataFrame(vars(case) for case in cases)
    assert {*frame["side"]} == {"LEFT", "RIGHT"} and {*frame["view"]} == {"CC", "MLO"}
    assert frame.groupby("split")["table_row"].count().sum() == len(table)
    # Nothing that is drawn knows the outcome: the usual size knows the shape, breast density knows age.
    malignant = (frame["pathology"] == "MALIGNANT").astype(float)
    shape = frame["descriptors"].str[0]
    usual = pd.DataFrame(USUAL_MASS, index=["radius", "contrast"]).T.loc[shape].reset_index(drop=True)
    frame["relative size"] = frame["radius"] / usual["radius"]
    frame["relative contrast"] = frame["contrast"] / usual["contrast"]
    for name in ("relative size", "relative contrast", "subtlety"):
        assert abs(np.corrcoef(frame[name], malignant)[0, 1]) < 0.07
    assert frame.groupby(shape)["radius"].mean()["IRREGULAR"] > 1.2 * frame.groupby(shape)["radius"].mean()["ROUND"]
    assert -0.6 < np.corrcoef(frame["breast_density"], frame["age"])[0, 1] < -0.25
    assert frame["breast_density"].value_counts().min() > 30 and {*frame["subtlety"]} == {1, 2, 3, 4, 5}


def test_fewer_rows_are_some_of_the_same_persons(table):
    whole = {case.number: case for case in mass_cases(table, 5)}
    few = mass_cases(table, 5, 30)
    assert len(few) == 30 and {case.split for case in few} == {"train", "test"}
    for case in few:
        assert {**vars(case), "split": ""} == {**vars(whole[case.number]), "split": ""}


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


@pytest.mark.shared
def test_shares_are_near_those_of_the_real_tables(shared_data):
    files = [shared_data / "cbis-ddsm" / f"calc_case_description_{split}_set.csv" for split in ("train", "test")]
    real = pd.concat([pd.read_csv(file, keep_default_na=False) for file in files])
    for column in ("calc distribution", "assessment"):
        for at, name in enumerate(PATHOLOGY):
            found = real.loc[real["pathology"] == name, column].replace("NA", "").value_counts(normalize=True)
            for value, shares in CALC_SHARES[column].items():
                assert shares[at] == pytest.approx(found.get(value, 0), abs=0.05), (column, name, value)


def test_shares_sum_to_one():
    assert sum(CALC_SHARES["pathology"].values()) == pytest.approx(1)
    for column in ("calc type", "calc distribution", "assessment"):
        assert np.sum(list(CALC_SHARES[column].values()), axis=0) == pytest.approx(1), column


# The pictures


def body(seed=0, density=2, view="CC", rows=160):
    rng = np.random.default_rng(seed)
    return anatomy.make(anatomy.draw_woman(rng, density), view, rows, rng), rng


def mass(shape, margin, radius, made, rng):
    return lesions.mass(made, shape, margin, 3, radius, 1.0, rng, lesions.place(made, radius, rng))


def calcifications(kind, distribution, size, made, rng):
    return lesions.calcifications(made, kind, distribution, size, 1.0, rng, lesions.place(made, size, rng))


def test_power_law_has_its_slope():
    fields = [anatomy.power_law(np.random.default_rng(seed), (224, 224), 3.0) for seed in range(8)]
    power = np.mean(
        [np.abs(np.fft.fft2(field * np.outer(np.hanning(224), np.hanning(224)))) ** 2 for field in fields], 0
    )
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


def test_film_is_dark_outside_and_keeps_order():
    made, rng = body(1)
    image = anatomy.develop(made.path, made.inside, rng)
    assert image.dtype == np.uint16 and image[~made.inside].mean() < 0.12 * 65535 < image[made.skin > 15].mean()
    still = anatomy.develop(made.path, made.inside, np.random.default_rng(0), noise=0).astype(float)
    more = anatomy.develop(made.path + 0.3, made.inside | True, np.random.default_rng(0), noise=0)
    assert more.shape == still.shape
    rougher = anatomy.develop(made.path, made.inside, np.random.default_rng(0), noise=4).astype(float)
    assert np.abs(rougher - still)[made.inside].mean() > 3 * np.abs(image - still)[made.inside].mean() / 2


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
    distance = np.where(
        lesion.mask, -ndimage.distance_transform_edt(lesion.mask), ndimage.distance_transform_edt(~lesion.mask)
    )
    profile = [lesion.path[(distance > d) & (distance <= d + 2)].mean() for d in range(-8, 8, 2)]
    return -np.diff(profile).min() / max(profile)


def test_margins_differ():
    mean = {name: np.mean([edge_sharpness(name, seed) for seed in range(3)]) for name in MARGINS}
    assert mean["CIRCUMSCRIBED"] > 1.1 * max(mean["ILL_DEFINED"], mean["OBSCURED"], mean["SPICULATED"])


def roughness(shape, margin, seed=0):
    made, rng = body(seed, rows=224)
    mask = mass(shape, margin, 14.0, made, rng).mask
    edge = mask & ~ndimage.binary_erosion(mask)
    return edge.sum() ** 2 / mask.sum()


def test_shapes_differ():
    mean = {name: np.mean([roughness(name, "CIRCUMSCRIBED", seed) for seed in range(5)]) for name in SHAPES}
    assert mean["ROUND"] < mean["OVAL"] < mean["IRREGULAR"] and mean["ROUND"] < mean["LOBULATED"] < mean["IRREGULAR"]
    lobed = np.mean([roughness("ROUND", "MICROLOBULATED", seed) for seed in range(5)])
    assert lobed > 1.2 * mean["ROUND"]


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
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_mask_covers_the_calcifications(kind, distribution):
    made, rng = body(6, rows=192)
    lesion = calcifications(kind, distribution, 8.0, made, rng)
    assert lesion.path.min() >= 0 and lesion.path.max() > 0.2
    assert lesion.path[lesion.mask].sum() > 0.97 * lesion.path.sum()
    assert not lesion.mask[~made.inside].any() and ndimage.label(lesion.mask)[1] == 1


def test_distributions_differ_in_extent():
    def extent(distribution):
        areas = []
        for seed in range(5):
            made, rng = body(seed, rows=256)
            areas.append(calcifications("PUNCTATE", distribution, 8.0, made, rng).mask.mean())
        return np.mean(areas)

    areas = {name: extent(name) for name in ("LINEAR", "CLUSTERED", "REGIONAL", "DIFFUSELY_SCATTERED")}
    assert areas["CLUSTERED"] < areas["REGIONAL"] < areas["DIFFUSELY_SCATTERED"]
    made, rng = body(0, rows=256)
    mask = calcifications("PUNCTATE", "LINEAR", 10.0, made, rng).mask
    long, wide = np.linalg.eigvalsh(np.cov(np.argwhere(mask).T))[::-1] ** 0.5
    assert long > 2 * wide


def test_a_lesion_that_finds_no_place_is_refused():
    made, rng = body()
    with pytest.raises(DataError, match="finds no place"):
        lesions.place(made, 500, rng)


# On disk


def cases_of(root):
    frame = pd.concat([pd.read_csv(file, keep_default_na=False) for file in sorted(root.glob("*_set.csv"))])
    return frame.reset_index(drop=True)


def test_layout_is_that_of_tcia(cohort):
    metadata = pd.read_csv(cohort / "metadata.csv", dtype=str).set_index("Series UID")
    cases = cases_of(cohort)
    assert len(cases) == 15 and len(metadata) == 30
    for row in cases.to_dict("records"):
        paths = {name: row[f"{name} file path"] for name in ("image", "cropped image", "ROI mask")}
        broken = "ROI mask" if row["abnormality type"] == "mass" else "cropped image"
        assert {name for name, path in paths.items() if path.endswith("000001.dcm\n")} == {broken}
        folder, study, series, _ = paths["image"].split("/")
        part = metadata.loc[series]
        assert (part["Study UID"], part["Subject ID"]) == (study, folder)
        assert part["File Location"].endswith(
            f"/CBIS-DDSM/{folder}/01-01-2000-DDSM-NA-{study[-5:]}/1.000000-full mammogram images-{series[-5:]}"
        )
        assert tree(cohort / part["File Location"]) == ["1-1.dcm"]
        roi_folder, _, series, _ = paths["ROI mask"].split("/")
        assert roi_folder == f"{folder}_1" and series == paths["cropped image"].split("/")[2]
        part = metadata.loc[series]
        assert tree(cohort / part["File Location"]) == ["1-1.dcm", "1-2.dcm"] and part["Number of Images"] == "2"
        assert part["Series Description"] == "ROI mask images"


def pictures(root, row, metadata):
    """Mammogram, crop and mask (told apart by content), and the file number of the mask."""
    full, roi = (
        metadata.loc[row[name].split("/")[2], "File Location"] for name in ("image file path", "ROI mask file path")
    )
    image = pydicom.dcmread(root / full / "1-1.dcm").pixel_array
    two = [pydicom.dcmread(root / roi / f"1-{number}.dcm").pixel_array for number in (1, 2)]
    mask = next(at for at in (0, 1) if two[at].dtype == np.uint8)
    return image, two[1 - mask], two[mask], mask + 1


def test_pictures_crops_and_masks_agree(cohort):
    metadata = pd.read_csv(cohort / "metadata.csv", dtype=str).set_index("Series UID")
    truth = pd.read_csv(cohort / "truth.csv").set_index("case")
    for row in cases_of(cohort).to_dict("records"):
        image, crop, mask, number = pictures(cohort, row, metadata)
        assert image.shape == mask.shape == (128, 102) and image.dtype == crop.dtype == np.uint16
        assert set(np.unique(mask)) == {0, 255}
        box = cbis_layout.crop_box(mask > 0, round(4 / 2.0))
        assert np.array_equal(image[box], crop)
        name = row["image file path"].split("/")[0]
        assert truth.loc[name, "mask_pixels"] == (mask > 0).sum()
        nominal = 2 if row["abnormality type"] == "mass" else 1
        assert (number != nominal) == truth.loc[name, "swapped"]
        edge = image[:, :10].mean() - image[:, -10:].mean()
        assert (edge > 0) == (row["left or right breast"] == "LEFT")


def test_some_crops_and_masks_are_swapped(table):
    cases = mass_cases(table, 0)
    assert 0.08 < np.mean([cbis_layout.swapped(case, 0) for case in cases]) < 0.22


def test_everything_says_simulated(cohort):
    assert "SIMULATED" in (cohort / "SIMULATED.txt").read_text()
    assert json.loads((cohort / "cohort.json").read_text())["simulated"] is True
    assert pd.read_csv(cohort / "truth.csv")["simulated"].all()
    assert pd.read_csv(cohort / "metadata.csv")["Study Description"].eq("SIMULATED").all()
    files = sorted(cohort.glob("CBIS-DDSM/**/*.dcm"))
    assert len(files) == 45
    for file in files:
        header = pydicom.dcmread(file)
        assert "SIMULATED" in header.ImageComments and str(header.PatientName) == "SIMULATED"
        assert header.PhotometricInterpretation == "MONOCHROME2" and header.Modality == "MG"
        assert header.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
        assert len(header.SOPInstanceUID) <= 64 and header.PatientID == file.parts[-4]


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


def test_tables_have_all_kinds_of_rows(table, tmp_path):
    root = write_tables(tmp_path, seed=0)
    for kind in ("mass", "calc"):
        read = load_cohort(f"cbis_{kind}", root)
        assert set(read.images["pathology"]) == set(PATHOLOGY)
        both = read.images.groupby("split")["pathology"].nunique()
        assert (both == 3).all()
        assert read.images.groupby("patient_id")["split"].nunique().max() == 1
    calc = load_cohort("cbis_calc", root)
    assert any(column.endswith("=missing") for column in calc.privileged.columns)


@pytest.mark.shared
def test_columns_are_those_of_the_real_tables(shared_data, table, tmp_path):
    for file in sorted(write_tables(tmp_path, mass_rows=20, calc_cases=20).glob("*_set.csv")):
        real = list(pd.read_csv(shared_data / "cbis-ddsm" / file.name, nrows=1).columns)
        extra = ["age", "mass density"] if file.name.startswith("mass") else []
        assert list(pd.read_csv(file).columns) == real + extra


@pytest.mark.parametrize("kind", ["mass", "calc"])
def test_pixels_masks_and_boxes_are_read(cohort, kind):
    read = load_cohort(f"cbis_{kind}", cohort, pixels="full")
    truth = pd.read_csv(cohort / "truth.csv").set_index("case")
    truth = truth[truth["kind"] == kind]
    assert len(read.images) == len(read.boxes) == len(truth) and read.info.simulated
    sizes = {}
    for row in read.images.itertuples():
        mask = read.mask(row.image_id)
        case = row.path.split("CBIS-DDSM/")[1].split("/")[0]
        assert mask.sum() == truth.loc[case, "mask_pixels"] and mask.shape == (128, 102)
        sizes[row.image_id] = mask.sum()
        box = read.boxes.set_index("image_id").loc[row.image_id]
        rows, cols = np.nonzero(mask)
        assert (box["x0"], box["y0"]) == (cols.min(), rows.min())
    crops = load_cohort(f"cbis_{kind}", cohort, pixels="crop")
    for row in crops.images.itertuples():
        assert crops.mask(row.image_id).sum() == sizes[row.image_id]  # the whole lesion lies in the crop
    if kind == "mass":
        assert {"age", "mass_density"} <= set(read.privileged.columns)
