"""How every bench measures: contenders take turns in one run, medians are compared, the machine is named."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import fastsample


def wall_seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def processor_seconds(call: Callable[[], object]) -> float:
    """The processor time of all threads of this process: what others do meanwhile is not in it, but for the caches."""
    start = time.process_time()
    call()
    return time.process_time() - start


def in_turn(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int = 15,
    seconds: float = 6.0,
    clock: Callable[[Callable[[], object]], float] = wall_seconds,
) -> dict[str, list[float]]:
    """Seconds of each call, all contenders once a round, so that a busy moment of the machine hits all alike.

    A contender that has used up its share of `seconds` after three calls is left out of the later rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, call in contenders.items():
            if len(times[name]) > 3 and sum(times[name]) > seconds / len(contenders):
                continue
            getattr(call, "prepare", int)()  # what a contender needs before each call and is not timed for
            times[name].append(clock(call))
    return {name: calls[1:] for name, calls in times.items()}  # the first call warms up


def quantiles(seconds: list[float]) -> tuple[float, float, float]:
    """p20, p50 and p80."""
    ordered = sorted(seconds)
    return ordered[len(ordered) // 5], statistics.median(ordered), ordered[-1 - len(ordered) // 5]


def machine() -> dict[str, str]:
    """Processor, instruction set and versions: a number means nothing without them."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = f"{names[0]}, {len(names)} processors" if names else model
    info = fastsample.info()
    return {
        "processor": model,
        "instruction set": str(info["instruction_set"]),
        "python": info["python"],
        "torch": info["packages"]["torch"],
        "fastsample": info["fastsample"],
        "date": time.strftime("%Y-%m-%d"),
    }
