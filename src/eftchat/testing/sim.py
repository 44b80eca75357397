"""`eftchat-sim`: runs simulated clusters, seed after seed, and prints how to see each failure again.

Exit status 0 when every invariant held in every run, 1 when one did not.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from twisted.logger import globalLogBeginner

from eftchat.testing.mutations import MUTATIONS
from eftchat.testing.world import Verdict, run

CHUNK = 20


def trial(seed: int, mutation: str | None = None, *, trace: bool = False) -> Verdict:
    """One run, with a planted mistake if one is named."""
    with MUTATIONS[mutation].planted() if mutation else nullcontext():
        return run(seed, trace=trace)


def trials(seeds: Sequence[int], mutation: str | None, jobs: int) -> Iterator[Verdict]:
    """The verdicts of all these runs, in no certain order; in `jobs` processes, or here when that is 1."""
    if jobs == 1:
        yield from (trial(seed, mutation) for seed in seeds)
        return
    chunks = [(seeds[start : start + CHUNK], mutation) for start in range(0, len(seeds), CHUNK)]
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=quiet) as pool:
        for verdicts in pool.imap_unordered(_chunk, chunks):
            yield from verdicts


def _chunk(work: tuple[Sequence[int], str | None]) -> list[Verdict]:
    seeds, mutation = work
    return [trial(seed, mutation) for seed in seeds]


def quiet() -> None:
    """What the core logs is judged, not printed."""
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)


def again(verdict: Verdict, mutation: str | None) -> str:
    """The command that shows this run again."""
    return f"eftchat-sim --seed {verdict.seed}" + (f" --mutation {mutation}" if mutation else "")


@click.command()
@click.option("--seeds", default=1_000, show_default=True, help="How many runs.")
@click.option("--start", default=0, show_default=True, help="The first seed.")
@click.option("--jobs", default=1, show_default=True, help="Processes that share the work.")
@click.option("--failures", default=5, show_default=True, help="Stop after this many broken runs.")
@click.option("--seed", type=int, help="Only this run.")
@click.option("--trace", is_flag=True, help="With --seed: everything that happened: time, actor, what.")
@click.option("--mutation", type=click.Choice(sorted(MUTATIONS)), help="Plant this mistake.")
def main(seed: int | None, trace: bool, mutation: str | None, **many: int) -> None:
    """Runs a whole simulated cluster per seed, with faults, and judges it."""
    quiet()
    if seed is not None:
        broken = _show(trial(seed, mutation, trace=trace), mutation)
    else:
        seeds = range(many["start"], many["start"] + many["seeds"])
        broken = _many(seeds, mutation, many["jobs"], many["failures"])
    sys.exit(1 if broken else 0)


def _show(verdict: Verdict, mutation: str | None) -> bool:
    for line in verdict.trace:
        click.echo(line)
    if verdict.broken:
        click.echo(f"{again(verdict, mutation)}: broken: {verdict.broken}: {verdict.evidence}")
    else:
        said = f"{verdict.messages} messages, {verdict.seconds:.0f} s of a cluster's life"
        click.echo(f"{again(verdict, mutation)}: all invariants held ({said})")
    return bool(verdict.broken)


def _many(seeds: Sequence[int], mutation: str | None, jobs: int, failures: int) -> bool:
    console = Console()
    speed = TextColumn("{task.fields[speed]:.0f} seeds/s, {task.fields[broken]} broken")
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), speed)
    done = messages = broken = 0
    life = 0.0
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(seeds), speed=0.0, broken=0)
        for verdict in trials(seeds, mutation, jobs):
            done, messages, life = done + 1, messages + verdict.messages, life + verdict.seconds
            if verdict.broken:
                broken += 1
                evidence = verdict.evidence[:200]
                progress.console.print(
                    f"{again(verdict, mutation)}  # {verdict.broken}: {evidence}",
                    markup=False,
                    highlight=False,
                )
            elapsed = progress.tasks[0].elapsed or 1e-9
            progress.update(task, advance=1, speed=done / elapsed, broken=broken)
            if broken >= failures:
                break
    console.print(
        f"{done} runs, {messages} messages, {life / 3600:.1f} h of a cluster's life, {broken} broken"
    )
    return broken > 0


if __name__ == "__main__":
    main()
