"""The page section of "Case or label?": a paragraph, figures and a short table from the stored results of a run."""

from pathlib import Path
from typing import Any

import pandas as pd

from pkd_utils.encoders.zoo import IMAGE_ENCODERS
from pkd_utils.runs import paths
from pkd_utils.runs.files import read_json
from pkd_utils.studies import figures
from pkd_utils.studies.transfer import arms, gain_map, protocol, statistic
from pkd_utils.studies.transfer.figures import gain_figure, ladder_figure, map_figure
from workflow.publish.pages.markdown import bullets, drawing, folded, folded_facts, image, interval, markdown_table

STORED = "openi-case-or-label.json"
TEXTS = {"names removed": "text without label names", "indication and comparison": "indication and comparison alone"}
TABLES = ("gains", "claims", "doses", "added")


CAVEATS = (
    "Labels are MeSH codes that people coded from the very reports, so that every task here is a diagnostic one, "
    "whatever is done to the text. What the coders got wrong nobody knows: part of a gain on labels as coded may still "
    "be cleaning. The collection was looked at before the protocol was written, which says what was seen: it is no "
    "blind test. Heads are linear, encoders frozen and small. Shaded: gains below the margin of use. What would have "
    "been told is so with 80 % power over the least certain of the three controls; over all three it is less likely."
)

MAP_ALT = (
    "Gain in AUROC of the text teacher over image only for each setting and outcome, along what the report adds beyond "
    "the image and along what other outcomes, and other sizes, say of it; colours are shares of flips, marks sizes."
)
LIMITS = (
    "Bits are of labels as observed, so that flips take some away: the axes are not independent. The papers' tasks are "
    "not placed on the map: Table 2 of {cite:t}`bergstrom2025` gives AUCs of image and of text, neither of which says "
    "what the text adds *beyond* the image."
)


def endpoint(table: pd.DataFrame) -> pd.DataFrame:
    """Of each setting the mean over its outcomes, or its only outcome."""
    several = table.groupby("setting")["outcome"].transform("nunique") > 1
    return table[several == (table["outcome"] == statistic.MEAN)]


def claims_table(claims: pd.DataFrame, called: dict[str, str]) -> pd.DataFrame:
    """Claims of the text teacher as people read them; `called` names each setting."""
    rows = []
    for row in claims[claims["report"] == arms.TEXT].to_dict("records"):
        said = {"setting": called[row["setting"]], "outcome": row["outcome"]}
        for over in ("image", "self", "permuted"):
            said[f"over {over}"] = interval(*(row[f"over_{over}{end}"] for end in ("", "_low", "_high")), digits=4)
        rows.append(said | {"reading": row["reading"], "would have told": f"{row['detectable']:.4f}"})
    return pd.DataFrame(rows)


def named(setting: protocol.Setting, first: protocol.Setting) -> str:
    """A setting by what is not as in the primary one."""
    told = [f"{setting.size} training studies"] if setting.size != first.size else []
    if setting.flips:
        told.append(f"{setting.flips:.0%} flipped" + (" (depending on the image)" if setting.kind == "image" else ""))
    if setting.image != first.image:
        told.append(IMAGE_ENCODERS[setting.image].title)
    if setting.outcomes != first.outcomes:
        told.append(f"{', '.join(setting.outcomes)} outcome")
    if setting.text != first.text:
        told.append(TEXTS.get(setting.text, f"{setting.text} text"))
    return " with ".join(told) or "primary setting"


def names(plan: protocol.Protocol) -> dict[str, str]:
    """What readers call each setting."""
    return {name: named(setting, plan.settings[plan.primary]) for name, setting in plan.settings.items()}


def paragraph(claims: pd.DataFrame, plan: protocol.Protocol) -> str:
    """The primary endpoint in a sentence, and the other settings by their reading."""
    ends = endpoint(claims)
    main = plan.settings[plan.primary]
    what = f"{main.size} training studies, labels as coded, {main.text} report, mean of {len(main.outcomes)} outcomes"
    joint = ends[(ends["report"] == arms.JOINT) & (ends["setting"] == plan.primary)].iloc[0]
    ends_of = interval(*joint[["over_image", "over_image_low", "over_image_high"]], digits=4)
    others = ends[(ends["report"] == arms.TEXT) & (ends["setting"] != plan.primary)]
    others = others.assign(setting=others["setting"].map(names(plan)))
    lead = statistic.sentences(ends, plan)[0].split(": ", 1)[1]
    single = claims[(claims["report"] == arms.TEXT) & (claims["setting"] == plan.primary)]
    single = single[single["outcome"] != statistic.MEAN]
    told, apart = (
        "; ".join(f"*{reading}*: {', '.join(rows[by])}" for reading, rows in table.groupby("reading", sort=False))
        for table, by in ((others, "setting"), (single, "outcome"))
    )
    return (
        f"Text teacher, {what} (primary endpoint): **{lead}** The joint teacher there: {ends_of} over image "
        f"only, {joint['reading']}. Outcome by outcome, {apart}. Other settings of the text teacher, {told}."
    )


def drawn(result: dict[str, Any], plan: protocol.Protocol) -> dict[str, tuple[Any, str]]:
    """Figures of a result by name, each with its alt text."""
    figures.use_style()
    first, called = plan.settings[plan.primary], names(plan)
    gains = pd.DataFrame(result["gains"])
    gains["setting"] = gains["setting"].map(called)
    own = [(called[plan.primary], outcome) for outcome in (statistic.MEAN, *first.outcomes)]
    what = "Gain in AUROC over image only, with intervals, of report teachers and their controls"
    made = {"primary": (gain_figure(gains, own, plan.margin), f"{what}, for each outcome of the primary setting.")}
    plain = [called[name] for name, setting in plan.settings.items() if not setting.flips and name != plan.primary]
    others = endpoint(gains[gains["setting"].isin(plain)])[["setting", "outcome"]].drop_duplicates()
    others = list(others.itertuples(index=False, name=None))
    made["settings"] = (gain_figure(gains, others, plan.margin), f"{what}, for each other setting without flips.")
    alike = {
        setting.flips: called[name]
        for name, setting in plan.settings.items()
        if (setting.image, setting.text, setting.size, setting.outcomes, setting.kind)
        == (first.image, first.text, first.size, first.outcomes, first.kind)
    }
    made["ladder"] = (ladder_figure(gains, alike, statistic.MEAN), f"{what}, along the share of flipped labels.")
    made["map"] = (map_figure(placed(result, plan)), MAP_ALT)
    return made


def placed(result: dict[str, Any], plan: protocol.Protocol) -> pd.DataFrame:
    """The map of a result."""
    return gain_map.cells(pd.DataFrame(result["claims"]), pd.DataFrame(result["added"]), plan.settings)


def judged(result: dict[str, Any], plan: protocol.Protocol) -> pd.DataFrame:
    """Whether the map of a result predicts."""
    return gain_map.judge(placed(result, plan), plan.seed)


def finding(stored: Path) -> str:
    """The home page's paragraph, or a sentence that there is none."""
    if not stored.exists():
        return "*No result on real data is stored in this copy of the book: `make open-data` makes one.*"
    result = read_json(stored)
    plan, _, sha256 = protocol.read(paths.resolve(result["protocol"]))
    if sha256 != result["protocol_sha256"]:
        return "*The stored result is of another protocol than the one in this copy of the book.*"
    told = paragraph(pd.DataFrame(result["claims"]), plan)
    method = "[the method](_generated/background/02-case-or-label)"
    where = f"[Every outcome, limits](_generated/open-data), and {method}."
    alt = "Gain in AUROC over image only, with intervals, of report teachers and their controls"
    figure = image("case-or-label-primary.png", alt, "_generated/")
    controls = " ".join(result["notes"])
    found = judged(result, plan)
    atlas = ""
    if len(found) and found["predicts"].all():
        atlas = f"\n\n{gain_map.sentence(found)}\n\n{image('case-or-label-map.png', MAP_ALT, '_generated/')}"
    return (
        f"On real radiographs with their reports (Open-i), linear heads, AUROC. {told}\n\n{figure}\n\n"
        f"{controls} {where}{atlas}"
    )


def section(stored: Path, generated: Path) -> str:
    """The section as Markdown, its figures drawn into `generated`; empty where no result is stored."""
    if not stored.exists():
        return ""
    result = read_json(stored)
    plan, said, sha256 = protocol.read(paths.resolve(result["protocol"]))
    if sha256 != result["protocol_sha256"]:
        return f"## {result['title']}\n\n*The stored result is of another protocol than the one in the repository.*"
    shown = []
    for name, (figure, alt) in drawn(result, plan).items():
        shown.append(drawing(figure, generated / f"case-or-label-{name}.png", alt))
    claims = pd.DataFrame(result["claims"])
    whole = claims_table(endpoint(claims), names(plan))
    by_outcome = claims_table(claims[claims["outcome"] != statistic.MEAN], names(plan))
    facts = {name: value for name, value in result.items() if name not in (*TABLES, "title", "text", "notes")}
    return "\n\n".join([
        f"## {result['title']}",
        said["question"].strip(),
        paragraph(claims, plan),
        shown[0],
        CAVEATS,
        bullets(result["notes"]),
        folded("Other texts, sizes, encoders", shown[1]),
        shown[2],
        markdown_table(whole),
        folded("Every outcome", markdown_table(by_outcome)),
        "### When does it help?",
        f"**{gain_map.sentence(judged(result, plan))}** {LIMITS}",
        shown[3],
        folded("The rule, written before the verdict", gain_map.RULE),
        folded_facts("Provenance", facts),
    ])  # fmt: skip
