"""What looking at a large tree costs: `marsadm view all`, one process each time, against a program that only reads the same links."""

import os
import time

from .host import Host
from .machine import IS_FULL, run
from .table import Turns

COUNT = 100
HOSTS = ("alpha", "beta", "gamma")
#: Logs of each resource that are still there; the last one is being written on beta.
LOGS = 12
SIZE = 1 << 40
LEN = 1 << 20
ZERO = "0" * 32


def _link(root, path, value, stamp):
    path = f"{root}/{path}"
    os.symlink(str(value), path)
    os.utime(path, ns=(stamp, stamp), follow_symlinks=False)


def _global(root, now, fresh):
    for d in ("ips", "userspace", "defaults", "todo-global", *(f"{k}-{h}" for h in HOSTS for k in ("actual", "defaults"))):
        os.makedirs(f"{root}/{d}")
    _link(root, "uuid", f"alpha_{now // 10**9 - 86400}.000000000", now)
    for i, h in enumerate(HOSTS):
        _link(root, f"ips/ip-{h}", f"127.26.0.{2 + i}", now)
        _link(root, f"defaults-{h}/sync-limit", 0, now)
        values = {
            "time": f"{fresh // 10**9}.{fresh % 10**9:09}", "alive": 1, "tree": "0.1", "features": "4,5,0x071f0000",
            "usable": "4,5,0x071f0000", "buildtag": "bench100(x)", "emergency": 0, "rest-space": 83, "total-space": 92,
            "used-log-digest": 262144, "used-net-digest": 262144, "used-log-compression": 0, "used-net-compression": 0,
        }
        for name, value in values.items():
            _link(root, f"actual-{h}/{name}", value, fresh)


def _resource(root, name, old, fresh):
    """beta is primary; alpha is up to date, gamma one log behind."""
    res = f"resource-{name}"
    for d in ("userspace", "defaults", *(f"{k}-{h}" for h in HOSTS for k in ("actual", "todo"))):
        os.makedirs(f"{root}/{res}/{d}")
    put = {"size": SIZE, "primary": "beta", "maxnr": LOGS, "userspace/last-primary": "beta", "userspace/prev-primary": "alpha"}
    live = {}
    for h in HOSTS:
        behind = 1 if h == "gamma" else 0
        put |= {
            f"data-{h}": "/dev/null", f"device-{h}": name, f"actsize-{h}": SIZE, f"syncstatus-{h}": SIZE, f"skip-check-{h}": 1,
            f"replay-{h}": f"log-{LOGS - behind:09}-beta,{LEN // 2},0", f"verifystatus-{h}": "1,0",
        }
        pred = ""
        for n in range(1, LOGS + 1 - behind):
            head = f"{ZERO},log-{n:09}-beta,{LEN}"
            put[f"version-{n:09}-{h}"] = f"{head}:{pred}"
            pred = head
        for s in ("attach", "connect", "sync", "allow-replay"):
            put[f"todo-{h}/{s}"] = 1
        on = {"is-attached", "is-primary", "if-on", "open-count"} if h == "beta" else {"is-attached", "is-replaying", "is-copying"}
        for k in ("is-attached", "is-primary", "is-replaying", "is-copying", "is-syncing", "if-on", "open-count", "disk-error",
                  "has-emergency", "is-emergency", "replay-code"):
            live[f"actual-{h}/{k}"] = int(k in on)
        live[f"actual-{h}/replay-code"] = 0
        for k in ("replay", "file", "sync"):
            live |= {f"actual-{h}/ops-{k}_rate": 0, f"actual-{h}/amount-{k}_rate": 0}
        for k in ("err-replay-stop", "inf-fetch", "inf-sync", "wrn-log-consecutive", "err-splitbrain-detected"):
            live[f"actual-{h}/msg-{k}"] = "OK"
    for k, v in put.items():
        _link(root, f"{res}/{k}", v, old)
    for k, v in live.items():
        _link(root, f"{res}/{k}", v, fresh)
    for n in range(1, LOGS + 1):
        path = f"{root}/{res}/log-{n:09}-beta"
        with open(path, "wb") as f:
            f.truncate(LEN)
        os.utime(path, ns=(old, old))


def make_tree(root):
    now = time.time_ns()
    os.chmod(root, 0o700)
    _global(root, now - 3600 * 10**9, now)
    for i in range(COUNT):
        _resource(root, f"lv-{i}", now - 3600 * 10**9, now)


def view(bench):
    """100 resources with 3 members, 12 logs and their histories: `marsadm view all`, and find(1) that prints all the links."""
    h, t = Host(bench, "alpha", ""), Turns("view")
    root = f"{h.dir}/mars"
    make_tree(root)
    times = 20 if IS_FULL else 5

    def ours(*args):
        out = run([f"{h.bin}/marsadm", *args], env=h.env)
        assert f"lv-{COUNT - 1}" in out, out

    def peer():
        run(["find", root, "-type", "l", "-printf", "%p %l %T@\\n", "-o", "-printf", "%p %s\\n"])

    def per_second(fn, *args):
        begin = time.monotonic()
        for _ in range(times):
            fn(*args)
        return times / (time.monotonic() - begin)

    peer()
    t.rounds({"find": lambda: per_second(peer), "all": lambda: per_second(ours, "view", "all"),
              "json": lambda: per_second(ours, "view", "all", "--json")})
    for side, what in (("all", "view all"), ("json", "view all --json")):
        bench.table.limit(f"marsadm {what}, {COUNT} resources on 3 hosts, {LOGS} logs each / 200 ms", "ms", 1.0,
                          [1000 / x for x in t.figures[side]], 200.0, t.noise[side])
        bench.table.compare(f"marsadm {what}, the same / find -printf of the same tree", "per s", None, t, side, "find")
