"""`python -m workflow.plan PROFILE`: the table, the devices whose rates it used, and what it stands on."""

import argparse
import sys
from collections.abc import Sequence

from pkd_utils.runs import notebooks
from pkd_utils.runs.errors import DataError
from workflow.plan import costs as table
from workflow.plan.costs import Cost, Runs, demonstrated, recorded
from workflow.plan.maps import Maps
from workflow.plan.rates import ENCODED, PACKED, RATES, Rates
from workflow.plan.reports import REPORT_TOKENS, Reports
from workflow.plan.tasks import NotKnown


class Plan:
    """Costs of all runs of a plan: of finished runs and of the demonstration's where `records`, else modelled."""

    def __init__(self, jobs: dict[str, notebooks.Described], rates: Rates, records: bool = True):
        self.jobs, self.rates = jobs, rates
        runs = Runs({reference: job.parameters for reference, job in jobs.items()})
        self.studies = (Reports(runs, rates), Maps(runs, rates))
        models = self.studies[0].models | self.studies[1].models
        self.costs = {}
        for reference, job in jobs.items():
            cost = self.costs[reference] = Cost(job.name, job.notebook)
            if records and (recorded(reference, job.parameters, cost) or demonstrated(job.parameters, rates, cost)):
                continue
            try:
                if job.notebook not in models:
                    raise NotKnown(job.notebook)
                models[job.notebook](job.parameters, cost)
                cost.spend(1, (0.0, rates.beginning()))
            except NotKnown as why:
                cost.nothing_known(str(why))

    def beside_finished(self) -> str:
        """The model beside what finished runs of the same parameters took, for a plan without `records`."""
        took = {reference: Cost(job.name, job.notebook) for reference, job in self.jobs.items()}
        made = [ref for ref, job in self.jobs.items() if recorded(ref, job.parameters, took[ref])]
        return table.beside_finished((self.costs[reference], took[reference]) for reference in made)

    def sentences(self) -> list[str]:
        """What the numbers stand on, and what is not in them."""
        every = list(self.costs.values())
        gpu = self.rates.gpu or "no GPU was measured, so that all work stands in CPU-hours"
        said = [f"Rates: {', '.join(name for name in self.rates.devices if name != self.rates.gpu)}; {gpu}."]
        made = [cost for cost in every if cost.device]
        if made:
            devices = ", ".join(sorted({cost.device for cost in made}))
            said.append(f"{len(made)} of the {len(every)} runs were made here, on {devices}.")
        for study in self.studies:
            said += [
                f"Images of {name}: {found.images:,}, by {found.source}." for name, found in study.prepared.items()
            ]
        if any(cost.notebook == "reports/02-encode" and not cost.device for cost in every):
            said.append(f"Every image has a report, of {REPORT_TOKENS} tokens (assumed) unless a run has read them.")
        if len(made) < len(every):
            said.append(
                "Images that no run has prepared are as large as the benchmarks' radiographs: "
                f"{ENCODED / 1e6:.1f} million pixels to be encoded, {PACKED / 1e6:.1f} to be packed."
            )
        unknown = sorted({why for cost in every for why in cost.unknown})
        return [*said, f"Not measured: {'; '.join(unknown)}."] if unknown else said

    def text(self, runs: bool = False) -> str:
        """The table, and what it stands on."""
        rows = table.table(list(self.costs.values()), bool(self.rates.gpu), runs)
        return f"{rows}\n\n{table.said(self.sentences())}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m workflow.plan", description=__doc__)
    parser.add_argument("profile", help="a folder of params/, such as paper or demo")
    parser.add_argument("only", nargs="*", help="a part: what starts like one of these words, and what it reads")
    parser.add_argument("--runs", action="store_true", help="a line a run")
    parser.add_argument("--check", action="store_true", help="the model beside what finished runs took, instead")
    parser.add_argument("--rates", default=RATES, help="folder of the benchmark files")
    args = parser.parse_args(arguments)
    try:
        jobs = notebooks.described(args.profile, " ".join(args.only))
        plan = Plan(jobs, Rates(args.rates), records=not args.check)
        if args.check:
            print(plan.beside_finished())
            return
        print(plan.text(args.runs))
        _, left_out = notebooks.that_can_run(jobs)
    except (DataError, FileNotFoundError) as error:
        sys.exit(str(error))
    if left_out:
        missing = f"{len(left_out)} of the {len(jobs)} runs cannot be made here yet"
        print(table.said([f"{missing}: `make data-check PROFILE={args.profile}` says why."]))


if __name__ == "__main__":
    main()
