#!/usr/bin/python3
"""Figures of MARS against peers in the same run, printed as ratios.  Usage: bench.py DIRECTORY-OF-BINARIES [--only NAME,...]

Every comparison runs its two sides in turn, three times (ROUNDS), and prints medians, the spread of the ratio and how much
CPU others used meanwhile. Absolute figures say little on a shared machine; the ratios are what counts. Needs fio, nbdkit,
qemu-utils, libnbd (tests/setup.sh bench). Works below BENCH_DIR (default /var/tmp), needs about 12 GiB there.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROUNDS = int(os.environ.get("ROUNDS", "3"))
SECONDS = int(os.environ.get("SECONDS_PER_RUN", "8"))
GIB = 1 << 30
MIB = 1 << 20


def run(cmd, **kw):
    r = subprocess.run([str(c) for c in cmd], capture_output=True, text=True, **kw)
    if r.returncode:
        raise SystemExit(f"bench: {' '.join(map(str, cmd))}: exit {r.returncode}\n{r.stdout}{r.stderr}")
    return r.stdout


def cpu_times():
    with open("/proc/stat", encoding="ascii") as f:
        nums = [int(x) for x in f.readline().split()[1:]]
    return sum(nums[:3]) + sum(nums[5:8]), sum(nums[:8])


class Host:
    def __init__(self, work, bindir, name, ip, conf):
        self.dir, self.bin, self.name, self.ip = f"{work}/{name}", bindir, name, ip
        for d in ("mars", "etc"):
            os.makedirs(f"{self.dir}/{d}")
        with open(f"{self.dir}/etc/mars.conf", "w", encoding="ascii") as f:
            f.write(conf)
        self.env = dict(
            os.environ,
            MARS_ROOT=f"{self.dir}/mars",
            MARS_DEV_DIR=f"{self.dir}/dev",
            MARS_RUN_DIR=f"{self.dir}/run",
            MARS_ETC_DIR=f"{self.dir}/etc",
            MARS_HOST=name,
            MARS_UNIT_MANAGER="direct",
        )

    def adm(self, *args):
        return run([f"{self.bin}/marsadm", *args], env=self.env)

    def uri(self, res):
        return f"nbd+unix:///{res}?socket={self.dir}/dev/{res}"

    def link(self, path):
        try:
            return os.readlink(f"{self.dir}/mars/{path}")
        except OSError:
            return None

    def logs(self, res):
        d = f"{self.dir}/mars/resource-{res}"
        return sorted(
            (e.name, e.stat().st_size) for e in os.scandir(d) if e.name.startswith("log-") and e.is_file(follow_symlinks=False)
        )

    def pids(self):
        out = {}
        d = f"{self.dir}/run/units"
        for e in os.scandir(d) if os.path.isdir(d) else ():
            if e.name.endswith(".lock"):
                with open(e.path, encoding="ascii") as f:
                    text = f.read().strip()
                if text and os.path.exists(f"/proc/{text}/exe"):
                    out[e.name[:-5]] = int(text)
        return out

    def kill(self):
        for p in self.pids().values():
            try:
                os.kill(p, 9)
            except ProcessLookupError:
                pass


def until(what, cond, limit=120.0):
    """Busy-waits in 2 ms steps: measuring is the one place where that is the point."""
    end = time.monotonic() + limit
    while not cond():
        if time.monotonic() > end:
            raise SystemExit(f"bench: timeout: {what}")
        time.sleep(0.002)


def fio_nbd(uri, rw, depth, seconds=None, bs="4k", size=GIB, total=None):
    cmd = ["fio", "--name=x", "--ioengine=nbd", f"--uri={uri}", f"--rw={rw}", f"--bs={bs}", f"--iodepth={depth}", f"--size={size}",
           "--output-format=json", "--randrepeat=0", "--norandommap", "--random_generator=tausworthe64"]
    cmd += ["--time_based", f"--runtime={seconds}"] if seconds else []
    cmd += [f"--io_size={total}"] if total else []
    out = run(cmd)
    job = json.loads(out[out.index("{"):])["jobs"][0]
    side = job["read" if "read" in rw else "write"]
    return side["iops"]


def fdatasync_appends(path, seconds):
    """4 KiB appended to a growing file, one fdatasync each: what an application without us would do."""
    fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    block, n = os.urandom(4096), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        os.write(fd, block)
        os.fdatasync(fd)
        n += 1
    os.close(fd)
    os.unlink(path)
    return n / seconds


class Nbdkit:
    def __init__(self, work, disk):
        self.sock, self.pidfile = f"{work}/nbdkit.sock", f"{work}/nbdkit.pid"
        run(["nbdkit", "-U", self.sock, "-P", self.pidfile, "file", disk])
        self.uri = f"nbd+unix:///?socket={self.sock}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with open(self.pidfile, encoding="ascii") as f:
            pid = int(f.read())
        os.kill(pid, 15)
        until("end of nbdkit", lambda: not os.path.exists(f"/proc/{pid}"))
        os.unlink(self.sock)




def report(name, goal, pairs, unit):
    """pairs: (ours, peer), one for each round; more is better."""
    ratios = [o / p for o, p in pairs]
    ours, peer = statistics.median(o for o, _ in pairs), statistics.median(p for _, p in pairs)
    print(f"{name:44} {ours:10.1f} {peer:10.1f} {unit:6} ratio {statistics.median(ratios):6.2f} "
          f"({min(ratios):.2f} .. {max(ratios):.2f})  goal {goal}", flush=True)


def compare(name, goal, ours, peer, unit):
    """ours() and peer() return a figure each; run in turn."""
    pairs = []
    for _ in range(ROUNDS):
        p = peer()
        pairs.append((ours(), p))
    report(name, goal, pairs, unit)


def bench_writes(work, bindir, mode):
    h = Host(work, bindir, "alpha", "127.0.0.2", f'front = "nbd-socket"\ndurability = "{mode}"\n')
    disk = f"{work}/a.img"
    with open(disk, "wb") as f:
        f.truncate(GIB)
    peer_disk = f"{work}/peer.img"
    shutil.copyfile(disk, peer_disk)
    try:
        h.adm("create-cluster", f"--ip={h.ip}")
        h.adm("create-resource", "data", disk)
        h.adm("wait-resource", "data", "is-device-on")
        if mode == "strict":
            compare("strict, 4 KiB random write, 32 in flight", ">= 4", lambda: fio_nbd(h.uri("data"), "randwrite", 32, SECONDS),
                    lambda: fdatasync_appends(f"{work}/appends", SECONDS), "IOPS")
            compare("strict, 4 KiB random write, 1 in flight", "(0.85 later)", lambda: fio_nbd(h.uri("data"), "randwrite", 1, SECONDS),
                    lambda: fdatasync_appends(f"{work}/appends", SECONDS), "IOPS")
        else:
            def peer(rw):
                with Nbdkit(work, peer_disk) as n:
                    return fio_nbd(n.uri, rw, 32, SECONDS)

            compare("flush, 4 KiB random write, 32 in flight", ">= 0.5", lambda: fio_nbd(h.uri("data"), "randwrite", 32, SECONDS),
                    lambda: peer("randwrite"), "IOPS")
            compare("4 KiB random read, 32 in flight", ">= 0.6", lambda: fio_nbd(h.uri("data"), "randread", 32, SECONDS),
                    lambda: peer("randread"), "IOPS")
        h.adm("stop")
    finally:
        h.kill()
        shutil.rmtree(h.dir)
        os.unlink(disk)
        os.unlink(peer_disk)


def sendfile_stream(src, dst):
    """A plain stream: sendfile on one side, a new file on the other, complete but not synced, as ours is timed. Seconds."""
    srv = socket.create_server(("127.0.0.2", 0))

    def receive():
        c, _ = srv.accept()
        fd = os.open(dst, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        buf = memoryview(bytearray(MIB))
        while n := c.recv_into(buf):
            os.write(fd, buf[:n])
        os.close(fd)

    t = threading.Thread(target=receive)
    begin = time.monotonic()
    t.start()
    with socket.create_connection(srv.getsockname()) as c, open(src, "rb") as f:
        c.sendfile(f)
        c.shutdown(socket.SHUT_WR)
        t.join()
    srv.close()
    took = time.monotonic() - begin
    os.unlink(dst)
    return took


def bench_secondary(work, bindir):
    conf = 'front = "nbd-socket"\ndurability = "flush"\nbuffer_limit_mib = 1024\nheartbeat_ms = 1000\n'
    a, b = Host(work, bindir, "alpha", "127.0.0.2", conf), Host(work, bindir, "beta", "127.0.0.3", conf)
    da, db = f"{work}/a.img", f"{work}/b.img"
    try:
        run(["dd", "if=/dev/urandom", f"of={da}", "bs=1M", "count=1024", "status=none"])
        shutil.copyfile(da, db)
        a.adm("create-cluster", f"--ip={a.ip}")
        a.adm("create-resource", "data", da)
        a.adm("wait-resource", "data", "is-device-on")
        b.adm("join-cluster", "alpha", f"--ip={b.ip}", f"--ip-alpha={a.ip}")
        b.adm("join-resource", "data", db)

        def synced():
            return b.link("resource-data/syncstatus-beta") == str(GIB)

        until("first sync", synced)

        def sync_seconds():
            b.adm("pause-sync", "data")
            b.adm("invalidate", "data")
            until("sync", synced)
            # The daemon's own account of its run: what `invalidate` itself waits for is not the sync.
            return sync_report(b)["seconds"]

        def cmp_seconds():
            begin = time.monotonic()
            run(["cmp", da, db])
            return time.monotonic() - begin

        for d in (da, db):
            run(["dd", f"if={d}", "of=/dev/null", "bs=1M", "status=none"])
        compare("sync of 1 GiB equal, in the page cache", ">= 0.5", lambda: 1024 / sync_seconds(), lambda: 1024 / cmp_seconds(), "MiB/s")
        wire = sync_report(b)["wire_bytes"]
        print(f"{'sync of 1 GiB equal: bytes on the wire':44} {wire} of {GIB}: {100 * wire / GIB:.3f} %  goal < 1 %", flush=True)

        fetch_times, replay_times = [], []

        def one_log():
            """One more finished 1 GiB log on alpha, not fetched."""
            b.adm("pause-fetch", "data")
            b.adm("pause-replay", "data")
            until("fetch paused", lambda: b.link("resource-data/actual-beta/is-copying") == "0")
            a.adm("log-rotate", "data")
            before = a.logs("data")[-1][0]
            fio_nbd(a.uri("data"), "randwrite", 32, total=GIB)
            a.adm("log-rotate", "data")
            until("rotation", lambda: a.logs("data")[-1][0] != before)
            name, size = next(x for x in a.logs("data") if x[0] == before)
            return name, size

        def fetch_seconds(name, size):
            path = f"{b.dir}/mars/resource-data/{name}"
            begin = time.monotonic()
            b.adm("resume-fetch", "data")
            until("fetch", lambda: os.path.exists(path) and os.stat(path).st_size == size)
            return time.monotonic() - begin

        def replay_seconds(name):
            nr = int(name.split("-")[1])

            def position():
                log, pos, dirty = b.link("resource-data/replay-beta").split(",")
                return int(log.split("-")[1]), int(pos), int(dirty)

            begin = time.monotonic()
            b.adm("resume-replay", "data")
            until("replay", lambda: position()[0] > nr)
            return time.monotonic() - begin

        for _ in range(ROUNDS):
            name, size = one_log()
            src = f"{a.dir}/mars/resource-data/{name}"
            stream = sendfile_stream(src, f"{work}/stream")
            fetch_times.append((size / MIB / fetch_seconds(name, size), size / MIB / stream))
            os.sync()
            dd_begin = time.monotonic()
            run(["dd", f"if={src}", f"of={work}/dd.img", "bs=1M", "iflag=direct", "oflag=direct", "conv=fdatasync,notrunc"])
            dd = time.monotonic() - dd_begin
            replay_times.append((size / MIB / replay_seconds(name), size / MIB / dd))
            a.adm("log-delete-all", "data", "--force")
            os.sync()
        report("fetch of a finished 1 GiB log", ">= 0.7", fetch_times, "MiB/s")
        report("replay of it (4 KiB random records)", ">= 0.5", replay_times, "MiB/s")
        b.adm("stop")
        a.adm("stop")
    finally:
        a.kill()
        b.kill()


def sync_report(host):
    """Last 'sync finished' line of the daemon: {'seconds': ..., 'wire_bytes': ...}."""
    with open(f"{host.dir}/run/units/mars-sync@data.service.log", encoding="utf-8") as f:
        line = [x for x in f if "sync finished" in x][-1]
    out = {}
    for word in line.split():
        k, eq, v = word.partition("=")
        if eq:
            try:
                out[k] = float(v)
            except ValueError:
                pass
    return out


def bench_idle(work, bindir):
    h = Host(work, bindir, "alpha", "127.0.0.2", 'front = "nbd-socket"\n')
    g = Host(work, bindir, "beta", "127.0.0.3", 'front = "nbd-socket"\n')
    try:
        h.adm("create-cluster", f"--ip={h.ip}")
        for i in range(10):
            for host in (h, g):
                with open(f"{work}/{host.name}{i}.img", "wb") as f:
                    f.truncate(64 * MIB)
            h.adm("create-resource", f"r{i}", f"{work}/alpha{i}.img")
        g.adm("join-cluster", "alpha", f"--ip={g.ip}", f"--ip-alpha={h.ip}")
        for i in range(10):
            h.adm("wait-resource", f"r{i}", "is-device-on")
            g.adm("join-resource", f"r{i}", f"{work}/beta{i}.img")
        for i in range(10):
            until(f"r{i} UpToDate", lambda i=i: g.adm("view-diskstate", f"r{i}").strip() == "UpToDate")
        time.sleep(12)

        def ticks(host):
            total = 0
            for p in host.pids().values():
                with open(f"/proc/{p}/stat", encoding="ascii") as f:
                    fields = f.read().rsplit(") ", 1)[1].split()
                total += sum(int(x) for x in fields[11:15])
            return total

        span = 20
        before = {x.name: ticks(x) for x in (h, g)}
        time.sleep(span)
        for x in (h, g):
            used = (ticks(x) - before[x.name]) / os.sysconf("SC_CLK_TCK") / span * 100
            print(f"{'idle host ' + x.name + ', 10 resources: CPU of one core':44} {used:.2f} %  goal < 2 %", flush=True)
        worst = {}
        for x in (h, g):
            for unit, p in x.pids().items():
                with open(f"/proc/{p}/status", encoding="ascii") as f:
                    rss = next(int(l.split()[1]) for l in f if l.startswith("VmRSS:")) / 1024
                kind = unit.split("@")[0]
                worst[kind] = max(worst.get(kind, 0), rss)
        for kind, rss in sorted(worst.items()):
            print(f"{'idle ' + kind + ': largest resident set':44} {rss:.1f} MiB  goal < 12 MiB", flush=True)
        g.adm("stop")
        h.adm("stop")
    finally:
        h.kill()
        g.kill()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bindir")
    p.add_argument("--only", default="strict,flush,secondary,idle")
    args = p.parse_args()
    bindir = os.path.abspath(args.bindir)
    only = args.only.split(",")
    busy0, all0 = cpu_times()
    with tempfile.TemporaryDirectory(prefix="mars-bench.", dir=os.environ.get("BENCH_DIR", "/var/tmp")) as work:
        print(f"{ROUNDS} rounds in turn, {SECONDS} s per run; ours, peer, unit, median ratio (lowest .. highest)")
        for name, fn in (("strict", lambda w: bench_writes(w, bindir, "strict")), ("flush", lambda w: bench_writes(w, bindir, "flush")),
                         ("secondary", lambda w: bench_secondary(w, bindir)), ("idle", lambda w: bench_idle(w, bindir))):
            if name in only:
                sub = f"{work}/{name}"
                os.mkdir(sub)
                fn(sub)
                shutil.rmtree(sub)
    busy1, all1 = cpu_times()
    print(f"CPU used on the whole machine during the run: {100 * (busy1 - busy0) / (all1 - all0):.0f} %")


if __name__ == "__main__":
    main()
