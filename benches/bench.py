#!/usr/bin/python3
"""Figures of MARS against peers in the same run, as one table.  Usage: bench.py DIRECTORY-OF-BINARIES [--only ROW,...]

Every comparison runs its sides in turn, three times, and prints medians, the spread of the ratio, and how much CPU others used
meanwhile. Absolute figures say little on a shared machine; the ratios are what counts. What exactly each side does stands in
benches/marsbench/rows_*.py. Environment: ROUNDS (default 3), SECONDS_PER_RUN (default 3), BENCH_DIR (default /var/tmp; needs about
25 GiB there). Needs root for the rows with real programs, and the packages of `tests/setup.sh bench`.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time

from marsbench import machine, peers, rows_disk, rows_front, rows_idle, rows_log, rows_programs, rows_sync, rows_view, stages
from marsbench.table import Table, note

#: name of a function -> names of the rows that it measures
ROWS = (
    (rows_front.strict, ("strict",)),
    (rows_front.burst, ("burst",)),
    (rows_front.flush, ("flush", "read")),
    (rows_front.sequential, ("sequential",)),
    (rows_disk.seek, ("seek",)),
    (rows_log.recovery, ("recovery",)),
    (rows_log.fetch_and_replay, ("fetch", "replay")),
    (rows_sync.sync, ("sync",)),
    (rows_programs.sqlite, ("sqlite",)),
    (rows_programs.postgres, ("postgres",)),
    (rows_disk.memory, ("memory",)),
    (rows_idle.idle, ("idle",)),
    (rows_view.view, ("view",)),
)
NAMES = [n for _, names in ROWS for n in names]


class Bench:
    """What the rows get."""

    def __init__(self, bin_dir, work, only):
        self.bin, self.base, self.only = bin_dir, work, only
        self.table, self.stages = Table(), {}
        self.tools = f"{work}/tools"
        self.work = None
        os.mkdir(self.tools)
        peers.compile_tools(self.tools)

    def wants(self, row):
        return row in self.only

    def measure(self, fn, names):
        self.work = f"{self.base}/{fn.__name__}"
        os.mkdir(self.work, 0o755)
        note(f"{', '.join(n for n in names if n in self.only)}: {(fn.__doc__ or '').strip()}")
        try:
            fn(self)
        except (machine.Failed, OSError, ValueError, KeyError) as e:
            self.table.fail(", ".join(names), e)
        finally:
            machine.end_family()
            shutil.rmtree(self.work, ignore_errors=True)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupted(number, _frame):
    # Once is enough: nothing shall disturb the cleaning up.
    for n in SIGNALS:
        signal.signal(n, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bindir")
    p.add_argument("--only", default=",".join(NAMES), help=f"rows, separated by commas: {', '.join(NAMES)}")
    p.add_argument("--markdown", action="store_true", help="the table once more, for docs/performance.md")
    args = p.parse_args()
    only = args.only.split(",")
    for n in only:
        if n not in NAMES:
            p.error(f"no row {n}; there are {', '.join(NAMES)}")
    for number in SIGNALS:
        signal.signal(number, interrupted)
    begin = time.monotonic()
    machine.adopt_orphans()
    machine.prefer(-15)
    work = tempfile.mkdtemp(prefix="mars-bench.", dir=os.environ.get("BENCH_DIR", "/var/tmp"))
    bench = None
    try:
        # A server that does not run as root works below it.
        os.chmod(work, 0o755)
        bench = Bench(os.path.abspath(args.bindir), work, only)
        for fn, names in ROWS:
            if any(n in only for n in names):
                bench.measure(fn, names)
    finally:
        machine.end_family()
        shutil.rmtree(work, ignore_errors=True)
        machine.prefer(0)
        if bench:
            print(f"{machine.ROUNDS} rounds in turn, {machine.SECONDS:g} s per timed run, {time.monotonic() - begin:.0f} s altogether\n")
            bench.table.show()
            if args.markdown:
                print()
                bench.table.show(as_markdown=True)
            stages.show(bench.stages)
    return 1 if bench.table.failed else 0


if __name__ == "__main__":
    sys.exit(main())
