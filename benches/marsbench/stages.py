"""Where the time of a write goes: the counters that the logger publishes, as the difference over a run."""

import statistics

from .table import note

NAMES = ("queue", "encode", "append", "sync", "acknowledge", "write_back")


class Stages:
    def __init__(self, bench, host):
        self.bench, self.host = bench, host

    def around(self, what, fn):
        """fn, and the counters before and after it are kept."""

        def go():
            before = self.host.live().get("log", {})
            figure = fn()
            after = self.host.live().get("log", {})
            self.bench.stages.setdefault(what, []).append(difference(before, after))
            return figure

        return go


def difference(before, after):
    """stage -> (times, mean in microseconds)."""
    out = {}
    for name in NAMES:
        count = after.get(f"{name}_count", 0) - before.get(f"{name}_count", 0)
        ns = after.get(f"{name}_ns", 0) - before.get(f"{name}_ns", 0)
        if count > 0:
            out[name] = (count, ns / count / 1000)
    return out


def show(stages):
    """One line for each kind of load: medians over the rounds."""
    if not any(any(r) for r in stages.values()):
        note("stages: this logger publishes no latencies")
        return
    print("\nwhere the time goes, mean microseconds of each stage (how often in a run), median of the rounds:")
    width = max(len(w) for w in stages)
    for what, rounds in stages.items():
        cells = []
        for name in NAMES:
            got = [r[name] for r in rounds if name in r]
            if got:
                cells.append(f"{name} {statistics.median(us for _, us in got):.1f} ({statistics.median(n for n, _ in got):.0f})")
        print(f"  {what.ljust(width)}  {'  '.join(cells)}")
