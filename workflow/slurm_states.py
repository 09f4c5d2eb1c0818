"""What the pinned Slurm executor makes of the states of jobs, mended where Snakemake would wait for ever or be misled.

- Accounting says `CANCELLED by 1000`; the executor knows `CANCELLED` alone and takes such a job for a running one.
- A job that was preempted and is not started again (PreemptMode=CANCEL) stays PREEMPTED, and the executor waits for it.
  Here it has failed after `PATIENCE` seconds, so that Snakemake submits it again.
- It asks for raw numbers, in which an array's tasks are not found, and takes the state of the last task for all.
- It asks for jobs without their steps. A notebook is a step, and where memory ran out, that step is OUT_OF_MEMORY; the
  job, whose script saw it fail, is FAILED.

It says "Reason: Unknown" of a job out of memory or time; here one sentence says what to do.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import snakemake_executor_plugin_slurm as executor

PATIENCE = 600.0  # seconds; Slurm starts a requeued job some two minutes later, if there is room

SHORT_OF = {"OUT_OF_MEMORY": ("memory", "memory_gib"), "TIMEOUT": ("time", "walltime_hours")}

Answer = tuple[dict[str, str] | None, float | None]  # job -> state, and seconds; None where accounting does not answer
Ask = Callable[[str, Any], Awaitable[Answer]]


def mended(ask: Ask) -> Ask:
    """The executor's question to accounting, with answers that it understands."""
    preempted: dict[str, float] = {}  # job -> when it was first seen so
    told: set[str] = set()  # jobs of which was said what they lacked

    def plain(job: str, state: str) -> str:
        word = state.partition(" ")[0]
        if word != "PREEMPTED":
            preempted.pop(job, None)
            return word
        waited = time.monotonic() - preempted.setdefault(job, time.monotonic())
        return "FAILED" if waited > PATIENCE else word

    async def query_job_status(command: str, logger: Any) -> Answer:
        states, seconds = await ask(command.replace("JobIdRaw", "JobId").replace(" -X ", " "), logger)
        if not states:
            return states, seconds
        jobs = {job: plain(job, state) for job, state in states.items() if "." not in job}
        for step, state in states.items():
            job = step.partition(".")[0]
            if state == "OUT_OF_MEMORY" and jobs.get(job) == "FAILED":
                jobs[job] = state
        for job in [job for job, state in jobs.items() if state in SHORT_OF and job not in told]:
            told.add(job)
            what, key = SHORT_OF[jobs[job]]
            logger.warning(
                f"SLURM-job '{job}' ran out of {what}. Its next attempt, if one is left, asks for more. If the last "
                f"fails too, raise its notebook's {key} under cluster in params/local.yml and give the command again."
            )
        return jobs, seconds

    return query_job_status


def mend() -> None:
    """Let the executor of this process ask so."""
    executor.query_job_status = mended(executor.query_job_status)
