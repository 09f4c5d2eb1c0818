"""Stored results become figures with intervals, whatever run wrote them, and benchmarks become bars without JSON."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from pkd_utils.runs import files, paths
from workflow.publish.pages import bench, forests, results

RESULTS = paths.PROJECT_ROOT / "book" / "results"
ENDS = {"low": -9.0, "high": 9.0}
KINDS = {
    "the paper's question": {"cohort": "a/icu", "metric": "iou", "estimate": 0.1, "low": -0.1, "high": 0.3},
    "side AUROC": {"finding": "icu", "against": "self", "estimate": 0.1, "low": -0.1, "high": 0.3},
    "image by image": {"metric": "IoU", "difference": 0.1, **ENDS, "low, new seeds": -0.1, "high, new seeds": 0.3},
    "differences": {"task": "a", "encoder": "icu", "size": 9, "method": "teacher", "difference": 0.1, **ENDS}
    | {"low_corrected": -0.1, "high_corrected": 0.3},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_mark_stands_at_its_difference_with_its_interval(kind):
    table, minus = forests.differences({kind: [KINDS[kind]]})
    (ax,) = forests.forest(table, minus).axes
    assert [line.get_xdata().tolist() for line in ax.lines[:1]] == [[0.1]]
    assert [segment[:, 0].tolist() for segment in ax.collections[0].get_segments()] == [[-0.1, 0.3]]
    assert forests.told(table) == (
        "Of 1 differences, 0 lie above zero with the whole interval, 0 below. "
        "Half an interval is 0.200 to 0.200: smaller ones cannot be told here."
    )


def test_differences_without_an_interval_are_not_counted():
    one = pd.DataFrame([{"low": 0.1, "high": 0.3}, {"low": np.nan, "high": np.nan}])
    assert forests.told(one).startswith("Of 1 differences, 1 lies above zero")
    assert "nan" not in forests.told(one[1:]) and "no interval" in forests.told(one[1:])


def test_notes_and_tables_are_folded_below_a_figure(tmp_path):
    file = tmp_path / "covid.json"
    result = {"title": "C", "text": "Told.", "notes": ["One."]}
    files.write_json(file, result | {"image by image": [KINDS["image by image"]]})
    page = results.results_page("", [file], forests.drawn([file], tmp_path))
    order = ("Told.", "{image} covid-forest.png", "Half an interval", "{dropdown} Sentence by sentence", "- One.")
    places = [page.index(words) for words in order]
    assert places == sorted(places) and ":::{dropdown} Image by image (1 rows)" in page
    assert (tmp_path / "covid-forest.png").is_file()


def test_every_stored_result_on_real_data_with_differences_has_a_figure():
    for file in RESULTS.glob("covid-*.json"):
        table, _ = forests.differences(files.read_json(file))
        assert len(table) and table[["estimate", "low", "high"]].notna().all(axis=None), file.name
        assert forests.forest(table, "difference").axes, file.name


def test_every_stored_gain_stands_beside_both_controls():
    """Self-distillation and a permuted teacher, but for what a protocol compares with the baseline alone."""
    by_protocol = {"breast-usg-birads", "breast-usg-lesions"}
    found = 0
    for file in RESULTS.glob("*.json"):
        stored = files.read_json(file)
        rows = [*stored.get("arms against each other", []), *stored.get("differences", [])]
        pairs = {(row.get("method"), row.get("against")) for row in rows}
        for student, plain, controls in (
            ("mmpkd", "baseline", {"self", "permuted"}),
            ("report_distilled", "image_only", {"self_distilled", "permuted_distilled"}),
        ):
            if (student, plain) in pairs and file.stem not in by_protocol:
                assert {(student, control) for control in controls} <= pairs, file.name
                found += 1
    assert found >= 8


def test_benchmarks_are_bars_and_hold_no_json(tmp_path):
    measured = sorted(RESULTS.glob("benchmark-*.json"))
    page = bench.page(measured, tmp_path)
    assert page.count("\n## ") - 1 == len(measured) == page.count("Measured on ") and "AMD EPYC" in page
    assert len(list(tmp_path.glob("*-bars.png"))) >= len(measured)
    assert "[[" not in page and "{'" not in page and '{"' not in page
    assert "No measurement" in bench.page([], tmp_path)


def test_each_share_of_a_limit_is_the_benchmarks_own():
    heads = [{"what": "a", "ours": ours, "fraction_of_gemm_peak": share} for ours, share in
             (("fp32", 0.5), ("fp32", 0.7), ("fp32, default products", 0.9), ("bf16", 0.31))]  # fmt: skip
    packing = [{"what": "packing against libjpeg, reduced, 1 process", "ratio": 0.87}, {"what": "other", "ratio": 2.0}]
    said = bench.limits({"heads": {"rows": heads}, "packing": {"rows": packing}})
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in said.splitlines() if line.startswith("| ")][1:]
    assert [row[1:] for row in rows] == [["", "0.87"], ["fp32", "0.50 to 0.70"], ["bf16", "0.31"]]
    assert bench.limits({}) == ""


def test_every_limit_has_a_stored_measurement():
    reports = [files.read_json(file) for file in RESULTS.glob("benchmark-*.json")]
    said = bench.limits({report["name"]: report for report in reports})
    assert said.count("\n| ") == len(bench.LIMITS) + 1


def test_a_bar_ends_at_its_ratio():
    ratios = bench.labelled([{"what": "a", "batch": 2, "ratio": 4.0}, {"what": "b", "ratio": 0.5}, {"what": "c"}])
    assert ratios.to_dict() == {"a, batch 2": 4.0, "b": 0.5}
    (ax,) = bench.bars(ratios).axes
    assert [bar.get_x() + bar.get_width() for bar in ax.patches] == [4.0, 0.5]
    assert [text.get_text() for text in ax.texts] == ["4.00", "0.50"]


def test_names_of_neighbouring_bars_do_not_touch():
    for file in RESULTS.glob("benchmark-*.json"):
        for rows in files.read_json(file).values():
            if isinstance(rows, list) and rows and isinstance(rows[0], dict) and len(ratios := bench.labelled(rows)):
                figure = bench.bars(ratios)
                figure.canvas.draw()
                boxes = [text.get_window_extent() for text in figure.axes[0].get_yticklabels()]
                assert all(a.y0 - b.y1 > 3 for a, b in itertools.pairwise(boxes)), file.name
                plt.close(figure)
