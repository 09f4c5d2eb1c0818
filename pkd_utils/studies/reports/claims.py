"""Test what Bergström et al. say: it holds here, it does not, we cannot tell, or it cannot be tested here.

`paper_claims.CLAIMS` says what is compared, `contrasts` computes the differences. Each has a t test over seeds with
Nadeau and Bengio's variance, against its own bound. That every one of k lies beyond its bound has the p of the weakest
(intersection-union test); that some one does, k times the smallest p (Bonferroni). Verdicts rest on p after Holm's
method over all claims of a family. The paper gives no tests.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.comparisons import holm, p_text, paired_seeds
from pkd_utils.statistics.intervals import within
from pkd_utils.statistics.power import detectable_differences
from pkd_utils.studies.reports.contrasts import KINDS, METHOD_NAMES, Difference, Heads, Joined, NotRun, Scores, need
from pkd_utils.studies.reports.paper_claims import CLAIMS, DIRECTIONS, Claim

VERDICTS = ("holds here", "does not hold here", "cannot tell", "cannot be tested here")
POWER = 0.8  # with which a difference that could have been told is told
CONTROLS = ("self_distilled", "self_restart", "permuted_distilled")  # of distillation from reports
COLUMNS = ["claim", "said", "where", "family", "expected", "difference", "low", "high", "bound", "p", "p_holm"]
COLUMNS += ["told", "seeds", "wins", "tests", "verdict", "basis"]


class Tested(NamedTuple):
    """A difference held against its bound; of several, the one that decides, with the p of all."""

    label: str
    difference: float
    error: float  # standard error, corrected
    freedom: float
    seeds: int
    wins: float  # seeds on the expected side of zero, ties half; NaN over several cohorts
    reach: float
    bound: float
    yes: float  # twice the one-sided p that it lies beyond the bound as said; may exceed 1
    no: float  # and on the other side
    tests: int = 1


def held_against(one: Difference, scores: Scores, side: int, bound: float) -> Tested:
    """Test that a difference lies above its bound (side 1) or below it (-1).

    Tasks that one run prepared are added up within seeds, and the variance of the mean is Nadeau and Bengio's with the
    largest of their evaluation shares. Seeds of different runs are drawn independently: variances add, with
    Satterthwaite's degrees of freedom.
    """
    pairs = []
    for run in dict.fromkeys(scores.cohorts[task] for task in one.by_task):
        tasks = [task for task in one.by_task if scores.cohorts[task] == run]
        values = sum(one.by_task[task] for task in tasks).dropna()
        need(len(values) > 1, f"two seeds ({one.label})")
        share = max(scores.shares[task] for task in tasks)
        pairs.append(paired_seeds(np.zeros(len(values)), values, share, bounds=(-np.inf, np.inf)))
    difference, wins = sum(pair.difference for pair in pairs), pairs[0].wins if len(pairs) == 1 else np.nan
    variances, least = np.array([pair.error_corrected**2 for pair in pairs]), min(pair.seeds for pair in pairs)
    error, distance = float(np.sqrt(variances.sum())), side * (difference - bound)
    parts = variances**2 / np.array([pair.seeds - 1 for pair in pairs])
    freedom = error**4 / parts.sum() if error else least - 1
    t = distance / error if error else np.inf * distance if distance else 0.0
    wins = wins if side > 0 else least - wins
    p = (float(2 * tail(t, freedom)) for tail in (stats.t.sf, stats.t.cdf))
    return Tested(one.label, difference, error, float(freedom), least, wins, one.reach, bound, *p)


def joined(how: str, parts: list[Tested]) -> Tested:
    """The one of several that decides, with the p that "every" one or "some" one lies beyond its bound."""
    k, yes, no = len(parts), [part.yes for part in parts], [part.no for part in parts]
    p = (max(yes), k * min(no)) if how == "every" else (k * min(yes), max(no))
    decides = parts[int(np.argmax(yes) if how == "every" else np.argmin(yes))]
    return decides._replace(yes=p[0], no=p[1], tests=sum(part.tests for part in parts))


def weigh(tree: Difference | Joined, test: partial) -> Tested:
    """Test all differences of a tree and join them."""
    if isinstance(tree, Difference):
        return test(tree)
    return joined(tree.how, [weigh(part, test) for part in tree.parts])


def judge_claim(claim: Claim, heads: Heads, margin: float) -> Tested:
    """Test every line of a claim; `NotRun` says what is missing."""
    found = []
    for line in claim.lines:
        side, margins = DIRECTIONS[line.direction]
        test = partial(held_against, scores=heads.scores, side=side, bound=margins * margin)
        found.append(weigh(KINDS[line.kind](heads, line), test))
    return joined("every", found)


def expected(claim: Claim, margin: float) -> str:
    """What would make a claim true, in words: "above 0, below 0.01"."""
    sides = [DIRECTIONS[line.direction] for line in claim.lines]
    return ", ".join(dict.fromkeys(f"{'above' if s > 0 else 'below'} {m * margin:g}" for s, m in sides))


def verdicts(scores: Scores, column: str = "auc", level: float = 0.95, margin: float = 0.01) -> pd.DataFrame:
    """Every claim with the difference that decides it, its interval and the verdict.

    Parameters
    ----------
    column : the score
    level : of intervals; verdicts allow each family 1 - level false ones
    margin : AUC that "no gain" and "no loss" may hide; chosen here

    Returns
    -------
    DataFrame, `COLUMNS`
        `difference`: of the comparison that decides, out of `tests`; `low`, `high` its corrected interval, not widened
        for the family; `p` two-sided, that of the claim; `p_holm` over the tested claims of its family; `told`: how far
        from its bound that difference must be to be told with a power of `POWER` where the whole family shares the
        level (of several comparisons: if the others are clear), NaN if more than there can be; `basis`: what was
        compared, or what is missing.
    """
    heads, rows = Heads(scores, column), []
    for claim in CLAIMS:
        row = {"claim": claim.name, "said": claim.said, "where": claim.where, "family": claim.family}
        row |= {"expected": expected(claim, margin), "verdict": VERDICTS[3], "basis": f"needs {claim.needs}"}
        try:
            if claim.lines:
                row |= _row(judge_claim(claim, heads, margin), level)
        except NotRun as missing:
            row["basis"] = f"needs {missing}"
        rows.append(row)
    table = pd.DataFrame(rows, columns=[*COLUMNS, "error", "freedom", "reach", "side"])
    for _, family in table.dropna(subset=["p"]).groupby("family"):
        table.loc[family.index, "p_holm"] = holm(family["p"])
        told = detectable_differences(family, (1 - level) / len(family), POWER)
        table.loc[family.index, "told"] = np.where(told < family["reach"], told, np.nan)
    clear = table["p_holm"] <= 1 - level
    table.loc[clear, "verdict"] = np.where(table["side"][clear], VERDICTS[0], VERDICTS[1])
    return table[COLUMNS]


def _row(found: Tested, level: float) -> dict[str, object]:
    half = float(stats.t.ppf((1 + level) / 2, found.freedom) * found.error)
    low, high = within(found.difference, half, (-found.reach, found.reach))
    basis = found.label if found.tests == 1 else f"{found.label} (the one that decides, of {found.tests})"
    names = ("difference", "error", "freedom", "reach", "seeds", "wins", "bound", "tests")
    return {name: getattr(found, name) for name in names} | {
        "low": low, "high": high, "p": min(1.0, found.yes, found.no), "side": found.yes < found.no,
        "verdict": VERDICTS[2], "basis": basis}  # fmt: skip


def compare_methods(scores: Scores, column: str = "auc", level: float = 0.95) -> pd.DataFrame:
    """Every method against the image-only head, and the report's students against their controls, by encoder.

    Paired over seeds, by task, encoder and size. Holm's method runs over what a figure of the paper shows: the students
    of a task (Figures 5, 6, 9 to 11), and apart from them its teachers, its text-only heads, its probes.

    Returns
    -------
    DataFrame
        task, encoder, size, method, against, the fields of `PairedSeeds`, family, p_holm (of p_corrected).
    """
    rows = []
    for (task, encoder, size), group in scores.rows.groupby(["task", "encoder", "size"], sort=False):
        wide = group.pivot_table(index="seed", columns="method", values=column, sort=False)
        against = [(method, "image_only") for method in wide if method != "image_only"]
        against += [("report_distilled", method) for method in CONTROLS if method in wide]
        for method, other in against:
            both = wide[[method, other]].dropna() if {method, other} <= set(wide) else []
            if len(both) >= 2:
                pair = paired_seeds(both[other], both[method], scores.shares[task], level)
                family = "students" if method in (*CONTROLS, "report_distilled") else method
                rows.append({"task": task, "encoder": encoder, "size": size, "method": method, "against": other,
                             **vars(pair), "family": family})  # fmt: skip
    if not rows:
        raise DataError("There is no method to compare with image_only over two or more seeds.")
    table = pd.DataFrame(rows)
    table["p_holm"] = table.groupby(["task", "family"])["p_corrected"].transform(holm)
    return table


def headline(judged: pd.DataFrame, data: str) -> str:
    """One sentence on all `verdicts`."""
    count = judged["verdict"].value_counts()
    words = ("hold here", "do not hold here", "cannot be told", "cannot be tested with what was run")
    said = [f"{count.get(verdict, 0)} {word}" for verdict, word in zip(VERDICTS, words, strict=True)]
    return f"On {data}, of {len(judged)} findings {', '.join(said[:-1])}; {said[-1]}."


def sentences(judged: pd.DataFrame, differences: pd.DataFrame, level: float = 0.95) -> list[str]:
    """One sentence a claim that was tested, a reason why others were not, a pair of methods of `compare_methods`."""
    said, tested = [], judged["verdict"] != VERDICTS[3]
    for row in judged[tested].itertuples():
        text = f'{row.claim}: {row.verdict}. The paper: "{row.said}" ({row.where}).'
        interval = f"{row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f})"
        text += f" {row.basis}: {interval}, {p_text(row.p_holm)} after Holm."
        if row.verdict == VERDICTS[2]:
            ends = f"{row.bound - row.told:+.3f} or less and {row.bound + row.told:+.3f} or more"
            ends = ends if np.isfinite(row.told) else "no difference that there can be"
            alone = " of that one by itself" if row.tests > 1 else ""
            text += f" With a power of {POWER:.0%}, {ends} would have been told{alone}."
        said.append(text)
    for basis, rows in judged[~tested].groupby("basis", sort=False):
        said.append(f"Cannot be tested here ({basis}): {'; '.join(rows['claim'])}.")
    for (method, against), rows in differences.groupby(["method", "against"], sort=False):
        clear = rows[rows["p_holm"] <= 1 - level]["difference"]
        said.append(
            f"{METHOD_NAMES[method].capitalize()} against {METHOD_NAMES[against]}, over all tasks, encoders and sizes: "
            f"mean difference {rows['difference'].mean():+.3f}; after Holm's method {(clear > 0).sum()} of {len(rows)} "
            f"lie above zero, {(clear < 0).sum()} below."
        )
    return said
