"""What the paper claims, tested: known answers, and error rates in simulated studies."""

import pytest

from pkd_utils.studies.maps import claims


@pytest.mark.parametrize(
    ("name", "simulated", "same"),
    [
        ("mimic_cxr", False, True),
        ("mimic_cxr", True, False),
        ("cbis_mass", False, True),
        ("covid_chestxray", False, False),
    ],
)
def test_the_papers_data_are_named_so(name, simulated, same):
    said = claims.whose_data({"name": name, "simulated": simulated})
    assert ("other data" not in said) == same
