"""What a profile's runs will cost, by notebook, before any of them starts: `make plan PROFILE=paper`.

`python -m workflow.plan paper [--runs | --check] [--rates FOLDER]`

A run that was made here, with the same parameters and in one go, costs what its `run.json` says. All others are
modelled from rates that `make bench` measured (`book/results/benchmark-*.json`, or with --rates those of another
machine); what no rate was measured for says "not measured", and sums that lack something begin with ">". `reports` and
`maps` hold the models of the two studies; what any notebook takes at the size of its tests is added to each.

CPU-hours are those of one core, GPU-hours of the GPU that was measured, which device `auto` takes (params/local.yml).
Memory is the largest resident set of a run's own process; pages of files that are mapped count, which the operating
system takes back where it needs them. Of the data only the headers of some images are read, where a finished run names
them: `make data-check` looks at them. Reading from disks slower than the page cache is in no number.
"""
