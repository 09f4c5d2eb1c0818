"""The arms of a study of maps: which student was taught by whom.

baseline  labels alone (lambda = 0)
mmpkd     the teacher that has read the report, or the lesion's description: what the papers call distilled
self      `control: self` of 03-distil-student: the teacher is a baseline student of another seed
permuted  `control: permuted`: the teacher's soft labels, shuffled among the training images of a class

A control has what the distilled student has but the case's own report: a gain that it has as well is not the report's.
"""

from collections.abc import Iterable

from pkd_utils.runs import files, run

CONTROLS = ("self", "permuted")
METHODS = ("baseline", "mmpkd", *CONTROLS)
METHOD_NAMES = {
    "baseline": "baseline",
    "mmpkd": "distilled",
    "self": "self-distilled",
    "permuted": "permuted teacher",
}
STUDENT = ["method", "weight", "temperature", "fold", "seed"]
"""Columns that name a student."""


def methods_of(reference: str, weights: Iterable[float]) -> list[str]:
    """Method of each student of a run of `03-distil-student`, or of the run of `04-evaluate-attention` that read it.

    Parameters
    ----------
    reference : the run, such as `mmpkd/embedded/03-distil-student/permuted`
    weights : lambda of each student
    """
    asked = files.read_json(run.find_run(reference) / "run.json")["parameters"]
    if "student_run" in asked:
        return methods_of(asked["student_run"], weights)
    return ["baseline" if weight == 0 else asked.get("control") or "mmpkd" for weight in weights]
