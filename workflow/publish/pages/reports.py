"""Tables of the book page "When are reports useful?".

They become fragments `book/_generated/reports-<name>.md` that `book/reports/the-study.md` includes.
"""

import inspect
from typing import Any

import pandas as pd

from pkd_utils.cohorts.tasks import age, mimic
from pkd_utils.cohorts.tasks.base import PAPER_COUNTS
from pkd_utils.cohorts.tasks.outcomes import outcome
from pkd_utils.cohorts.tasks.splits import TRAINING_SIZES
from pkd_utils.runs import paths
from pkd_utils.runs.profiles import read_runs
from pkd_utils.studies.reports.claims import CLAIMS, Claim
from workflow.publish.pages.markdown import markdown_table

DEMONSTRATION = "params/demo/reports/01-prepare-tasks.yml"

# Title, kind (section 3.1 of the paper), what is asked, where from, and the function whose defaults are the paper's.
TASKS = {
    "mimic_5x1200": ("MIMIC 5x1200", "diagnostic", "which one of five findings the report names", "MIMIC-CXR",
                     mimic.five_findings),
    "age": ("Age", "auxiliary", "which of five bins the age falls in", "MIMIC-CXR", age.age),
    "discharge_3_day": ("3-Day Discharge", "prognostic", "whether the patient goes home in the coming three days",
                        "MIMIC-CXR and MIMIC-IV", mimic.discharge),
    "ph_12_month": ("12-Month PH", "prognostic", "pulmonary hypertension within 12 months", "INSPECT",
                    outcome),
    "readmission_12_month": ("Readmission", "prognostic", "readmission within 12 months", "INSPECT",
                             outcome),
    "pulmonary_embolism": ("Pulmonary Embolism", "diagnostic", "an embolism now, from the report (appendix B.2)",
                           "INSPECT", outcome),
}  # fmt: skip
METHODS = {
    "image_only": "image only",
    "self_distilled": "self-distilled",
    "report_distilled": "report-distilled",
    "teacher": "teacher",
}
HOLDS = {
    "positive": "above 0",
    "negative": "below 0",
    "not positive": "below the margin",
}


def held_out(build: Any) -> str:
    """What a task evaluates on by default: a share, or so many images of each class."""
    defaults = {name: item.default for name, item in inspect.signature(build).parameters.items()}
    if "evaluate_per_class" in defaults:
        return f"{defaults['evaluate_per_class']:,} of each class"
    return f"{defaults['evaluate']:.0%}"


def tasks_table() -> pd.DataFrame:
    """One row a task of the paper; counts and shares are those that the code holds."""
    return pd.DataFrame([{
        "task": title,
        "kind": kind,
        "what is asked": asked,
        "data": source,
        "images": f"{PAPER_COUNTS[name]:,}",
        "held out": held_out(build),
    } for name, (title, kind, asked, source, build) in TASKS.items()])  # fmt: skip


def listed(samples: pd.Series, epochs: pd.Series) -> str:
    """Training sizes with their epochs: `100, 200 (100); 1,000 (50)`."""
    blocks = []
    for number, group in samples.groupby(epochs, sort=False):
        blocks.append(f"{', '.join(f'{n:,}' for n in group)} ({number})")
    return "; ".join(blocks)


def sizes_table() -> pd.DataFrame:
    """Training sizes and epochs: Tables 3 to 7, and the demonstration's from its parameter file."""
    reported = pd.read_csv(paths.resolve(TRAINING_SIZES))
    here = read_runs(paths.resolve(DEMONSTRATION))[""]
    rows = []
    for name, group in reported.groupby("task", sort=False):
        mine = here["sizes"].get(name, here["sizes"].get("*", []))
        rows.append({
            "task": TASKS[name][0],
            "the paper's": listed(group["samples"], group["epochs"]),
            "the demonstration's": f"{', '.join(f'{n:,}' for n in mine)} ({here['epochs']})",
        })  # fmt: skip
    return pd.DataFrame(rows)


def side(name: str) -> str:
    """One side of a contrast in words."""
    group = name.removeprefix("group:")
    return METHODS[name] if group == name else group


def claim_row(claim: Claim) -> dict[str, str]:
    """A finding of the paper as a table row."""
    return {
        "finding": f"**{claim.name}.** {claim.sentence}",
        "task, sizes": f"{TASKS[claim.task][0]}, {claim.sizes}",
        "contrast": f"{side(claim.high)} minus {side(claim.low)}",
        "holds if": HOLDS[claim.expected],
    }


def fragments() -> dict[str, str]:
    """Every fragment of the page, by file name without suffix."""
    tables = {"tasks": tasks_table(), "sizes": sizes_table(), "claims": pd.DataFrame([claim_row(c) for c in CLAIMS])}
    return {f"reports-{name}": markdown_table(table) for name, table in tables.items()}
