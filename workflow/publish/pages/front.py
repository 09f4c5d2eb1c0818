"""What the home page leads with: gains on real data beside their controls, three sentences, and one picture of maps."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pkd_utils.localization import attention, metrics
from pkd_utils.runs import paths
from pkd_utils.runs.files import read_json
from pkd_utils.runs.run import find_run
from pkd_utils.runs.showing import simulated_mark
from pkd_utils.statistics import comparisons
from pkd_utils.studies import figures
from pkd_utils.studies.maps.figures import choose_cases
from pkd_utils.studies.maps.students import Prepared
from pkd_utils.studies.transfer import arms, protocol, statistic
from pkd_utils.studies.transfer.figures import outcome_figure
from workflow.publish import gate
from workflow.publish.pages import lesions, texts, transfer
from workflow.publish.pages.markdown import bullets, drawing, grid, interval

NONE = "*No result on real data is stored in this copy of the book: `make open-data` makes one.*"
ARMS = {arms.TEXT: "taught by reports", arms.SELF: "self-distilled", arms.PERMUTED: "reports permuted"}


def radiographs(result: dict[str, Any], plan: protocol.Protocol) -> str:
    """The primary endpoint of "Case or label?" in one sentence."""
    ends = transfer.endpoint(pd.DataFrame(result["claims"]))
    row = ends[(ends["report"] == arms.TEXT) & (ends["setting"] == plan.primary)].iloc[0]
    size = plan.settings[plan.primary].size
    gain, over = (
        interval(*row[[f"over_{by}", f"over_{by}_low", f"over_{by}_high"]], digits=4) for by in ("image", "permuted")
    )
    return (
        f"**Radiographs and reports (Open-i, {size} studies).** A teacher that reads the reports adds {gain} to the "
        f"AUROC of the image alone, and {over} to that of permuted reports: *{row['reading']}*."
    )


def ultrasound(result: dict[str, Any]) -> str:
    """What descriptors of lesions do for prediction and attention, in one sentence."""
    rows = pd.DataFrame(result[lesions.ARMS])
    rows = rows[(rows["method"] == "mmpkd") & (rows["against"] == "baseline")].set_index("metric")
    told = []
    names = {"macro AUROC": "the prediction's AUROC (primary endpoint)", "pixel_auroc": "the attention's pixel AUROC"}
    words = {"macro AUROC": {comparisons.TOWARDS: "better", comparisons.AWAY: "worse"}}
    for metric, name in names.items():
        row = rows.loc[metric]
        verdict = words.get(metric, {}).get(row["verdict"], row["verdict"])
        seen = f", where {row['detectable']:.3f} was likely to be seen" if row["verdict"] == "cannot tell" else ""
        told.append(f"{name} by {interval(*row[['estimate', 'low', 'high']])}: *{verdict}*{seen}")
    return (
        f"**Lesions and their descriptors (BrEaST, {rows['images'].iloc[0]} ultrasound images).** A teacher of BI-RADS "
        f"descriptors changes {'; '.join(told)}."
    )


def attention_heads(results: dict[str, dict[str, Any]]) -> str:
    """The reports study on Open-i in one sentence."""
    table = texts.gains(results)
    clear = int(((table["p_holm"] <= 0.05) & (table["difference"] > 0)).sum())
    half = (table["high_corrected"] - table["low_corrected"]) / 2
    return (
        f"**Small heads on frozen encoders (Open-i, {table['task'].nunique()} tasks).** Of {len(table)} gains of a "
        f"student of the report over a control, {clear} {'is' if clear == 1 else 'are'} above zero by Holm's method; "
        f"half an interval is {half.min():.3f} to {half.max():.3f} AUC, so that smaller gains cannot be told."
    )


def picture(compared: Path) -> figures.Figure | None:
    """One image of mmpkd/05's cohort, with its region and both methods' attention.

    None where it may not be shown, or both methods are of one run, as in a quick book.

    It is the test image whose pixel AUROC, averaged over all students of both methods, is the median one; the maps are
    of the first student of each.
    """
    record = read_json(compared / "run.json")
    if not gate.Permission.of(record).images or len(record["parameters"]["attention_runs"]) < 2:
        return None
    prepared = Prepared(find_run(record["parameters"]["prepared_run"]), record["labels"])
    runs = [find_run(name) for name in record["parameters"]["attention_runs"][:2]]
    scores = [pd.read_parquet(run / "per_image.parquet") for run in runs]
    chosen = choose_cases(pd.concat(scores).groupby("image_id")["pixel_auroc"].mean())["median"]
    maps = []
    for run, score in zip(runs, scores, strict=True):
        student = pd.read_csv(run / "per_student.csv").sort_values(["fold", "seed"]).iloc[0]
        same = score[(score["fold"] == student["fold"]) & (score["seed"] == student["seed"])]
        at = same["image_id"].tolist().index(chosen)
        low = np.load(run / "maps.npz")[student["folder"]][[at]].astype(np.float32)
        maps.append(metrics.normalize_maps(attention.upsample_maps(low, prepared.pixels.shape[1:]))[0])
    pixels, boxes, none = prepared.pixels_of([chosen])[0], prepared.boxes[chosen], np.empty((0, 4))
    clear = np.full(pixels.shape, np.nan)
    figure = figures.show_radiograph_grid(
        [pixels] * 4,
        ["image", "region of the finding", "attention: image alone", "attention: with reports"],
        reference=[none, boxes, boxes, boxes],
        maps=[clear, clear, *maps],
        columns=4,
        size=2.2,
    )
    return simulated_mark(figure) if gate.Permission.of(record).simulated else figure


def front(book: Path, generated: Path, compared: Path | None) -> str:
    """The home page's figure, picture and three sentences as Markdown, of `book/results` and a run of mmpkd/05."""
    figures.use_style()
    said, shown = [], {}
    stored = book / "results" / transfer.STORED
    if stored.exists():
        result = read_json(stored)
        plan, _, sha256 = protocol.read(paths.resolve(result["protocol"]))
        if sha256 == result["protocol_sha256"]:
            said.append(radiographs(result, plan))
            outcomes = (statistic.MEAN, *plan.settings[plan.primary].outcomes)
            figure = outcome_figure(pd.DataFrame(result["gains"]), plan.primary, outcomes, ARMS)
            alt = "Gain in AUROC over the image alone on Open-i, with intervals: students of reports and two controls."
            shown["gains"] = drawing(figure, generated / "home-gains.png", alt, "_generated/")
    stored = book / "results" / lesions.STORED
    if stored.exists():
        said.append(ultrasound(read_json(stored)))
    if results := texts.stored_of(sorted((book / "results").glob("*.json"))):
        said.append(attention_heads(results))
    if compared is not None and (figure := picture(compared)) is not None:
        alt = "A radiograph, the region of its finding, and the attention of students without and with reports."
        shown["attention"] = drawing(figure, generated / "home-attention.png", alt, "_generated/")
    sentences = bullets(said) or NONE
    beside = grid([(7, shown["gains"]), (5, sentences)] if "gains" in shown else [(12, sentences)])
    told = ["The figure is of real radiographs."] if "gains" in shown else []
    if "attention" in shown and gate.Permission.of(read_json(compared / "run.json")).simulated:
        told.append("The pictures are of the simulated cohort.")
    return "\n\n".join([beside, *filter(None, [shown.get("attention"), " ".join(told)])])
