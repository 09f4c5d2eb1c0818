"""What Bergström et al. found, each finding as a contrast of scores: holds here, does not hold here, cannot tell.

Every contrast is a difference of AUCs computed within a seed, so that split, subset and initialisation are the same on
both sides; over encoders it is averaged first. The interval over seeds is Nadeau and Bengio's corrected t interval. The
paper gives no such intervals and no tests; the contrasts are our reading of its sentences.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pkd_utils.encoders.zoo import IMAGE_ENCODERS
from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.comparisons import PairedSeeds, holm, paired_seeds

GROUPS = ("image self-supervision", "image-text alignment", "masked image and text")
METHOD_NAMES = {
    "image_only": "image only",
    "image_restart": "image only, restarted",
    "self_distilled": "self-distilled",
    "self_restart": "self-distilled, restarted",
    "report_distilled": "distilled from reports",
    "teacher": "teacher (image and report)",
    "text_only": "report only",
    "mean_probe": "mean, linear probe",
    "cls_probe": "class token, linear probe",
}
VERDICTS = ("holds here", "does not hold here", "cannot tell")


@dataclass(frozen=True)
class Claim:
    """One finding of the paper.

    The contrast is `high` minus `low`: methods, compared within each encoder; or "group:" and one of `GROUPS`,
    image-only heads of the encoders that were pretrained so.
    """

    name: str
    sentence: str  # the finding in our words, with its place in the paper
    task: str
    sizes: str  # training sizes that the finding speaks of: "smallest" or "all"
    high: str
    low: str
    expected: str  # "positive", "negative", or "not positive": there is no gain above a margin


_SSL, _ALIGNED, _MASKED = (f"group:{group}" for group in GROUPS)

CLAIMS = (
    Claim("Reports in pretraining help a diagnosis",
          "With few images, encoders aligned with reports do better on diagnostic labels than self-supervised ones "
          "(5.1, Figure 4a).", "mimic_5x1200", "smallest", _ALIGNED, _SSL, "positive"),
    Claim("Alignment costs what reports leave out",
          "Encoders aligned with reports do worse on age than self-supervised ones (5.1, Figure 4b).",
          "age", "all", _ALIGNED, _SSL, "negative"),
    Claim("Masked modelling avoids that cost",
          "An encoder that learns from image and report without aligning them does better on age than aligned ones "
          "(5.1, Figure 4b).", "age", "all", _MASKED, _ALIGNED, "positive"),
    Claim("Masked modelling serves the diagnosis too",
          "With few images it does better on diagnostic labels than self-supervised encoders (5.1, Table 2).",
          "mimic_5x1200", "smallest", _MASKED, _SSL, "positive"),
    Claim("Self-supervision serves a distant prognosis",
          "Aligned encoders do worse on 12-month pulmonary hypertension than self-supervised ones (5.1, Figure 4d).",
          "ph_12_month", "all", _ALIGNED, _SSL, "negative"),
    Claim("Distillation helps a prognosis",
          "Distilled from a teacher that reads the report, heads do better on readmission with few images "
          "(5.2, Figure 5a).", "readmission_12_month", "smallest", "report_distilled", "image_only", "positive"),
    Claim("It is the report that helps",
          "There the gain is larger than that of self-distillation (5.2, Figure 5a).",
          "readmission_12_month", "smallest", "report_distilled", "self_distilled", "positive"),
    Claim("A report that says the label does not help",
          "On labels read off the report, distilling from the far better teacher gives no more than self-distillation "
          "(5.2, Figure 5c).", "mimic_5x1200", "smallest", "report_distilled", "self_distilled", "not positive"),
    Claim("With the report the teacher is far better",
          "On these labels the teacher beats the image-only head (5.2, Figure 5c, d).",
          "mimic_5x1200", "all", "teacher", "image_only", "positive"),
    Claim("A student passes its teacher",
          "On 3-day discharge the student does better than the teacher it learnt from (5.2, Figure 6b).",
          "discharge_3_day", "all", "report_distilled", "teacher", "positive"),
    Claim("The report can be a burden",
          "With few images the teacher does worse on 3-day discharge than the image-only head (5.2, Figure 6a).",
          "discharge_3_day", "smallest", "teacher", "image_only", "negative"),
    Claim("Age is in the image",
          "On age the teacher does worse than the image-only head (B.3, Figure 11).",
          "age", "all", "teacher", "image_only", "negative"),
)  # fmt: skip


def encoder_group(encoder: str) -> str:
    """Which of the paper's three kinds of pretraining (Figure 2) an encoder had; "" for others, such as ImageNet."""
    seen = IMAGE_ENCODERS[encoder].pretraining
    if seen.aligned:
        return GROUPS[1]
    if seen.text:
        return GROUPS[2]
    return GROUPS[0] if seen.image_ssl else ""


def contrast(scores: pd.DataFrame, claim: Claim, column: str = "auc") -> tuple[pd.Series, str]:
    """High minus low, one value a seed, averaged over encoders and sizes; and what it was computed from.

    Parameters
    ----------
    scores : DataFrame
        As `reports.heads.read_scores` gives them: one temperature and weight a method.
    column : the score

    Returns
    -------
    Series indexed by seed, empty where the scores hold nothing to compute it from
    str, why it is empty, or the encoders and sizes
    """
    rows = scores[scores["task"] == claim.task]
    if rows.empty:
        return pd.Series(dtype=float), f"task {claim.task} was not run"
    sizes = sorted(rows["size"].unique())
    rows = rows[rows["size"].isin(sizes[:1] if claim.sizes == "smallest" else sizes)]
    sides = []
    for side in (claim.high, claim.low):
        of_group = side.startswith("group:")
        mine = rows[rows["method"] == ("image_only" if of_group else side)]
        if of_group:
            mine = mine[mine["encoder"].map(encoder_group) == side.removeprefix("group:")]
        if mine.empty:
            missing = f"no encoder of the kind {side.removeprefix('group:')}" if of_group else f"method {side}"
            return pd.Series(dtype=float), f"{missing} was {'' if of_group else 'not '}run"
        keys = ["seed", "size"] if of_group else ["encoder", "seed", "size"]
        sides.append(mine.groupby(keys)[column].mean())
    difference = (sides[0] - sides[1]).dropna()
    used = "" if claim.high.startswith("group:") else f"{rows['encoder'].nunique()} encoders, "
    shown = ", ".join(str(n) for n in sorted(set(difference.index.get_level_values("size"))))
    return difference.groupby("seed").mean(), f"{used}{shown} training images"


def judge_claim(pair: PairedSeeds, expected: str, margin: float = 0.01) -> str:
    """One of `VERDICTS`, from the corrected interval over seeds: where it lies wholly on one side of the bound."""
    low, high = pair.low_corrected, pair.high_corrected
    yes, no = {
        "positive": (low > 0, high < 0),
        "negative": (high < 0, low > 0),
        "not positive": (high < margin, low > margin),
    }[expected]
    return VERDICTS[0] if yes else VERDICTS[1] if no else VERDICTS[2]


def verdicts(
    scores: pd.DataFrame,
    shares: dict[str, float],
    column: str = "auc",
    level: float = 0.95,
    margin: float = 0.01,
) -> pd.DataFrame:
    """Every claim with its contrast, interval and verdict.

    Parameters
    ----------
    scores : as for `contrast`
    shares : as of `evaluation_shares`
    margin : AUC that "no gain" may hide; chosen here

    Returns
    -------
    DataFrame
        claim, sentence, task, expected, difference, low, high, p, p_holm (corrected t test, Holm over all claims that
        could be tested), seeds, wins, verdict, basis (encoders and sizes, or why there is no verdict).
    """
    rows = []
    for claim in CLAIMS:
        values, basis = contrast(scores, claim, column)
        row = {"claim": claim.name, "sentence": claim.sentence, "task": claim.task, "expected": claim.expected,
               "verdict": VERDICTS[2], "basis": basis, "seeds": len(values)}  # fmt: skip
        if len(values) >= 2:
            pair = paired_seeds(np.zeros(len(values)), values.to_numpy(), shares[claim.task], level)
            row |= {"difference": pair.difference, "low": pair.low_corrected, "high": pair.high_corrected,
                    "p": pair.p_corrected, "wins": pair.wins}  # fmt: skip
            row["verdict"] = judge_claim(pair, claim.expected, margin)
        rows.append(row)
    table = pd.DataFrame(rows, columns=["claim", "sentence", "task", "expected", "difference", "low", "high", "p",
                                        "p_holm", "seeds", "wins", "verdict", "basis"])  # fmt: skip
    tested = table["p"].notna()
    if tested.any():
        table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"])
    return table


def compare_methods(
    scores: pd.DataFrame, shares: dict[str, float], column: str = "auc", level: float = 0.95
) -> pd.DataFrame:
    """Every method against the image-only head, by task, encoder and size: paired over seeds, Holm over all rows.

    Returns
    -------
    DataFrame
        task, encoder, size, method, the fields of `PairedSeeds`, p_holm (of p_corrected).
    """
    rows = []
    for (task, encoder, size), group in scores.groupby(["task", "encoder", "size"], sort=False):
        plain = group[group["method"] == "image_only"].set_index("seed")[column]
        for method, mine in group[group["method"] != "image_only"].groupby("method", sort=False):
            values = mine.set_index("seed")[column]
            both = values.index.intersection(plain.index)
            if len(both) >= 2:
                pair = paired_seeds(plain.loc[both], values.loc[both], shares[task], level)
                rows.append({"task": task, "encoder": encoder, "size": size, "method": method, **vars(pair)})
    if not rows:
        raise DataError("There is no method to compare with image_only over two or more seeds.")
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p_corrected"])
    return table


def headline(judged: pd.DataFrame, data: str) -> str:
    """One sentence on all `verdicts`: how many findings hold, do not, and cannot be told."""
    tested = judged.dropna(subset=["difference"])
    count = tested["verdict"].value_counts()
    words = dict(zip(VERDICTS, ("hold here", "do not hold here", "cannot be told"), strict=True))
    said = ", ".join(f"{count.get(verdict, 0)} {word}" for verdict, word in words.items())
    others = len(judged) - len(tested)
    end = f"; {others} speak of tasks or encoders that were not run." if others else "."
    return f"On {data}, of {len(judged)} findings {said}{end}"


def sentences(judged: pd.DataFrame, differences: pd.DataFrame) -> list[str]:
    """One sentence a finding that could be tested, and one a method of `compare_methods`."""
    said = []
    for row in judged.dropna(subset=["difference"]).itertuples():
        numbers = f"Difference {row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f})."
        said.append(f"{row.claim}: {row.verdict}. {row.sentence} {numbers}")
    for method, rows in differences.groupby("method", sort=False):
        above, below = (rows["low_corrected"] > 0).sum(), (rows["high_corrected"] < 0).sum()
        said.append(
            f"{METHOD_NAMES[method].capitalize()} against the image alone, over all tasks, encoders and sizes: mean "
            f"difference {rows['difference'].mean():+.3f}; of {len(rows)} corrected intervals {above} lie above zero, "
            f"{below} below."
        )
    return said


def evaluation_shares(splits: pd.DataFrame) -> dict[str, float]:
    """Evaluation images over all images of a split, by task, averaged over seeds."""
    return (splits["part"] == "evaluate").groupby(splits["task"]).mean().to_dict()
