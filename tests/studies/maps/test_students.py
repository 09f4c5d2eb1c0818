"""What notebook 08 reads: images with regions of the right split, draws that repeat, maps of one pass."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pkd_utils.cohorts.boxes import ANY
from pkd_utils.distillation.students import random_student, save_student
from pkd_utils.images.augment import normalise
from pkd_utils.localization import attention, metrics, reference, saliency
from pkd_utils.localization.suite import score_maps
from pkd_utils.runs import files
from pkd_utils.runs.errors import DataError
from pkd_utils.studies.maps import students
from tests.studies.maps.conftest import BUILD, FACTS, IDS, SIDE


def test_images_with_regions(prepared):
    assert prepared.with_regions(0, "test") == ["i2", "i5"]  # i1 has no positive label, i6 no box, i7 no region
    assert prepared.with_regions(0, "validate") == ["i3", "i4"]
    assert prepared.with_regions(1, "test") == []
    assert replace(prepared, positives_only=False).with_regions(0, "test") == ["i1", "i2", "i5"]
    assert prepared.cut_off == 1


def test_rows_belong_to_their_ids(prepared):
    pixels = np.load(prepared.folder / "pixels.npy")
    np.testing.assert_array_equal(prepared.pixels_of(["i5", "i2"]), pixels[[5, 2]])
    assert [m.sum() for m in prepared.masks_of(["i2", "i0"])] == [45, 36]
    assert [len(b) for b in prepared.boxes_of(["i2", "i0"])] == [2, 1]
    valid = prepared.valid_of(["i5", "i2"])
    assert valid[1].all() and valid[0].sum() == 12 * SIDE and valid[0, 2:14].all()


def test_a_finding_is_scored_against_its_own_regions(by_finding):
    def truth(image, finding=None):
        sizes = [int(x1) for x1 in by_finding.boxes_of([image], finding)[0][:, 2]]
        assert by_finding.masks_of([image], finding).sum() == sum(sizes)
        return sizes

    assert truth("i2") == [2, 3] and by_finding.boxes["i2"].shape == (2, 4)  # the trained labels'
    assert truth("i2", "a") == [2] and truth("i2", "b") == [3] and truth("i2", ANY) == [2, 3, 4]
    assert "i6" not in by_finding.boxes and truth("i6", ANY) == [8]
    with pytest.raises(KeyError):
        by_finding.masks_of(["i6"])


def test_positive_for_the_finding_that_is_marked(by_finding):
    images = by_finding.images
    images.loc["i5", ["a", "b"]] = [0.0, 1.0]  # positive, but not for what is marked on it
    assert by_finding.with_regions(0, "test") == ["i2"]
    assert by_finding.with_regions(0, "test", "a") == ["i2"] and by_finding.with_regions(0, "test", "b") == ["i2"]
    assert by_finding.with_regions(0, "test", ANY) == ["i2", "i5", "i6"]
    assert by_finding.with_regions(0, "validate") == ["i4"]  # what is unknown (i3) is not positive
    everything = replace(by_finding, positives_only=False)
    assert everything.with_regions(0, "test") == everything.with_regions(0, "test", "a") == ["i1", "i2", "i5"]
    assert replace(everything, labels=["d"]).with_regions(0, "test") == []


def test_draw():
    assert students.draw(IDS, 0, 0) == IDS and students.draw(IDS, 8, 0) == IDS
    some = students.draw(IDS, 4, 1)
    assert len(set(some)) == 4 and some == sorted(some) and some == students.draw(IDS, 4, 1)
    assert any(students.draw(IDS, 4, seed) != some for seed in range(2, 6))
    with pytest.raises(DataError, match="-1 images"):
        students.draw(IDS, -1, 0)


def test_student_maps_are_those_of_their_names(prepared):
    model = random_student(BUILD, 0)
    pixels = prepared.pixels_of(IDS)
    maps, logits = students.student_maps(model, FACTS, pixels, list(students.MAPS), batch_size=3)
    batch = normalise(torch.from_numpy(pixels), FACTS["mean"], FACTS["std"])
    for heads in ("mean", "max"):
        expected, expected_logits = saliency.saliency_maps(model, batch, {"attention": {"heads": heads}})
        np.testing.assert_allclose(maps[f"attention_{heads}"], expected["attention"], atol=1e-6)
        np.testing.assert_allclose(logits, expected_logits, atol=1e-5)
    assert {m.shape for m in maps.values()} == {(8, 4, 4)} and all((m >= 0).all() for m in maps.values())
    first, _ = students.student_maps(model, FACTS, pixels, ["attention_mean"], layer=0)
    expected, _ = saliency.saliency_maps(model, batch, {"attention": {"layer": 0}})
    np.testing.assert_allclose(first["attention_mean"], expected["attention"], atol=1e-6)
    with pytest.raises(DataError, match="'gradcam' is no map"):
        students.student_maps(model, FACTS, pixels, ["gradcam"])


def test_a_student_of_classes_explains_the_likeliest(prepared):
    model = random_student(BUILD, 0)
    model.head.bias.data += 5  # every logit is above 0, which of classes says nothing
    pixels = prepared.pixels_of(IDS)
    facts = {**FACTS, "activation": "softmax"}
    maps, logits = students.student_maps(model, facts, pixels, ["grad_cam"], batch_size=3)
    batch = normalise(torch.from_numpy(pixels), FACTS["mean"], FACTS["std"])
    one = np.eye(logits.shape[1])[logits.argmax(1)]
    expected, _ = saliency.saliency_maps(model, batch, {"grad_cam": {}}, targets=one)
    np.testing.assert_allclose(maps["grad_cam"], expected["grad_cam"], atol=1e-6)
    labels, _ = students.student_maps(model, FACTS, pixels, ["grad_cam"])
    assert not np.allclose(maps["grad_cam"], labels["grad_cam"], atol=1e-6)


def test_choose_on_validation_and_score_on_test(prepared):
    rng = np.random.default_rng(1)
    validation, test = (["i3", "i4"], rng.random((2, 4, 4))), (["i2", "i5"], rng.random((2, 4, 4)))
    levels = (0.2, 0.5, 0.8)
    threshold, suite = students.choose_and_score(prepared, validation, test, levels, tolerance=1)
    large = [attention.upsample_maps(maps, (SIDE, SIDE)) for _, maps in (validation, test)]
    assert threshold == metrics.choose_threshold(large[0], prepared.boxes_of(validation[0]), levels)[0]
    truth, valid = (prepared.masks_of(test[0]), prepared.boxes_of(test[0])), prepared.valid_of(test[0])
    expected = score_maps(large[1], *truth, threshold, levels, tolerance=1, valid=valid)
    pd.testing.assert_frame_equal(suite.per_image, expected.per_image)
    ones = np.ones((2, SIDE, SIDE), np.float32)
    _, uniform = students.choose_and_score(prepared, (validation[0], ones), (test[0], ones), levels, normalize=False)
    np.testing.assert_allclose(uniform.per_image["iou"], 36 / SIDE**2)
    np.testing.assert_allclose(uniform.per_image["energy_inside"], [45 / SIDE**2, 36 / (12 * SIDE)])


def test_students_of_several_runs_are_told_apart(root):
    row = {"weight": 0.0, "temperature": 1.0, "fold": 0, "seed": 0, "folder": "w0"}
    for label, weight, control in (("one", 0.0, ""), ("two", 0.5, ""), ("three", 0.0, ""), ("four", 0.5, "self")):
        folder = root / "mmpkd" / "toy" / "03-distil-student" / label
        files.write_json(folder / "run.json", {"parameters": {"control": control}})
        files.write(folder / "students.csv", pd.DataFrame([{**row, "weight": weight}]))
    references = [f"mmpkd/toy/03-distil-student/{label}" for label in ("one", "two", "four", "three")]
    found = students.read_students(references[:3])
    assert found["method"].tolist() == ["baseline", "mmpkd", "self"]
    assert [path.split("/")[-3] for path in found["folder"]] == ["one", "two", "four"]
    with pytest.raises(DataError, match="name one run of each"):
        students.read_students(references)


def test_a_set_is_scored_on_any_finding(by_finding):
    ids, maps = ["i2", "i6"], np.random.default_rng(2).random((2, 4, 4))
    assert by_finding.names_findings
    suite = students.score(by_finding, ids, maps, 0.5, ANY, thresholds=(0.5,))
    regions = by_finding.masks_of(ids, ANY), by_finding.boxes_of(ids, ANY)
    large = attention.upsample_maps(maps, (SIDE, SIDE))
    expected = score_maps(large, *regions, 0.5, thresholds=(0.5,), valid=by_finding.valid_of(ids))
    pd.testing.assert_frame_equal(suite.per_image, expected.per_image)
    own = students.score(by_finding, ids[:1], maps[:1], 0.5, thresholds=(0.5,))
    assert own.per_image["pixel_auroc"][0] != expected.per_image["pixel_auroc"][0]  # c counts for any finding alone


def test_the_student_before_fine_tuning_is_a_reference_map(prepared, root):
    runs_of = root / "mmpkd" / "toy" / "03-distil-student"
    begun, file = random_student(BUILD, 7), runs_of / "first" / "students" / "w0" / "model.safetensors"
    file.parent.mkdir(parents=True)
    save_student(file, begun, {"build": BUILD, **FACTS})
    (runs_of / "first" / "students.csv").write_text("folder\nw0\n")
    asked = {"first": {}, "second": {"start_run": "mmpkd/toy/03-distil-student/first"}}
    for label, parameters in (*asked.items(), ("third", {"student_weights": str(file)})):
        files.write_json(runs_of / label / "run.json", {"parameters": parameters})
    start = {k: students.start_weights(f"mmpkd/toy/03-distil-student/{k}") for k in ("first", "second", "third")}
    assert start == {"first": None, "second": file, "third": file}
    parts = (["i3"], ["i2", "i5"])
    found = list(students.reference_maps(prepared, 0, parts, FACTS | {"build": BUILD}, start=file))
    name, seed, scaled, (_, maps) = found[-1]
    assert (name, scaled) == ("reference: start weights", True) and np.isnan(seed)
    expected, _ = students.student_maps(begun, FACTS, prepared.pixels_of(parts[1]), ["attention_mean"])
    np.testing.assert_allclose(maps, expected["attention_mean"], atol=1e-6)


def test_reference_maps_of_two_sets(prepared):
    parts = (["i3", "i4"], ["i2", "i5", "i1"])
    assert not prepared.names_findings
    found = list(students.reference_maps(prepared, 0, parts, FACTS | {"build": BUILD}, seeds=(0, 5)))
    names = [name for name, *_ in found]
    assert sorted({*names, "reference: start weights"}) == sorted(reference.NAMES)
    assert names.count("reference: random weights") == 2
    for name, seed, scaled, maps in found:
        random = name == "reference: random weights"
        assert [len(m) for m in maps] == [2, 3] and scaled == random == (seed == seed)
    by_name = {(name, seed): maps for name, seed, _, maps in found if seed == seed}
    pixels = prepared.pixels_of(parts[1])
    expected, _ = students.student_maps(random_student(BUILD, 5), FACTS, pixels, ["attention_mean"])
    np.testing.assert_array_equal(by_name["reference: random weights", 5][1], expected["attention_mean"])
    body = next(maps for name, *_, maps in found if name == "reference: body mask")
    np.testing.assert_array_equal(body[1], reference.body_masks(pixels))
    mean = next(maps for name, *_, maps in found if name == "reference: mean training mask")
    np.testing.assert_array_equal(mean[1][0], prepared.masks_of(["i0"])[0])  # i0 is the training image with a region
    prepared.splits["split"] = "test"
    without = students.reference_maps(prepared, 0, parts, FACTS | {"build": BUILD})
    assert "reference: mean training mask" not in [name for name, *_ in without]
