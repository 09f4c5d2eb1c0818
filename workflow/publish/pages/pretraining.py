"""The page section of "What does pretraining leave?": a figure, the contrasts and the gains from the stored result."""

from pathlib import Path

import pandas as pd

from pkd_utils.runs.files import read_json
from pkd_utils.studies import figures
from pkd_utils.studies.pretraining import kinds_figure
from pkd_utils.studies.transfer import arms
from workflow.publish.pages.markdown import drawing, markdown_table
from workflow.publish.pages.results import provenance_block
from workflow.publish.pages.transfer import endpoint

STORED = "openi-pretraining.json"
ALT = (
    "AUROC of image-only heads on the half of Open-i that no encoder has seen, by outcome and number of training "
    "studies: a mark with its interval for each kind of pretraining and for the untrained network."
)
ASKED = (
    "Three small encoders that differ in nothing but the objective of their pretraining saw one half of Open-i's "
    "studies: image self-supervision, alignment with the report, and masked image and report, five seeds each. Linear "
    "heads ask the other half. Intervals cross pretraining seeds with studies; Holm's method runs over each table of "
    "contrasts."
)
LIMITS = (
    "Labels were coded from the reports, so that nothing here speaks of what reports leave out. The encoders are a "
    "hundred times smaller than the paper's, and have seen about 1,850 films of 96 pixels."
)


def told(rows: list[dict]) -> pd.DataFrame:
    """Contrasts as people read them."""
    table = pd.DataFrame(rows).round(3)
    names = {"p_holm": "p (Holm)", "detectable": "would have told", "size": "training studies"}
    return table.drop(columns="p").rename(columns=names)


def section(stored: Path, generated: Path) -> str:
    """The section as Markdown, its figure drawn into `generated`; "" without a stored result."""
    if not stored.exists():
        return ""
    result = read_json(stored)
    figures.use_style()
    table, claims = pd.DataFrame(result["auroc"]), endpoint(pd.DataFrame(result["claims"]))
    claims = claims[claims["report"] == arms.TEXT][["setting", "over_image", "over_self", "over_permuted", "reading"]]
    facts = {k: result.get(k) for k in ("commit", "device", "seconds", "protocol", "protocol_sha256", "versions")}
    return "\n\n".join([
        "## Open-i: what does pretraining leave?",
        f"{ASKED} {result['notes'][0]}",
        drawing(kinds_figure(table, list(table["outcome"].unique())), generated / "openi-pretraining.png", ALT),
        f"**Image only, mean over outcomes**\n\n{markdown_table(told(result['contrasts']))}",
        f"**What a teacher who reads the report adds, one kind less the other**\n\n"
        f"{markdown_table(told(result['contrasts of gains']))}",
        f"**That gain beside its controls**\n\n{markdown_table(claims.round(4))}",
        LIMITS,
        provenance_block(facts),
    ])  # fmt: skip
