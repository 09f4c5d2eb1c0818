"""Whether the data and weights that a profile's runs name are here, whole and readable: `make data-check`.

`python -m workflow.data_check paper [ONLY ...] [--all]`

Every root and weight file that the parameters name is looked for where `params/local.yml` says. Loaders read the tables
and reports as the notebooks do, and what they find is compared with the release's counts; every image that the tables
list must be a file that is not empty; of `SAMPLE` images, drawn with a seed, the header and the end are read; weights
are read as the encoders read them. `--all` decodes every image and loads weights into their networks. One sentence says
what is wrong with a place, and what the plan leaves out; the exit code is 1 if something that is here is broken, as a
release of which files are missing is, or if no run can be made.

It prints counts, roots and the first bad file's path below its root: for the user's own terminal.
"""

import argparse
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pkd_utils.cohorts import SOURCES, checks, load_cohort
from pkd_utils.cohorts.table import Cohort
from pkd_utils.encoders.image import load_image_encoder
from pkd_utils.encoders.text import load_text_encoder
from pkd_utils.encoders.weights import read_weights
from pkd_utils.encoders.zoo import IMAGE_ENCODERS, TEXT_ENCODERS
from pkd_utils.images.ct import volumes
from pkd_utils.images.decode import check_ends, open_image
from pkd_utils.runs import identity, notebooks, paths
from pkd_utils.runs.errors import DataError

SAMPLE = 1_000  # images; volumes, which are larger: a tenth
WIDTH = 100
GOOD, MISSING, PART, BROKEN = "good", "missing", "part", "BROKEN"
COMPUTED = ("balanced", "positive")  # steps of a funnel that depend on more than on what was downloaded
ENOUGH = 0.99  # of a release's count: a dozen rows of INSPECT stand there twice


@dataclass(frozen=True)
class Found:
    """What was found at one place: the words of `params/` for it, its state, and a sentence."""

    place: str
    state: str
    said: str

    def __str__(self) -> str:
        first = f"{self.state:9}{self.place}: "
        return textwrap.fill(first + self.said, WIDTH, subsequent_indent=" " * 9, break_on_hyphens=False,
                             break_long_words=False)  # fmt: skip


def sample(names: Sequence[str], count: int) -> list[str]:
    """So many of the names, drawn with a seed of their own number."""
    if len(names) <= count:
        return list(names)
    return [names[i] for i in sorted(np.random.default_rng(len(names)).choice(len(names), count, replace=False))]


def _places(parameters: dict[str, Any]) -> dict[str, str]:
    """Parameter -> place of others, without the roots that the run writes itself."""
    found = identity.foreign_paths(parameters)
    return {name: value for name, value in found.items() if not value.startswith("pkd_utils/")}


def _here(places: Iterable[str]) -> bool:
    return all(paths.resolve(place).exists() for place in places)


def cohorts_of(jobs: Iterable[notebooks.Described]) -> list[dict[str, Any]]:
    """Parameters to load cohorts with: of the runs that read one source at one place, those with most roots."""
    most: dict[tuple[str, str], dict[str, Any]] = {}
    for job in jobs:
        p = job.parameters
        if p.get("source") not in SOURCES or p.get("simulate_patients") or not p.get("data_root"):
            continue
        key = (p["source"], p["data_root"])
        if key not in most or len(_places(p)) > len(_places(most[key])):
            most[key] = p
    return list(most.values())


def check_source(p: dict[str, Any], whole: bool) -> Found:
    """Load a cohort as its run does, and look at its files."""
    place, options = p["data_root"], dict(p["options"])
    if p.get("radiographs_run"):  # which are made of the volumes
        options["pixels"] = "ct"
    others = [other for other in _places(p).values() if other != place and not _here([other])]
    if others:
        return Found(place, MISSING, f"is here, but is read together with {', '.join(others)}.")
    try:
        cohort = load_cohort(p["source"], paths.resolve(place), **options)
        rows = len(cohort.privileged)
    except (DataError, OSError) as error:
        return Found(place, BROKEN, str(error))
    counted = cohort.funnel[cohort.funnel["paper"].notna() & ~cohort.funnel["step"].str.startswith(COMPUTED)]
    less = counted[counted["rows"] < counted["paper"] * ENOUGH]
    lacking = less[less["step"].str.contains(r"\bthere\b")]  # what a loader leaves out because its file is not here
    if len(lacking):
        row = lacking.iloc[0]
        what = f"{row['step']}: {row['rows']:,} of the release's {row['paper']:,.0f}"
        return Found(place, BROKEN, f"{what}. Fetch the rest.")
    told = f"{cohort.info.title}: {len(cohort.images):,} images, {rows:,} rows of privileged information"
    told += f", {len(counted)} counts as released" if len(counted) and less.empty else ""
    found = check_files(place, cohort, told, whole) if cohort.has_images else Found(place, GOOD, f"{told}.")
    if less.empty or found.state == BROKEN:
        return found
    row = less.iloc[0]
    part = f" Less than the release: {row['step']}, {row['rows']:,} of {row['paper']:,.0f}; runs take what is here."
    return replace(found, state=PART, said=found.said + part)


def check_files(place: str, cohort: Cohort, told: str, whole: bool) -> Found:
    """Whether all images of a cohort are there, and some of them, or all, readable."""
    lacking = checks.lacking_files(cohort)
    if lacking:
        what = f"{len(lacking):,} of {len(cohort.images):,} images that its tables list are not there or empty"
        return Found(place, BROKEN, f"{what}, first {lacking[0]}. Fetch the rest.")
    listed = cohort.images["path"].tolist()
    scans = are_volumes(listed)
    some = listed if whole else sample(listed, SAMPLE // 10 if scans else SAMPLE)
    look: Callable[[Path], Any] = volumes.check_whole if scans else (open_image if whole else check_ends)
    return first_bad(place, cohort.root, some, look, f"{told}; {len(some):,} {'decoded' if whole else 'sampled'}")


def are_volumes(names: Sequence[str]) -> bool:
    """Whether these are CT volumes, not pictures."""
    return bool(names) and names[0].lower().endswith((".nii", ".nii.gz"))


def first_bad(place: str, root: Path, names: Sequence[str], look: Callable[[Path], Any], told: str) -> Found:
    """What `look` says of these files."""
    bad = list(checks.unreadable(root, names, look))
    if not bad:
        return Found(place, GOOD, f"{told}.")
    why = str(bad[0][1]).replace(f"{root}/", "")
    return Found(place, BROKEN, f"{len(bad):,} of {len(names):,} files that were looked at cannot be read: {why}")


def check_volumes(place: str, p: dict[str, Any], whole: bool) -> Found:
    """The CT volumes of a folder that no loader of a cohort reads."""
    root = paths.resolve(place) / p["volumes"]
    try:
        found = [str(path.relative_to(root)) for path in volumes.find_volumes(root) if path.is_file()]
    except (DataError, OSError) as error:
        return Found(place, BROKEN, str(error))
    some = found if whole else sample(found, SAMPLE // 10)
    return first_bad(place, root, some, volumes.check_whole, f"{len(found):,} volumes; {len(some):,} sampled")


def check_weights(place: str, name: str, p: dict[str, Any], whole: bool) -> Found:
    """A file or folder of weights."""
    encoder = p.get({"image_weights": "image_encoder", "text_weights": "text_encoder"}.get(name, ""), "")
    facts = (IMAGE_ENCODERS | TEXT_ENCODERS).get(encoder)
    path = paths.resolve(place)
    try:
        if whole and facts:
            (load_image_encoder if encoder in IMAGE_ENCODERS else load_text_encoder)(encoder, path)
            return Found(place, GOOD, f"{facts.title}, loaded into its network.")
        tensors = len(read_weights(path, facts.files if facts else ()).state)
        return Found(place, GOOD, f"{facts.title + ', ' if facts else ''}{tensors} tensors.")
    except (DataError, OSError) as error:
        return Found(place, BROKEN, str(error).replace(str(path), "it"))


def look(jobs: dict[str, notebooks.Described], gone: dict[str, str], whole: bool = False) -> list[Found]:
    """Everything that the runs of `notebooks.described` name, a line a place; `whole` is the command's `--all`.

    `gone` are those that the plan leaves out, and why, from `notebooks.that_can_run`.
    """
    uses: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for job in jobs.values():
        for name, value in _places(job.parameters).items():
            uses.setdefault(value, []).append((name, job.parameters))
    sources = cohorts_of(jobs.values())
    among = {place for p in sources for place in _places(p).values()}  # what a loader looks at
    tasks: list[Callable[[], Found]] = []
    for place, used in uses.items():
        name, p = used[0]
        if not _here([place]):
            tasks.append(partial(missing, place, gone))
        elif name.endswith("weights") or name == "text_encoder":
            tasks.append(partial(check_weights, place, name, p, whole))
        elif any(one["data_root"] == place for one in sources):
            tasks += [partial(check_source, one, whole) for one in sources if one["data_root"] == place]
        elif any("projector" in one for _, one in used):
            one = next(one for _, one in used if "projector" in one)
            tasks.append(partial(check_volumes, place, one, whole))
        else:
            told = "is here; it is read together with another" if place in among else "is here"
            tasks.append(partial(Found, place, GOOD, f"{told}."))
    return [check() for check in tqdm(tasks, "looking", unit="place", disable=None, leave=False)]


def missing(place: str, gone: dict[str, str]) -> Found:
    """A place with nothing, and the runs that are left out for it."""
    names = [name for name, why in gone.items() if why == f"{place} is not here"]
    where = paths.resolve(place)
    told = "is not here" if where == paths.PROJECT_ROOT / place else f"{where} does not exist"
    if place.startswith("data/assets"):
        return Found(place, MISSING, f"{told}: `make assets` fetches it.")
    left = f"; runs left out: {len(names)}, first {names[0]}" if names else ""
    return Found(place, MISSING, f"{told}{left}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was found; 1 if something is broken or nothing can run."""
    parser = argparse.ArgumentParser(prog="python -m workflow.data_check", description=__doc__.splitlines()[0])
    parser.add_argument("profile", help="a folder of params/, such as paper or open-data")
    parser.add_argument("only", nargs="*", help="a part: what starts like one of these words, and what it reads")
    parser.add_argument("--all", action="store_true", help="decode every image, load all weights into their networks")
    args = parser.parse_args(arguments)
    try:
        jobs = notebooks.described(args.profile, " ".join(args.only))
        left, gone = notebooks.that_can_run(jobs)
        found = look(jobs, gone, args.all)
    except (DataError, FileNotFoundError) as error:
        sys.exit(str(error))
    print(*found, sep="\n")
    wrong = [one for one in found if one.state == BROKEN]
    if any(one.state == MISSING for one in found):
        print("What is missing belongs there, or params/local.yml says where it is. book/reproduce.md says where")
        print("data are public, `python -m pkd_utils encoders list` where encoders are.")
    made = sum(bool(job.parameters.get("simulate_patients")) for job in left.values())
    of_these = f", {made} of them of data that they write" if made else ""
    print(f"{len(left)} of {len(jobs)} runs can be made{of_these}")
    if wrong:
        print(f"{len(wrong)} of {len(found)} places are broken: mend them first.")
    return 1 if wrong or not left else 0


if __name__ == "__main__":
    sys.exit(main())
