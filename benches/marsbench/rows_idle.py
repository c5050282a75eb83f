"""What hosts use when nothing happens."""

import os
import time

from .host import Host
from .machine import IS_FULL, MIB, until
from .table import Turns

COUNT = 10
CONF = 'front = "nbd-socket"\n'


def _ticks(host):
    total = 0
    for p in host.pids().values():
        with open(f"/proc/{p}/stat", encoding="ascii") as f:
            total += sum(int(x) for x in f.read().rsplit(") ", 1)[1].split()[11:15])
    return total


def idle(bench):
    """Two hosts with 10 resources: CPU of one core, and the largest resident set of a daemon."""
    h, g = Host(bench, "alpha", CONF), Host(bench, "beta", CONF)
    t = Turns("idle")
    span = 10 if IS_FULL else 3
    names = [f"r{i}" for i in range(COUNT)]
    with h.running(), g.running():
        h.adm("create-cluster", f"--ip={h.ip}")
        for host in (h, g):
            for n in names:
                with open(f"{bench.work}/{host.name}-{n}.img", "wb") as f:
                    f.truncate(64 * MIB)
        for n in names:
            h.adm("create-resource", n, f"{bench.work}/alpha-{n}.img")
        g.adm("join-cluster", "alpha", f"--ip={g.ip}", f"--ip-alpha={h.ip}")
        for n in names:
            h.adm("wait-resource", n, "is-device-on")
            g.adm("join-resource", n, f"{bench.work}/beta-{n}.img")
        for n in names:
            until(f"{n} UpToDate", lambda n=n: g.adm("view-diskstate", n).strip() == "UpToDate", step=0.05)
        time.sleep(min(6, span))

        def watch():
            before = {x.name: _ticks(x) for x in (h, g)}
            time.sleep(span)
            return {x.name: (_ticks(x) - before[x.name]) / os.sysconf("SC_CLK_TCK") / span * 100 for x in (h, g)}

        used = {}
        t.take("watch", lambda: used.update(watch()))
        worst = 0.0
        for x in (h, g):
            for p in x.pids().values():
                with open(f"/proc/{p}/status", encoding="ascii") as f:
                    worst = max(worst, next(int(line.split()[1]) for line in f if line.startswith("VmRSS:")) / 1024)
    noise = t.noise["watch"]
    bench.table.limit("idle primary, 10 resources: CPU of one core / 2 %", "%", 1.0, [used["alpha"]], 2.0, noise)
    bench.table.limit("idle secondary, 10 resources: CPU of one core / 2 %", "%", 1.0, [used["beta"]], 2.0, noise)
    bench.table.limit("idle daemons: largest resident set / 12 MiB", "MiB", 1.0, [worst], 12.0, noise)
