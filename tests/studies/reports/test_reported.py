"""The paper's numbers stand beside ours at the training size that is nearest to theirs."""

import pandas as pd
import pytest

from pkd_utils.cohorts.tasks.splits import training_sizes
from pkd_utils.runs.paths import resolve
from pkd_utils.studies.reports.reported import at_nearest_size


@pytest.mark.parametrize(
    ("task", "sizes", "nearest"),
    [
        ("mimic_5x1200", None, {200: 200, 2000: 2000}),  # not 100 and 4,000, the ends of Table 3
        ("discharge_3_day", None, {165: 165, 1662: 1662}),
        ("age", None, {317: 317, 3171: 3171}),
        ("mimic_5x1200", [50, 110], {200: 110, 2000: 110}),
        ("mimic_5x1200", [4000, 632, 633, 100], {200: 100, 2000: 4000}),  # of 100 and 400 as near the smaller
        ("mimic_5x1200", [100, 400, 1000], {200: 100, 2000: 1000}),
    ],
)
def test_rows_of_table_2_are_matched_on_training_images(task, sizes, nearest):
    reported = pd.read_csv(resolve("book/reported/bergstrom2025-table2.csv"))
    rows = reported[reported["task"] == task]
    beside = at_nearest_size(rows, training_sizes(task)["samples"] if sizes is None else sizes)
    assert dict(zip(beside["training_images"], beside["size"], strict=True)) == nearest
    assert beside["text_auc"].tolist() == rows["text_auc"].tolist()
