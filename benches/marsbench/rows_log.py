"""Recovery after a crash, fetch and replay of whole logs."""

import os
import shutil
import time

from . import peers
from .host import Host
from .machine import GIB, IS_FULL, MIB, Failed, disk, forget, run, settle, until, warm
from .table import Turns

SIZE = 2 * GIB
#: Payload of a log: in recovery, and of one that is fetched and replayed.
AMOUNT = GIB if IS_FULL else GIB // 4
SHIPPED = AMOUNT // 4 * 3
SOURCE_CONF = 'front = "nbd-socket"\ndurability = "flush"\nbuffer_limit_mib = 4096\nheartbeat_ms = 1000\n'


def copy_log(log, to):
    """The peer of recovery and sequential replay: the log is copied to the disk. MiB/s."""
    size = os.stat(log).st_size
    begin = time.monotonic()
    run(["dd", f"if={log}", f"of={to}", "bs=1M", "iflag=direct", "oflag=direct", "conv=fdatasync,notrunc"])
    return size / MIB / (time.monotonic() - begin)


def recovery(bench):
    """Scattered records, whose write-back the disk limits, and records in order."""
    recovery_of(bench, "random 4 KiB", "rand", 4096, 32)
    recovery_of(bench, "sequential 1 MiB", "seq", MIB, 8)


def recovery_of(bench, what, pattern, bytes_each, depth):
    """kill -9 with 1 GiB of writes in the log and nothing on the disk. Log and disk are read from the disk, as after a
    power cut; the time is from the start of the program until everything is on the disk, flushed, and the new log is open."""
    conf = SOURCE_CONF + "writeback_age_ms = 600000\nrecovery_limit_mib = 16384\n"
    h = Host(bench, "alpha", conf)
    image, other = disk(f"{bench.work}/a.img", SIZE), disk(f"{bench.work}/peer.img", SIZE)
    t = Turns(f"recovery, {what}")
    state = {}

    def prepare():
        settle()
        nr = h.newest_log()
        peers.nbdload(bench, h.uri(), pattern, bytes_each, depth, f"{AMOUNT}b", "window", nr)
        h.kill_one("logger")
        log = h.log_path(nr)
        done = h.replayed()
        rest = os.stat(log).st_size - (done[1] if done[0] == nr else 0)
        if rest < 0.9 * AMOUNT:
            raise Failed(f"only {rest} bytes are left in the log: write-back was too early")
        state.update(log=log, nr=nr, rest=rest)

    def peer():
        forget(state["log"])
        return copy_log(state["log"], other)

    def ours():
        forget(state["log"], image)
        begin = time.monotonic()
        with h.spawn("mars-logger", "data") as p:
            until("recovery", lambda: h.replayed()[0] > state["nr"] or p.poll() is not None, step=0.001)
            took = time.monotonic() - begin
            if p.poll() is not None:
                raise Failed("mars-logger ended in recovery")
            until("the new log", lambda: h.newest_log() > state["nr"])
            until("the device", lambda: h.live()["log"]["device_on"] == 1)
            p.terminate()
            p.wait()
        h.adm("start")
        h.adm("wait-resource", "data", "is-device-on")
        h.adm("log-delete-all", "data", "--force")
        return state["rest"] / MIB / took

    with h.running():
        h.primary(image)
        t.rounds({"fill": prepare, "peer": peer, "ours": ours})
    shutil.rmtree(h.dir)
    os.unlink(image)
    os.unlink(other)
    bench.table.compare(f"recovery after kill -9, 1 GiB of {what} in the log / dd of the log, direct", "MiB/s", 0.8, t, "ours", "peer", 1)


class Pair:
    """A primary that makes logs and a secondary that gets them when told."""

    def __init__(self, bench):
        self.bench = bench
        self.a, self.b = Host(bench, "alpha", SOURCE_CONF), Host(bench, "beta", SOURCE_CONF)
        self.log = self.nr = None
        self.taken = 0.0

    def form(self):
        w = self.bench.work
        self.a.primary(disk(f"{w}/a.img", SIZE))
        self.b.join(self.a, disk(f"{w}/b.img", SIZE))
        until("first sync", lambda: self.b.link("resource-data/syncstatus-beta") == str(SIZE))

    def make_log(self, place, block):
        """One more finished log on alpha, not fetched by beta."""
        a, b = self.a, self.b
        b.adm("pause-fetch", "data")
        b.adm("pause-replay", "data")
        until("fetch paused", lambda: b.link("resource-data/actual-beta/is-copying") == "0")
        a.adm("log-rotate", "data")
        self.nr = a.newest_log()
        peers.nbdload(self.bench, a.uri(), place, block, 32 if block < MIB else 8, f"{SHIPPED}b", "window", self.nr)
        a.adm("log-rotate", "data")
        until("rotation", lambda: a.newest_log() > self.nr)
        self.log = a.log_path(self.nr)
        nr, pos = self.nr + 1, 0
        # Alpha's own write-back must not run beside the measurement.
        a.live("written", str(nr), str(pos))
        settle()
        # Both sides send from the page cache: a secondary that follows fetches what has just been written.
        warm(self.log)

    def size(self):
        return os.stat(self.log).st_size

    def fetch(self):
        """Until every byte is durable at the receiver. MiB/s."""
        begin = time.monotonic()
        self.b.adm("resume-fetch", "data")
        self.b.live("fetched", str(self.nr), str(self.size()))
        return self.size() / MIB / (time.monotonic() - begin)

    def stream(self):
        return self.size() / MIB / float(run([f"{self.bench.tools}/stream", self.log, f"{self.bench.work}/stream", "127.26.0.4"]))

    def replay(self):
        """Until every record is on the disk and flushed. MiB/s of log. Nothing of the disk is in the page cache before."""
        forget(f"{self.bench.work}/b.img")
        begin = time.monotonic()
        self.b.adm("resume-replay", "data")
        self.b.live("replayed", str(self.nr), str(self.size()))
        return self.size() / MIB / (time.monotonic() - begin)

    def finish(self):
        self.a.adm("log-delete-all", "data", "--force")
        self.b.adm("log-delete-all", "data", "--force")


def fetch_and_replay(bench):
    """One finished log for each round: fetched, then replayed; and what others do with the same number of bytes."""
    p = Pair(bench)
    other = disk(f"{bench.work}/peer.img", SIZE)
    t = Turns("replay")

    def fio(*args):
        """MiB/s including the last sync, fio's own start not included. Of the log, so a little more than the data."""
        forget(other)
        rate = peers.fio(f"--filename={other}", "--rw=randwrite", "--bs=4k", f"--size={SIZE}", f"--io_size={SHIPPED}", "--end_fsync=1", *args)[1]
        return rate / MIB * p.size() / SHIPPED

    with p.a.running(), p.b.running():
        p.form()
        sides = {"fill, random": lambda: p.make_log("rand", 4096)}
        if bench.wants("fetch"):
            sides["stream"] = settled(p.stream)
        sides["fetch"] = settled(p.fetch)
        if bench.wants("replay"):
            sides |= {
                "fio direct": settled(lambda: fio("--ioengine=io_uring", "--direct=1", "--iodepth=32")),
                "fio buffered": settled(lambda: fio("--ioengine=psync")),
            }
        sides |= {"random": settled(p.replay), "tidy": p.finish}
        if bench.wants("replay"):
            sides |= {
                "fill, sequential": lambda: p.make_log("seq", MIB),
                "fetch, sequential": p.fetch,
                "dd": settled(lambda: copy_log(p.log, other)),
                "sequential": settled(p.replay),
                "tidy again": p.finish,
            }
        t.rounds(sides)
    if bench.wants("fetch"):
        bench.table.compare("fetch over loopback, durable at the receiver / sendfile, new file, fdatasync", "MiB/s", 0.9, t, "fetch", "stream")
    if bench.wants("replay"):
        bench.table.compare("replay, random 4 KiB / fio random 4 KiB direct, 32 in flight", "MiB/s", 2, t, "random", "fio direct")
        bench.table.compare("replay, random 4 KiB / fio random 4 KiB page cache, one fsync", "MiB/s", 0.8, t, "random", "fio buffered")
        bench.table.compare("replay, sequential 1 MiB / dd of the log, direct", "MiB/s", 1.0, t, "sequential", "dd")


def settled(fn):
    def go():
        settle()
        return fn()

    return go
