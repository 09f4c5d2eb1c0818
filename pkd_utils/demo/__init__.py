"""The embedded cohort: simulated chest radiographs of a real CT's anatomy, in the layout of MIMIC on disk."""

from pkd_utils.demo.write import ensure, verify

__all__ = ["ensure", "verify"]
