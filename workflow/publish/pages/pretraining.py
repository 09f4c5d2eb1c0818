"""The page section of "What does pretraining leave?": a figure, the contrasts and the gains from the stored result."""

from pathlib import Path

import pandas as pd

from pkd_utils.runs import paths
from pkd_utils.runs.files import read_json
from pkd_utils.studies import figures
from pkd_utils.studies.pretraining import NAMES, kinds_figure
from pkd_utils.studies.transfer import protocol, statistic
from workflow.publish.pages.markdown import drawing, folded, folded_facts, interval, markdown_table
from workflow.publish.pages.transfer import claims_table, endpoint

TITLE = "## Open-i: what does pretraining leave?"
STORED = "openi-pretraining.json"
EXPLORED = "openi-pretraining-words.json"  # more of the reports' words hidden from "masked", after STORED was seen
ALT = (
    "AUROC of image-only heads on the half of Open-i that no encoder has seen, by outcome and number of training "
    "studies: a mark with its interval for each kind of pretraining and for the untrained network."
)
ASKED = (
    "Three small encoders that differ in nothing but the objective of their pretraining saw one half of Open-i's "
    "studies: image self-supervision, alignment with the report, and masked image and report. Linear "
    "heads ask the other half. Intervals cross pretraining seeds with studies; Holm's method runs over each table of "
    "contrasts."
)
LIMITS = (
    "Labels were coded from the reports, so that nothing here speaks of what reports leave out. The encoders are far "
    "smaller than the paper's"
)
OTHER = "*The stored result is of another protocol than the one in this copy of the book.*"


def told(rows: list[dict]) -> pd.DataFrame:
    """Contrasts as people read them."""
    table = pd.DataFrame(rows)
    return pd.DataFrame({
        "kind, less the other": [f"{NAMES[row.kind]}, less {NAMES[row.against]}" for row in table.itertuples()],
        "training studies": table["size"],
        "difference": [interval(row.difference, row.low, row.high) for row in table.itertuples()],
        "p (Holm)": table["p_holm"],
        "would have told": table["detectable"].round(3),
        "reading": table["reading"],
    })  # fmt: skip


def finding(stored: Path) -> str:
    """The page of findings' paragraph, or a sentence that there is none."""
    if not stored.exists():
        return "*No such result is stored in this copy of the book: `make open-data PROFILE=open-data-full` makes one.*"
    result = read_json(stored)
    plan, _, sha256 = protocol.read(paths.resolve(result["protocol"]))
    if sha256 != result["protocol_sha256"]:
        return OTHER
    alone, given = (
        " and ".join(
            f"{interval(row['difference'], row['low'], row['high'])} with {row['size']} training studies: "
            f"{row['reading']}"
            + " (primary endpoint)"
            * (name == "contrasts" and row["size"] == plan.settings[plan.primary].size)
            for row in result[name]
            if (row["kind"], row["against"]) == ("alignment", "image_ssl")
        )
        for name in ("contrasts", "contrasts of gains")
    )
    below = sorted({NAMES[row["kind"]] for row in result["control"] if row["reading"] != "better"})
    failed = f" The control failed for {', '.join(below)}: not shown to be above an untrained network." if below else ""
    later = stored.with_name(EXPLORED)
    failed += f" With more words hidden, explored after: {read_json(later)['notes'][0]}" if later.exists() else ""
    return (
        f"On real films (Open-i), encoders that differ in their objective alone, {plan.partitions} pretraining seeds "
        "each. Alignment with reports less image self-supervision, mean AUROC of heads that see the image alone: "
        f"{alone}. What a teacher who reads the report adds then, one less the other: {given}.{failed} "
        "[Figure and tables](_generated/open-data.md)."
    )


def explored(stored: Path) -> str:
    """What hiding more words changed, after the first result was seen; "" without a stored result."""
    if not stored.exists():
        return ""
    result = read_json(stored)
    rows = [row for row in result["control"] + result["contrasts"] if "masked" in (row["kind"], row["against"])]
    shown = f"{markdown_table(told(rows))}\n\n{result['commit'][:12]}, {result['protocol']}"
    below = folded("Masked encoders with more words hidden", shown)
    return f"Exploratory, after that: {result['title']}. {result['notes'][0]}\n\n{below}"


def section(stored: Path, generated: Path) -> str:
    """The section as Markdown, its figure drawn into `generated`; "" without a stored result."""
    if not stored.exists():
        return ""
    result = read_json(stored)
    plan, said, sha256 = protocol.read(paths.resolve(result["protocol"]))
    if sha256 != result["protocol_sha256"]:
        return f"{TITLE}\n\n{OTHER}"
    figures.use_style()
    table, claims = pd.DataFrame(result["auroc"]), endpoint(pd.DataFrame(result["claims"]))
    called = {name: f"{NAMES[one.image]}, {one.size} training studies" for name, one in plan.settings.items()}
    outcomes = sorted(table["outcome"].unique(), key=lambda name: name != statistic.MEAN)
    facts = {k: result.get(k) for k in ("commit", "device", "seconds", "protocol", "protocol_sha256", "versions")}
    return "\n\n".join([
        TITLE,
        f"{ASKED} {result['notes'][0]}",
        drawing(kinds_figure(table, outcomes), generated / "openi-pretraining.png", ALT),
        f"**Image only, mean over outcomes**\n\n{markdown_table(told(result['contrasts']))}",
        f"**What a teacher who reads the report adds, one kind less the other**\n\n"
        f"{markdown_table(told(result['contrasts of gains']))}",
        f"**That gain beside its controls**\n\n{markdown_table(claims_table(claims, called))}",
        explored(stored.with_name(EXPLORED)),
        f"{LIMITS}: {said['pretraining']['encoders']}.",
        folded_facts("Provenance", facts),
    ])  # fmt: skip
