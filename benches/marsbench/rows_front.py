"""Writes and reads through the device of a primary."""

from . import peers
from .host import Host
from .machine import GIB, IS_FULL, MIB, SECONDS, disk, settle, warm
from .stages import Stages
from .table import Turns

SIZE = GIB
BURST_SECONDS = 20 if IS_FULL else 5 * SECONDS


def settled(fn):
    """Runs fn after everything written before has reached the disk."""

    def go():
        settle()
        return fn()

    return go


def strict(bench):
    """One commit at a time and 32 in flight, against an application that appends and syncs by itself. Default buffer (256 MiB)."""
    h = Host(bench, "alpha", 'front = "nbd-socket"\ndurability = "strict"\n')
    t, st = Turns("strict"), Stages(bench, h)
    with h.running():
        h.primary(disk(f"{bench.work}/a.img", SIZE))
        t.rounds({
            "peer": settled(lambda: peers.appends(bench)),
            "d1": settled(st.around("strict, 1 in flight", lambda: peers.fio_nbd(h.uri(), "randwrite", 1, SIZE))),
            "d32": settled(st.around("strict, 32 in flight", lambda: peers.fio_nbd(h.uri(), "randwrite", 32, SIZE))),
        })
    bench.table.compare("strict, 4 KiB random write, 1 in flight / append + fdatasync", "op/s", 0.85, t, "d1", "peer")
    bench.table.compare("strict, 4 KiB random write, 32 in flight / append + fdatasync", "op/s", 10, t, "d32", "peer")


def burst(bench):
    """20 s of strict writes that the buffer can take, against group commit by the client: 32 writes, one flush, repeated."""
    # As an administrator would set it for bursts: all of the 1 GiB disk fits into half of the buffer, write-back may wait.
    conf = 'front = "nbd-socket"\ndurability = "strict"\nbuffer_limit_mib = 4096\nwriteback_age_ms = 600000\n'
    h = Host(bench, "alpha", conf + "recovery_limit_mib = 65536\n")
    t, st = Turns("burst"), Stages(bench, h)
    other = disk(f"{bench.work}/peer.img", SIZE)

    def peer():
        with peers.nbdkit(bench, other) as uri:
            return peers.nbdload(bench, uri, "rand", 4096, 32, max(SECONDS, BURST_SECONDS / 4), "batch")[1]

    with h.running():
        h.primary(disk(f"{bench.work}/a.img", SIZE))
        t.rounds({
            "peer": settled(peer),
            "ours": settled(st.around("strict, 32 in flight, burst",
                                      lambda: peers.nbdload(bench, h.uri(), "rand", 4096, 32, BURST_SECONDS)[1])),
        })
    bench.table.compare("strict, 32 in flight, burst of 20 s, buffer 4 GiB, write-back waits / nbdkit file, 32 writes + flush", "op/s", 2.5, t, "ours", "peer")


def flush(bench):
    """4 KiB random writes without durability, and reads, against nbdkit on the page cache. Default buffer (256 MiB)."""
    h = Host(bench, "alpha", 'front = "nbd-socket"\ndurability = "flush"\n')
    t, st = Turns("flush"), Stages(bench, h)
    other = disk(f"{bench.work}/peer.img", SIZE)

    def peer(rw):
        def go():
            with peers.nbdkit(bench, other) as uri:
                return peers.fio_nbd(uri, rw, 32, SIZE)

        return settled(go)

    with h.running():
        h.primary(disk(f"{bench.work}/a.img", SIZE))
        if bench.wants("flush"):
            # The peer is on the page cache: not the run that has to fill it. (Filled by reading it would be several times slower:
            # small writes into the large pages that read-ahead makes cost ext4 much.)
            for fn in (peer("randwrite"), lambda: peers.fio_nbd(h.uri(), "randwrite", 32, SIZE)):
                fn()
            t.rounds({
                "peer, write": peer("randwrite"),
                "write": settled(st.around("flush, 32 in flight", lambda: peers.fio_nbd(h.uri(), "randwrite", 32, SIZE))),
            })
        if bench.wants("read"):
            settle()
            warm(f"{bench.work}/a.img", other)
            t.rounds({"peer, read": peer("randread"), "read": settled(lambda: peers.fio_nbd(h.uri(), "randread", 32, SIZE))})
    if bench.wants("flush"):
        bench.table.compare("flush, 4 KiB random write, 32 in flight / nbdkit file", "op/s", 0.7, t, "write", "peer, write")
    if bench.wants("read"):
        bench.table.compare("4 KiB random read, 32 in flight / nbdkit file", "op/s", 0.9, t, "read", "peer, read")


def sequential(bench):
    """1 MiB sequential writes, 8 in flight, and a flush: the data goes to the disk twice. Default buffer (256 MiB)."""
    h = Host(bench, "alpha", 'front = "nbd-socket"\ndurability = "flush"\n')
    t, st = Turns("sequential"), Stages(bench, h)
    other = disk(f"{bench.work}/peer.img", 2 * SIZE)
    amount = f"{3 * GIB if IS_FULL else GIB}b"

    def peer():
        with peers.qemu_nbd(bench, other) as uri:
            return peers.nbdload(bench, uri, "seq", MIB, 8, amount)[0]

    with h.running():
        h.primary(disk(f"{bench.work}/a.img", 2 * SIZE))
        t.rounds({
            "peer": settled(peer),
            "ours": settled(st.around("flush, 1 MiB sequential", lambda: peers.nbdload(bench, h.uri(), "seq", MIB, 8, amount)[0])),
        })
    bench.table.compare("flush, 1 MiB sequential write, 8 in flight / qemu-nbd cache=none io_uring", "MiB/s", 0.5, t, "ours", "peer", 1 / MIB)
