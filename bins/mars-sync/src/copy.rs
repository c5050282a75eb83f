//! The copy itself: a sender that asks with digests, a receiver that writes what differs.
use crate::blocks::Reader;
use crate::client::Client;
use crate::proto::{self, Answer, PACKED_MAX};
use crate::shared::Shared;
use crate::window::{LogPos, Verdict, Window};
use anyhow::{Context, bail};
use mars_daemon::{Rates, amount, dial_member};
use mars_disk::Disk;
use mars_live::SyncLive;
use mars_log::FeatureMask;
use mars_log::wire::Unwrapper;
use mars_net::{FRAME_HEADER, Service, read_frame, write_frame};
use mars_policy::SyncPlan;
use mars_tree::{Batch, HostName, Key, ReplayPos, ResName, Tree};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Flush and publish at most so often.
const PUBLISH: Duration = Duration::from_secs(2);
/// Before a chunk is asked for again.
const AGAIN: Duration = Duration::from_millis(20);

/// Makes `[from, size)` equal and durable; publishes progress, but never the full size.
pub fn copy(c: &Client<'_>, p: &SyncPlan, disk: &Disk, from: u64) -> anyhow::Result<()> {
    let stream = dial(c, p)?;
    c.ctl.set_conn(Some(stream.try_clone()?));
    // A change during the connecting interrupted nothing.
    if !crate::client::is_wanted(&c.d.env, &c.tree, &c.res)? {
        c.ctl.set_conn(None);
        bail!("something else is wanted than the sync from {}", p.source);
    }
    c.d.status(&format!("syncing from {}", p.source));
    let window = Shared::new(Window::new(from, p.size));
    let sent = AtomicU64::new(0);
    let result = std::thread::scope(|s| {
        let sender = std::thread::Builder::new()
            .name("ask".into())
            .stack_size(256 << 10)
            .spawn_scoped(s, || {
                let r = ask(&c.tree, &c.res, &p.source, disk, &stream, &window, &sent);
                if r.is_err() {
                    stream.shutdown(Shutdown::Both).ok();
                }
                r
            })?;
        let begin = Instant::now();
        let mut receiver = Receiver::new(c, p, disk, &window, &sent);
        let received = receiver.run(&stream);
        // The sender may sit in a send or wait for room.
        window.with(Window::close);
        if received.is_err() {
            stream.shutdown(Shutdown::Both).ok();
        }
        let asked = sender
            .join()
            .unwrap_or_else(|_| Err(anyhow::anyhow!("the sender died")));
        // What was written is made durable and counted also when the connection broke.
        let kept = receiver.keep();
        if received.is_ok() && kept.is_ok() {
            receiver.report(p.size - from, begin.elapsed());
        }
        // The sender's trouble is the cause when both have one: it cut the connection.
        asked.and(received).and(kept)
    });
    c.ctl.set_conn(None);
    result
}

fn dial(c: &Client<'_>, p: &SyncPlan) -> anyhow::Result<TcpStream> {
    let service = (Service::Sync, proto::PORT_OFFSET);
    let silence = c.d.config().sync_timeout(&c.res);
    let conn = dial_member(&c.d.env, &c.tree, service, &p.source, &p.ip, silence)?;
    let what = || format!("asking {} for its disk", p.source);
    let mut stream = conn.stream;
    let mask = FeatureMask::OURS.0.to_le_bytes();
    write_frame(&mut stream, proto::ACCEPT, &mask).with_context(what)?;
    write_frame(&mut stream, proto::OPEN, c.res.as_str().as_bytes()).with_context(what)?;
    let frame = read_frame(&mut stream, proto::TEXT_MAX).with_context(what)?;
    match (frame.kind, <[u8; 8]>::try_from(frame.body.as_slice())) {
        (proto::READY, Ok(size)) if u64::from_le_bytes(size) >= p.size => Ok(stream),
        (proto::READY, _) => bail!(
            "the disk of {} is smaller than the resource ({} bytes)",
            p.source,
            p.size
        ),
        (proto::REFUSED, _) => bail!("{} refuses: {}", p.source, proto::text(&frame.body)),
        (kind, _) => bail!("unexpected frame of kind {kind} from {}", p.source),
    }
}

/// The sending side: own digests, chunk after chunk.
fn ask(
    tree: &Tree,
    res: &ResName,
    source: &HostName,
    disk: &Disk,
    mut stream: &TcpStream,
    window: &Shared,
    sent: &AtomicU64,
) -> anyhow::Result<()> {
    let mut reader = Reader::new(disk);
    while let Some(chunk) = window.take() {
        // Read before the question goes out: what the source reads afterwards is at least as new.
        let known = position(tree, res, source)?;
        window.with(|w| w.asked(chunk, known));
        let check = reader.check(chunk).context("reading the own disk")?;
        let body = check.encode();
        write_frame(&mut stream, proto::CHECK, &body).context("asking the source")?;
        sent.fetch_add((FRAME_HEADER + body.len()) as u64, Ordering::Relaxed);
    }
    Ok(())
}

fn replay_link(tree: &Tree, res: &ResName, host: &HostName) -> anyhow::Result<ReplayPos> {
    let text = tree
        .text(&Key::Replay(res.clone(), host.clone()))?
        .with_context(|| format!("the replay position of {host} is unknown"))?;
    Ok(text.parse()?)
}

/// Everything before it is on that host's disk.
fn position(tree: &Tree, res: &ResName, host: &HostName) -> anyhow::Result<LogPos> {
    Ok(replay_link(tree, res, host)?.order())
}

/// The receiving side.
struct Receiver<'a> {
    c: &'a Client<'a>,
    plan: &'a SyncPlan,
    disk: &'a Disk,
    window: &'a Shared,
    sent: &'a AtomicU64,
    received: u64,
    /// Equal and different blocks of the runs before this one.
    before: (u64, u64),
    next_publish: Instant,
    rates: Rates,
    packed: Unwrapper,
}

impl<'a> Receiver<'a> {
    fn new(
        c: &'a Client<'a>,
        plan: &'a SyncPlan,
        disk: &'a Disk,
        window: &'a Shared,
        sent: &'a AtomicU64,
    ) -> Receiver<'a> {
        // A continued sync goes on counting.
        let before = c
            .tree
            .text(&Key::VerifyStatus(c.res.clone(), c.me().clone()))
            .ok()
            .flatten()
            .filter(|_| plan.from > 0)
            .and_then(|t| {
                let (a, b) = t.split_once(',')?;
                Some((a.parse().ok()?, b.parse().ok()?))
            });
        Receiver {
            c,
            plan,
            disk,
            window,
            sent,
            received: 0,
            before: before.unwrap_or((0, 0)),
            next_publish: Instant::now() + PUBLISH,
            rates: Rates::default(),
            packed: Unwrapper::default(),
        }
    }

    fn run(&mut self, mut stream: &TcpStream) -> anyhow::Result<()> {
        self.publish_live();
        while !self.window.with(|w| w.is_equal()) {
            let waiting = mars_daemon::watchdog::waiting();
            let mut frame =
                read_frame(&mut stream, PACKED_MAX).context("waiting for the source")?;
            drop(waiting);
            self.received += (FRAME_HEADER + frame.body.len()) as u64;
            match frame.kind {
                proto::RESULT => {}
                proto::PACKED => frame.body = self.unpack(&frame.body)?,
                proto::FAILED => bail!("{}: {}", self.plan.source, proto::text(&frame.body)),
                kind => bail!("unexpected frame of kind {kind}"),
            }
            let (answer, content) = Answer::decode(&frame.body).context("damaged answer")?;
            self.take(&answer, content)?;
            if Instant::now() >= self.next_publish {
                self.keep()?;
            }
        }
        Ok(())
    }

    /// The same as it would have come without packing, checked.
    fn unpack(&mut self, body: &[u8]) -> anyhow::Result<Vec<u8>> {
        let (head, pieces) = body
            .split_at_checked(proto::RESULT_HEAD)
            .context("damaged answer")?;
        let mut plain = head.to_vec();
        self.packed
            .unwrap(pieces, proto::CHUNK, &mut plain)
            .context("damaged on the way: the digest does not fit")?;
        Ok(plain)
    }

    fn take(&mut self, a: &Answer, content: &[u8]) -> anyhow::Result<()> {
        let different = a.different.count_ones();
        let verdict = self.window.with(|w| w.answered(a.chunk, different))?;
        if verdict == Verdict::Write && !self.write(a, content)? {
            // Rare; the pause keeps it from becoming a storm when the source's position stands still.
            self.c.ctl.pause(AGAIN);
            return Ok(());
        }
        self.rates.add(1, u64::from(a.chunk.len));
        self.publish_live();
        Ok(())
    }

    /// False when the answer may be too old.
    fn write(&mut self, a: &Answer, content: &[u8]) -> anyhow::Result<bool> {
        let waiting = mars_daemon::watchdog::waiting();
        let _held = self.c.lock.hold().context("waiting for replay")?;
        drop(waiting);
        let applied = replay_link(&self.c.tree, &self.c.res, self.c.me())?.end();
        if !self.window.with(|w| w.may_write(a.chunk, applied)) {
            return Ok(false);
        }
        let result = write_answer(self.disk, a, content);
        if let Err(e) = &result {
            self.c.disk_error(e.raw_os_error().unwrap_or(libc::EIO))?;
        }
        result.context("writing the own disk")?;
        self.window
            .with(|w| w.written(a.chunk, a.different.count_ones()));
        Ok(true)
    }

    /// Flushes and publishes the gap-free prefix. The full size is published only at the very end, when it means "finished".
    fn keep(&mut self) -> anyhow::Result<()> {
        self.next_publish = Instant::now() + PUBLISH;
        if self.window.with(Window::begin_flush) {
            let result = self.disk.flush();
            self.window.with(|w| w.flushed(result.is_ok()));
            if let Err(e) = result {
                // The kernel takes the pages that it could not write for clean: the next look must be at the disk itself.
                self.disk.forget_cached();
                self.c.disk_error(e.raw_os_error().unwrap_or(libc::EIO))?;
                return Err(e).context("flushing the own disk");
            }
        }
        let durable = self.window.with(|w| w.durable());
        let below = if durable < self.plan.size {
            durable
        } else {
            self.plan.size.saturating_sub(1) / proto::BLOCK as u64 * proto::BLOCK as u64
        };
        let (equal, different) = self.blocks();
        let (res, me) = (&self.c.res, self.c.me());
        let mut b = Batch::new();
        b.set_if_changed(Key::SyncStatus(res.clone(), me.clone()), below);
        b.set_if_changed(
            Key::VerifyStatus(res.clone(), me.clone()),
            format!("{equal},{different}"),
        );
        if let Some((ops, kib)) = self.rates.tick(Instant::now()) {
            b.set_if_changed(self.c.actual("ops-sync_rate"), ops);
            b.set_if_changed(self.c.actual("amount-sync_rate"), kib);
        }
        self.c.tree.commit(&b)?;
        self.publish_live();
        self.c.d.progress();
        self.c.d.status(&format!(
            "syncing from {}: {}",
            self.plan.source,
            amount::progress(durable, self.plan.size, self.rates.current().1)
        ));
        Ok(())
    }

    /// Equal and different blocks, earlier runs included.
    fn blocks(&self) -> (u64, u64) {
        let (equal, different) = self.window.with(|w| w.blocks());
        (
            self.before.0.saturating_add(equal),
            self.before.1.saturating_add(different),
        )
    }

    /// What this run did, for the journal.
    fn report(&self, bytes: u64, took: Duration) {
        let (equal, different) = self.blocks();
        tracing::info!(
            "sync finished resource={} source={} bytes={bytes} seconds={:.3} wire_bytes={} equal_blocks={equal} different_blocks={different}{}",
            self.c.res,
            self.plan.source,
            took.as_secs_f64(),
            self.wire_bytes(),
            self.packed.last.map_or(String::new(), |(d, c)| format!(
                " net_digest={d:?} net_compression={c:?}"
            )),
        );
    }

    fn wire_bytes(&self) -> u64 {
        self.received + self.sent.load(Ordering::Relaxed)
    }

    fn publish_live(&self) {
        let (ops_rate, amount_rate) = self.rates.current();
        let (equal_blocks, different_blocks) = self.blocks();
        self.c.page.publish(&SyncLive {
            pos: self.window.with(|w| w.prefix()),
            equal_blocks,
            different_blocks,
            wire_bytes: self.wire_bytes(),
            ops_rate,
            amount_rate,
        });
    }
}

/// Neighbouring blocks in one write; zero blocks as holes where the disk can.
fn write_answer(disk: &Disk, a: &Answer, mut content: &[u8]) -> std::io::Result<()> {
    let zero = |i: usize| a.zero >> i & 1 != 0;
    let mut blocks = proto::bits(a.different).peekable();
    while let Some(first) = blocks.next() {
        let mut last = first;
        while let Some(next) = blocks.next_if(|n| *n == last + 1 && zero(*n) == zero(first)) {
            last = next;
        }
        let (from, _) = a.chunk.block(first);
        let (last_from, last_len) = a.chunk.block(last);
        let len = last_from + last_len - from;
        let pos = a.chunk.pos + from as u64;
        if zero(first) {
            disk.zero_at(pos, len as u64)?;
        } else {
            let (data, rest) = content
                .split_at_checked(len)
                .ok_or(std::io::ErrorKind::InvalidData)?;
            disk.write_at(data, pos)?;
            disk.start_writeout(pos, len as u64);
            content = rest;
        }
    }
    Ok(())
}
