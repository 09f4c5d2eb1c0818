"""The real files behind the embedded cohorts, a small cohort of each kind, and how their folders are compared."""

import filecmp

import pytest

from pkd_utils.demo import build, cohort_class
from pkd_utils.demo.breast import birads
from pkd_utils.runs import assets

SMALL = {
    "chest": {"patients": 6, "seed": 3},
    "breast": {"mass_rows": 8, "calc_cases": 7, "seed": 3, "image_height": 128},
    "ct": {"patients": 7, "seed": 3, "voxel": 6.0},
}


def fetched(name):
    try:
        return assets.path(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def chest_ct():
    return fetched("chest_ct")


@pytest.fixture(scope="session")
def birads_table():
    fetched("birads_table")
    return birads.read()


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A function: folder of the small cohort of a kind, built once."""
    made = {}

    def of(kind):
        if kind not in made:
            fetched("birads_table" if kind == "breast" else "chest_ct")
            root = tmp_path_factory.mktemp(kind) / "one"
            made[kind] = build.ensure(cohort_class(kind)(**SMALL[kind]), root)
        return made[kind]

    return of


@pytest.fixture(scope="session")
def same_bytes():
    """A function: whether two folders hold the same files, but for what a loader keeps there (a name with a dot)."""

    def names(root):
        return sorted(p.relative_to(root).as_posix() for p in root.rglob("[!.]*") if p.is_file())

    def same(one, two):
        return names(one) == names(two) == filecmp.cmpfiles(one, two, names(one), shallow=False)[0]

    return same
