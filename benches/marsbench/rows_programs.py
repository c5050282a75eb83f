"""Real programs that call fsync all the time, on ext4 on the FUSE + loop device, against ext4 on a loop device over an equal file."""

import contextlib
import glob
import os
import re
import sys

from .host import Host
from .machine import GIB, SECONDS, Failed, disk, loop_device, mounted, run, server, settle
from .stages import Stages
from .table import Turns

_SQLITE = """
import sqlite3, sys, time
path, mode, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
db = sqlite3.connect(path, isolation_level=None)
db.execute(f"pragma journal_mode={mode}")
db.execute("pragma synchronous=full")
db.execute("create table if not exists t (id integer primary key, v blob)")
blob, n = b"x" * 100, 0
begin = time.monotonic()
while time.monotonic() - begin < seconds:
    db.execute("insert into t (v) values (?)", (blob,))
    n += 1
print(n / (time.monotonic() - begin))
db.close()
"""


@contextlib.contextmanager
def two_file_systems(bench):
    """(host, directory on our device, directory on a plain loop device): both ext4, made the same way."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        raise Failed("needs root, /dev/fuse and /dev/loop-control")
    h = Host(bench, "alpha", 'front = "fuse"\ndurability = "flush"\n')
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(loop_device(disk(f"{bench.work}/peer.img", GIB)))
        stack.enter_context(h.running())
        h.primary(disk(f"{bench.work}/a.img", GIB))
        ours = f"{h.dir}/dev/data"
        for device in (plain, ours):
            run(["mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", device])
        yield h, stack.enter_context(mounted(ours, f"{bench.work}/mnt-ours")), stack.enter_context(mounted(plain, f"{bench.work}/mnt-peer"))


def sqlite(bench):
    """One row in each transaction, synchronous=FULL, with the old journal and with the write-ahead log."""
    t = Turns("sqlite")
    with two_file_systems(bench) as (h, ours, peer):
        st = Stages(bench, h)

        def transactions(directory, mode):
            settle()
            path = f"{directory}/{mode}.db"
            return float(run([sys.executable, "-c", _SQLITE, path, mode, SECONDS]))

        sides = {}
        for mode in ("delete", "wal"):
            sides[f"{mode}, peer"] = lambda mode=mode: transactions(peer, mode)
            sides[f"{mode}, ours"] = st.around(f"SQLite, {mode}", lambda mode=mode: transactions(ours, mode))
        t.rounds(sides)
    bench.table.compare("SQLite, rollback journal, on ext4 on FUSE + loop / on a loop device", "tx/s", 0.6, t, "delete, ours", "delete, peer")
    bench.table.compare("SQLite, WAL, synchronous=FULL, the same / the same", "tx/s", 0.6, t, "wal, ours", "wal, peer")


def _programs():
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda p: float(p.split("/")[4]))
    if not found:
        raise Failed("PostgreSQL is not installed (tests/setup.sh bench)")
    return os.path.dirname(found[-1])


def postgres(bench):
    """pgbench (TPC-B like) against a real server for each file system; everything as Debian's defaults but checkpoints, which come
    before each run and not in it."""
    programs, t = _programs(), Turns("PostgreSQL")
    as_user = ["runuser", "-u", "postgres", "--"]

    def cluster(stack, directory):
        data, run_dir = f"{directory}/pg", f"{bench.work}/{os.path.basename(directory)}.pg"
        for d in (data, run_dir):
            os.mkdir(d, 0o700)
            run(["chown", "postgres:", d])
        run([*as_user, f"{programs}/initdb", "-D", data, "--auth=trust", "--no-sync", "--no-instructions"], cwd="/")
        opts = [f"unix_socket_directories={run_dir}", "listen_addresses=", "checkpoint_timeout=1h", "max_wal_size=4GB", "autovacuum=off"]
        cmd = [*as_user, f"{programs}/postgres", "-D", data, *(x for o in opts for x in ("-c", o))]

        def is_up():
            return os.path.exists(f"{run_dir}/.s.PGSQL.5432") and "accepting" in run(
                ["sh", "-c", f"{programs}/pg_isready -h {run_dir} || true"])

        # SIGTERM to runuser reaches the server; it waits for its clients, and there are none then.
        stack.enter_context(server(cmd, is_up, cwd="/"))
        run([f"{programs}/pgbench", "-h", run_dir, "-U", "postgres", "-i", "-q", "-s", "10", "postgres"])
        return run_dir

    def pgbench(run_dir, clients):
        run([f"{programs}/psql", "-h", run_dir, "-U", "postgres", "-qc", "checkpoint", "postgres"])
        settle()
        out = run([f"{programs}/pgbench", "-h", run_dir, "-U", "postgres", "-n", "-c", clients, "-j", min(2, clients),
                   "-T", max(1, round(SECONDS)), "postgres"])
        return float(re.search(r"^tps = ([0-9.]+)", out, re.M).group(1))

    with two_file_systems(bench) as (h, ours, peer), contextlib.ExitStack() as stack:
        st = Stages(bench, h)
        at = {"ours": cluster(stack, ours), "peer": cluster(stack, peer)}
        sides = {}
        for clients in (1, 8):
            sides[f"peer, {clients}"] = lambda n=clients: pgbench(at["peer"], n)
            sides[f"ours, {clients}"] = st.around(f"pgbench, {clients}", lambda n=clients: pgbench(at["ours"], n))
        t.rounds(sides)
    for clients, many in ((1, "1 client"), (8, "8 clients")):
        bench.table.compare(f"PostgreSQL, pgbench, {many}, on ext4 on FUSE + loop / on a loop device", "tx/s", 0.6, t,
                            f"ours, {clients}", f"peer, {clients}")
