"""Disks that are slow: one that seeks, and one that cannot keep up. The logger is built with the fault layer (lib/mars-faults) for these."""

import concurrent.futures
import contextlib
import os
import time

from . import peers
from .host import Host
from .machine import GIB, IS_FULL, MIB, ROUNDS, SECONDS, disk, run, settle
from .table import Turns


def faulty_bin(bench):
    """A directory of programs in which mars-logger is the one with the fault layer."""
    d = f"{bench.work}/bin"
    os.mkdir(d)
    for name in os.listdir(bench.bin):
        path = f"{bench.bin}/{name}"
        if name.startswith("mars") and os.path.isfile(path) and os.access(path, os.X_OK):
            os.symlink(f"{bench.bin}/faulty-logger" if name == "mars-logger" else path, f"{d}/{name}")
    return d


def faulty_host(bench, bin_dir, name, address, conf, rules):
    trigger = f"{bench.work}/{name}.faults"
    with open(trigger, "w", encoding="ascii") as f:
        f.write(rules)
    return Host(bench, name, conf, address, bin_dir, MARS_FAULTS=trigger)


def seek(bench):
    """Random 4 KiB writes to a disk with one arm, 8 ms for the average seek, 7200 rpm (a model that makes accesses wait; the log is on
    the fast disk). The default buffer of 256 MiB on a working set of 4 GiB, scaled down by 8: buffer 32 MiB, disk 512 MiB. Three
    generations are written, and the time ends when everything is on the disk, so this is the speed of the steady state and not of
    the buffer. The peer has 32 writes in flight; the model serves in the order of arrival, as an application without us (and
    without an I/O scheduler that sorts) would see it. The model sleeps and uses no CPU, so all rounds of both sides run side by side."""
    size, buffer = 512 * MIB, 32 * MIB
    writes = 3 * buffer // 2 // 4096 if IS_FULL else buffer // 4096
    conf = f'front = "nbd-socket"\ndurability = "strict"\nbuffer_limit_mib = {buffer // MIB}\n'
    bin_dir = faulty_bin(bench)
    hosts = [
        faulty_host(bench, bin_dir, f"alpha{i}", f"127.26.0.{11 + i}", conf, f"disk.model seek8ms size={size}\n") for i in range(ROUNDS)
    ]
    images = [disk(f"{bench.work}/{h.name}.img", size) for h in hosts]
    t = Turns("seek")

    def ours(i):
        h = hosts[i]
        begin = time.monotonic()
        peers.nbdload(bench, h.uri(), "rand", 4096, 32, f"{writes * 4096}b", "window", i + 1)
        log = h.live()["log"]
        h.live("written", str(log["log_nr"]), str(log["logged_len"]))
        return writes / (time.monotonic() - begin)

    def peer(i):
        return float(run([f"{bench.bin}/seek-peer", size, max(2, int(3 * SECONDS)), i + 1]))

    with contextlib.ExitStack() as stack:
        for h, image in zip(hosts, images):
            stack.enter_context(h.running())
            h.primary(image)
        settle()
        with concurrent.futures.ThreadPoolExecutor(2 * ROUNDS) as pool:
            jobs = [(side, pool.submit(t.take, side, fn, i)) for i in range(ROUNDS) for side, fn in (("peer", peer), ("ours", ours))]
            for _, job in jobs:
                job.result()
    bench.table.compare("a disk that seeks (model), random 4 KiB write, drained / without us", "op/s", 3, t, "ours", "peer")


def memory(bench):
    """10 GiB are written, 64 KiB at random places of 2 GiB, while every flush of the disk takes 100 ms longer, so that the buffer is full
    most of the time: the peak of the logger's resident set against the configured limit of the buffer (256 MiB)."""
    amount = 10 * GIB if IS_FULL else GIB
    conf = 'front = "nbd-socket"\ndurability = "flush"\nbuffer_limit_mib = 256\n'
    h = faulty_host(bench, faulty_bin(bench), "alpha", "127.26.0.2", conf, "disk.flush delay=100\n")
    t = Turns("memory")
    peak = []

    def fill():
        rate = peers.nbdload(bench, h.uri(), "rand", 64 << 10, 32, f"{amount}b")[0]
        with open(f"/proc/{h.pid('logger')}/status", encoding="ascii") as f:
            peak.append(next(int(line.split()[1]) for line in f if line.startswith("VmHWM:")) / 1024)
        return rate / MIB

    with h.running():
        h.primary(disk(f"{bench.work}/a.img", 2 * GIB))
        t.take("fill", fill)
        # The delay would only make the end longer.
        os.unlink(f"{bench.work}/alpha.faults")
    bench.table.limit(f"memory: {amount >> 30} GiB written while the disk is slow: peak RSS of the logger / buffer limit", "MiB", 1.1, peak, 256.0,
                      t.noise["fill"])
