"""Sync of two disks: equal ones, and ones that differ a little."""

import os
import random

from .host import Host
from .machine import GIB, MIB, Failed, disk, run, server, settle, timed, until, warm
from .table import Turns

SIZE = 2 * GIB
BLOCK = 64 << 10
CONF = 'front = "nbd-socket"\ndurability = "flush"\nheartbeat_ms = 1000\n'
RSYNC_ADDRESS = "127.26.0.5"


class Pair:
    def __init__(self, bench):
        w = bench.work
        self.a, self.b = Host(bench, "alpha", CONF), Host(bench, "beta", CONF)
        self.da, self.db = disk(f"{w}/a.img", SIZE), f"{w}/b.img"
        # Not zeros: those are sent and compared in a shorter way.
        run(["dd", "if=/dev/urandom", f"of={self.da}", "bs=1M", f"count={SIZE // MIB}", "conv=notrunc"])
        run(["dd", f"if={self.da}", f"of={self.db}", "bs=1M"])

    def form(self):
        self.a.primary(self.da)
        self.b.join(self.a, self.db)
        until("first sync", self.is_synced)

    def is_synced(self):
        return self.b.link("resource-data/syncstatus-beta") == str(SIZE)

    def sync(self):
        """A whole sync: the daemon's own account of its run (what `invalidate` itself waits for is not the sync)."""
        seen = len(self.reports())
        self.b.adm("invalidate", "data")
        until("sync", lambda: self.is_synced() and len(self.reports()) > seen)
        return self.reports()[-1]

    def reports(self):
        """The daemon's lines 'sync finished': {'seconds': ..., 'wire_bytes': ...}."""
        try:
            with open(f"{self.b.dir}/run/units/mars-sync@data.service.log", encoding="utf-8") as f:
                lines = [x for x in f if "sync finished" in x]
        except OSError:
            return []
        out = []
        for line in lines:
            pairs = (word.partition("=") for word in line.split())
            out.append({k: float(v) for k, eq, v in pairs if eq and v.replace(".", "", 1).isdigit()})
        return out

    def spoil(self):
        """Other bytes in 1 % of the blocks of beta's disk, at random places."""
        blocks = random.Random(1).sample(range(SIZE // BLOCK), SIZE // BLOCK // 100)
        with open(self.db, "r+b", buffering=0) as f:
            for b in blocks:
                f.seek(b * BLOCK)
                f.write(os.urandom(BLOCK))
        settle()


def sync(bench):
    """Equal disks, both in the page cache, and then 1 % different blocks. Compared are 2 GiB of random bytes."""
    p = Pair(bench)
    t = Turns("sync")
    conf = f"{bench.work}/rsyncd.conf"
    with open(conf, "w", encoding="ascii") as f:
        f.write(f"address = {RSYNC_ADDRESS}\nport = 8730\nuse chroot = no\nuid = {os.getuid()}\ngid = {os.getgid()}\n"
                f"[disks]\npath = {bench.work}\nread only = no\n")

    def rsync():
        cmd = ["rsync", "--inplace", "--no-whole-file", "--ignore-times", p.da, f"rsync://{RSYNC_ADDRESS}:8730/disks/b.img"]
        return SIZE / MIB / timed(cmd)

    def is_served():
        return "disks" in run(["sh", "-c", f"rsync rsync://{RSYNC_ADDRESS}:8730/ 2>&1 || true"])

    def ours():
        r = p.sync()
        if r["bytes"] != SIZE:
            raise Failed(f"the sync was not of the whole disk: {r}")
        return SIZE / MIB / r["seconds"]

    with p.a.running(), p.b.running(), server(["rsync", "--daemon", "--no-detach", f"--config={conf}"], is_served):
        p.form()
        settle()
        warm(p.da, p.db)
        t.rounds({"cmp": lambda: SIZE / MIB / timed(["cmp", p.da, p.db]), "rsync": rsync, "ours": ours})
        different = SIZE // BLOCK // 100 * BLOCK
        p.spoil()
        r = p.sync()
        run(["cmp", p.da, p.db])
    bench.table.compare("sync of 2 GiB equal, in the page cache / cmp", "MiB/s", 0.8, t, "ours", "cmp")
    bench.table.compare("sync of 2 GiB equal, in the page cache / rsync --inplace --no-whole-file", "MiB/s", 1.0, t, "ours", "rsync")
    bench.table.limit("sync, 1 % of the 64 KiB blocks differ: MiB sent / MiB differing", "MiB", 1.3, [r["wire_bytes"] / MIB], different / MIB)
