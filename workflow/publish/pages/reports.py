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
from pkd_utils.encoders.zoo import IMAGE_ENCODERS
from pkd_utils.runs import paths
from pkd_utils.runs.profiles import read_runs
from pkd_utils.studies.reports.contrasts import METHOD_NAMES
from pkd_utils.studies.reports.paper_claims import CLAIMS, DIRECTIONS, Claim, Line
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
KINDS = {
    "difference": "",
    "some task": "on some task",
    "along the gap": "slope over tasks along the gap of image-only and text-only AUC",
    "beyond encoders": "less the difference of every two image-only heads",
    "most of encoders": "more than with every other encoder",
    "unlike encoders": "some encoder more than some other",
    "widening": "some two encoders at the largest size, less every two at the smallest",
    "order": "some two encoders in opposite orders on two tasks",
}
ENCODERS = {"mean": "mean of encoders", "every": "every encoder", "some": "some encoder"}


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


def side(name: str | tuple[str, ...]) -> str:
    """One side of a contrast in words."""
    if isinstance(name, tuple):
        return ", ".join(IMAGE_ENCODERS[one].title for one in name)
    return METHOD_NAMES.get(name, name)


def compared(line: Line) -> str:
    """What a line compares, in words."""
    said = [f"{side(line.high)} minus {side(line.low)}"] if line.high != line.low else []
    if isinstance(line.encoders, tuple):
        said.append(side(line.encoders))
    elif line.high in METHOD_NAMES and line.kind == "difference":
        said.append(ENCODERS[line.encoders])
    said += [KINDS[line.kind]] if KINDS[line.kind] else []
    said.append(", ".join(TASKS[task][0] for task in line.tasks) + f" ({line.sizes})")
    said += [f"less each of {', '.join(TASKS[task][0] for task in line.than)}"] if line.than else []
    return "; ".join(said)


def bound(line: Line) -> str:
    """On which side of what a line is to lie."""
    sign, margins = DIRECTIONS[line.direction]
    return f"{'above' if sign > 0 else 'below'} {('0', 'the margin', '-margin')[margins]}"


def claim_row(claim: Claim) -> dict[str, str]:
    """A sentence of the paper as a table row."""
    return {
        "finding": f"**{claim.name}.** \u201c{claim.said}\u201d ({claim.where})",
        "compared; tasks (sizes)": " *and* ".join(compared(line) for line in claim.lines) or f"*needs {claim.needs}*",
        "holds if": " *and* ".join(bound(line) for line in claim.lines) or "not tested",
        "family": claim.family,
    }


def fragments() -> dict[str, str]:
    """Every fragment of the page, by file name without suffix."""
    tables = {"tasks": tasks_table(), "sizes": sizes_table(), "claims": pd.DataFrame([claim_row(c) for c in CLAIMS])}
    return {f"reports-{name}": markdown_table(table) for name, table in tables.items()}
