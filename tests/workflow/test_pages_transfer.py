"""The page section of "Case or label?" says what the stored result says, and only of its own protocol."""

import numpy as np
import pytest

from pkd_utils.runs import paths
from pkd_utils.runs.files import write_json
from pkd_utils.studies.transfer import arms, gain_map, protocol, statistic
from workflow.publish.pages import transfer

FILE = "book/protocols/case-or-label.yml"


@pytest.fixture
def stored(tmp_path):
    """A result in which the text teacher gains in the primary setting alone."""
    plan, said, sha256 = protocol.read(paths.resolve(FILE))
    rng, found = np.random.default_rng(0), {}
    for name, setting in plan.settings.items():
        for outcome in setting.outcomes:
            means = np.array([0.73 if arm == arms.TEXT and name == plan.primary else 0.7 for arm in arms.ARMS])
            drawn = 0.004 * rng.standard_normal((400, len(means)))
            found[name, outcome] = statistic.Resamples(means, 0 * drawn, drawn, 0 * drawn)
    found = statistic.with_means(found)
    tables = {"gains": statistic.gains(found, plan.level), "claims": statistic.claims(found, plan)}
    tables["added"] = tables["gains"][["setting", "outcome"]].drop_duplicates().assign(bits=0.1)
    record = {name: table.to_dict("records") for name, table in tables.items()}
    facts = {"title": said["title"], "notes": ["Control of a kind: as it must be."], "reference": "a/b/c/d"}
    write_json(tmp_path / transfer.STORED, {**record, **facts, "protocol": FILE, "protocol_sha256": sha256})
    return tmp_path / transfer.STORED


def test_the_section_leads_with_the_reading_and_draws_its_figures(stored):
    page = transfer.section(stored, stored.parent)
    lead = page.index("(primary endpoint): **+0.03")
    assert lead < page.index(f"{statistic.TAUGHT}.**") < page.index("```{image} case-or-label-primary.png")
    assert transfer.finding(stored).count("(primary endpoint): **+0.03") == 1
    home = transfer.finding(stored)
    assert "image} _generated/case-or-label-primary.png" in home and "Control of a kind" in home
    assert "30% flipped (depending on the image)" in home and "semi-synthetic outcome with another" in home
    assert "it is no blind test" in page and "MeSH" in page and ":::{dropdown} Provenance" in page
    assert page.count(":alt: Gain in AUROC") == 4 and "Control of a kind" in page
    for name in ("primary", "settings", "ladder", "map"):
        assert (stored.parent / f"case-or-label-{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "| 100 training studies " in page and "| 30% flipped (depending on the image) " in page
    assert not any(name in page + home for name in ("size-100", "flips-30", "semi-synthetic-shuffled"))


@pytest.mark.parametrize("predicts", [True, False])
def test_the_map_is_on_its_page_and_on_the_home_page_if_it_predicts(stored, monkeypatch, predicts):
    monkeypatch.setattr(gain_map, "by_rule", lambda *numbers: predicts)
    home, page = transfer.finding(stored), transfer.section(stored, stored.parent)
    said = "The map predicts held-out cells" if predicts else "The map does not predict"
    assert all(words in page for words in (said, gain_map.RULE, "case-or-label-map.png", "not placed on the map"))
    assert (said in home) == ("case-or-label-map.png" in home) == predicts


def test_a_result_of_another_protocol_is_not_shown_and_none_is_no_section(stored):
    stored.write_text(stored.read_text().replace('"protocol_sha256": "', '"protocol_sha256": "0'))
    assert "another protocol" in transfer.section(stored, stored.parent)
    assert "another protocol" in transfer.finding(stored)
    none = stored.with_name("none.json")
    assert "No result" in transfer.finding(none) and transfer.section(none, stored.parent) == ""
