#!/usr/bin/python3
"""Writes self-describing sectors through a block device and checks disks for them.

Every 512-byte sector that `write` sends says which batch wrote it and where it belongs. Writes of one batch never overlap
and a batch starts only after the one before has been acknowledged, so the order of batches is known even with many
writes in flight. A journal file records what was submitted and what was acknowledged:

    S BATCH SECTOR COUNT    submitted
    A BATCH SECTOR COUNT    acknowledged
    F BATCH                 a flush after this batch was acknowledged

`check` reads a disk and finds the batch up to which it was written:
  --final   every acknowledged write is there (invariant I1; without --flushed-only also writes that were not flushed)
  --prefix  the disk equals the journal up to some batch, which may be partly applied (invariant I3)

Uses libnbd (Debian: python3-libnbd), a client that this project did not write.
"""

import argparse
import errno
import os
import random
import struct
import sys
import time

SECTOR = 512
HEAD = struct.Struct("<8sQQQ")
MAGIC = b"MARSsect"
# What libnbd reports for requests in flight when the connection is lost: not an answer of the device.
LOST = (errno.ENOTCONN, errno.ESHUTDOWN, errno.ECONNRESET, errno.EPIPE)


def sector_bytes(batch, sector):
    head = HEAD.pack(MAGIC, batch, sector, (batch * 0x9E3779B97F4A7C15 ^ sector * 0xC2B2AE3D27D4EB4F) & (2**64 - 1))
    return head * (SECTOR // HEAD.size)


def batch_of(data, sector):
    """Batch that wrote the sector, 0 for foreign content, None for a sector of ours that is torn or misplaced."""
    magic, batch, where, _ = HEAD.unpack_from(data)
    if magic != MAGIC:
        return None if MAGIC in data else 0
    if where != sector or data != sector_bytes(batch, sector):
        return None
    return batch


def parse_ranges(text):
    """'OFFSET:LENGTH,...' in bytes -> list of (first sector, sectors)."""
    out = []
    for part in text.split(","):
        off, length = (int(x) for x in part.split(":"))
        out.append((off // SECTOR, length // SECTOR))
    return out


def read_journal(path):
    """sector -> list of [batch, acknowledged, flushed], and the last batch."""
    history, last, flushed = {}, 0, 0
    if not os.path.exists(path):
        return history, 0
    with open(path, encoding="ascii") as f:
        lines = f.read().split("\n")
    for line in lines[:-1]:
        kind, *nums = line.split()
        nums = [int(n) for n in nums]
        if kind == "F":
            flushed = max(flushed, nums[0])
            continue
        batch, first, count = nums
        last = max(last, batch)
        for s in range(first, first + count):
            entries = history.setdefault(s, [])
            if kind == "S":
                entries.append([batch, False, False])
            else:
                entries[-1][1] = True
    for entries in history.values():
        for e in entries:
            e[2] = e[1] and e[0] <= flushed
    return history, last


def pick_writes(rng, ranges, depth, max_sectors):
    """Disjoint random writes: list of (sector, count)."""
    out, used = [], []
    for _ in range(depth * 4):
        if len(out) == depth:
            break
        first, sectors = ranges[rng.randrange(len(ranges))]
        count = min(rng.choice((1, 2, 8, 8, 8, 16, 64, 256)), max_sectors, sectors)
        start = first + rng.randrange(sectors - count + 1)
        if count >= 8:
            start -= (start - first) % 8
        if all(start + count <= a or b <= start for a, b in used):
            used.append((start, start + count))
            out.append((start, count))
    return out


def write(args):
    import nbd

    ranges = parse_ranges(args.ranges)
    _, last = read_journal(args.journal)
    rng = random.Random(args.seed * 1_000_003 + last)
    h = nbd.NBD()
    h.connect_uri(args.uri)
    max_sectors = 512
    deadline = time.monotonic() + args.seconds if args.seconds else None
    total, batches = 0, 0
    journal = open(args.journal, "a", encoding="ascii", buffering=1 << 16)

    def read_back(writes, batch):
        for start, count in writes:
            data = bytes(h.pread(count * SECTOR, start * SECTOR))
            for i in range(count):
                if batch_of(data[i * SECTOR : (i + 1) * SECTOR], start + i) != batch:
                    raise SystemExit(f"read-back: sector {start + i} does not show batch {batch}")

    try:
        while True:
            if args.batches and batches >= args.batches:
                break
            if deadline and time.monotonic() >= deadline:
                break
            if args.until and os.path.exists(args.until):
                break
            last += 1
            batches += 1
            writes = pick_writes(rng, ranges, args.depth, max_sectors)
            for start, count in writes:
                journal.write(f"S {last} {start} {count}\n")
            journal.flush()
            failed = []
            left = len(writes)

            def completion(start, count):
                def done(error):
                    nonlocal left
                    left -= 1
                    if error.value:
                        failed.append(error.value)
                    else:
                        journal.write(f"A {last} {start} {count}\n")
                    return 1

                return done

            for start, count in writes:
                data = b"".join(sector_bytes(last, start + i) for i in range(count))
                h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), start * SECTOR, completion(start, count))
                total += len(data)
            while left:
                h.poll(-1)
            if failed and failed[0] in LOST:
                journal.flush()
                print(f"interrupted in batch {last}: {os.strerror(failed[0])}", file=sys.stderr)
                return 3
            if failed:
                raise SystemExit(f"write failed: {os.strerror(failed[0])}")
            if args.flush_every and batches % args.flush_every == 0:
                h.flush()
                journal.write(f"F {last}\n")
            if args.read_back:
                read_back(writes, last)
            if args.pause:
                time.sleep(args.pause)
        if not args.no_final_flush:
            h.flush()
            journal.write(f"F {last}\n")
        h.shutdown()
    except nbd.Error as e:
        journal.flush()
        print(f"interrupted in batch {last}: {e.string}", file=sys.stderr)
        return 3
    finally:
        journal.close()
    print(f"batches={batches} bytes={total} last={last}")
    return 0


def found_batches(path, history):
    found, bad = {}, []
    with open(path, "rb") as f:
        for s in sorted(history):
            f.seek(s * SECTOR)
            b = batch_of(f.read(SECTOR), s)
            if b is None:
                bad.append(s)
            found[s] = b
    return found, bad


def check(args):
    history, last = read_journal(args.journal)
    if not history:
        print(f"{args.journal}: nothing was written, nothing to check")
        return 1
    found, bad = found_batches(args.disk, history)
    if bad:
        print(f"{args.disk}: {len(bad)} torn or misplaced sectors, first {bad[0]}")
        return 1
    top = last if args.final else max(found.values(), default=0)
    wrong = []
    for s, entries in history.items():
        sure = 2 if args.flushed_only else 1
        base = max((i for i, e in enumerate(entries) if e[sure] and (e[0] < top or args.final)), default=-1)
        allowed = {e[0] for e in entries[max(base, 0) :] if e[0] <= top}
        if base < 0:
            allowed.add(0)
        if found[s] not in allowed:
            wrong.append((s, found[s], sorted(allowed)))
    if wrong:
        s, f, allowed = wrong[0]
        print(f"{args.disk}: {len(wrong)} sectors wrong (up to batch {top}); sector {s} shows batch {f}, allowed {allowed[:6]}")
        return 1
    print(f"{args.disk}: ok, {len(history)} sectors, batch {top} of {last}")
    return 0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="cmd", required=True)
    w = sub.add_parser("write")
    w.add_argument("uri")
    w.add_argument("--ranges", required=True, help="OFFSET:LENGTH,... in bytes")
    w.add_argument("--journal", required=True)
    w.add_argument("--seed", type=int, default=1)
    w.add_argument("--batches", type=int, default=0)
    w.add_argument("--seconds", type=float, default=0)
    w.add_argument("--until", help="stop when this file exists")
    w.add_argument("--depth", type=int, default=32)
    w.add_argument("--flush-every", type=int, default=0)
    w.add_argument("--read-back", action="store_true")
    w.add_argument("--pause", type=float, default=0, help="seconds between batches (a slower application)")
    w.add_argument("--no-final-flush", action="store_true")
    c = sub.add_parser("check")
    c.add_argument("disk")
    c.add_argument("--journal", required=True)
    c.add_argument("--final", action="store_true")
    c.add_argument("--prefix", action="store_true")
    c.add_argument("--flushed-only", action="store_true")
    args = p.parse_args()
    sys.exit(write(args) if args.cmd == "write" else check(args))


if __name__ == "__main__":
    main()
