//! Transmission: the connection's own thread.
//!
//! It reads whatever the socket has into one buffer, hands every complete request of it to the backend straight from there,
//! then says `kick` once, then sends what is finished. Reads that need no device are done right here; the others go to the pool.

use super::conn::{Conn, IN_FLIGHT_MAX};
use super::proto::*;
use crate::buffer::Buffer;
use crate::pool::Pool;
use crate::split::Split;
use crate::sys::Pages;
use crate::{Answers, Backend, Ticket};
use nix::sys::socket::{MsgFlags, recv};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

/// Receive buffer. Stays inside the second-level cache together with what the backend copies it to.
const IN_LEN: usize = 512 << 10;
/// A write whose data is not all here yet and larger than this is handed over piece by piece.
const STREAM_MIN: usize = 128 << 10;
/// Finished reads are sent when this much has come together.
const SEND_AT: usize = 128 << 10;
/// Own replies: what may be there before a read, and the largest read.
const OUT_LEN: usize = SEND_AT + READ_HEADER_MAX + BLOCK_MAX as usize;
/// After this long without a request the buffers are given back.
const IDLE: Duration = Duration::from_secs(2);

/// A write or an unwanted payload that is still arriving.
enum Body {
    Write {
        pos: u64,
        left: usize,
        fua: bool,
        split: Arc<Split>,
    },
    /// Answered when it is over: a client does not expect an answer to what it is still sending.
    Skip {
        left: usize,
        cookie: u64,
        errno: i32,
    },
}

/// Why the transmission ends.
enum Stop {
    Disconnect,
    Broken(io::Error),
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Stop {
        Stop::Broken(e)
    }
}

struct Server<'a> {
    conn: &'a Arc<Conn>,
    answers: Arc<dyn Answers>,
    backend: &'a Arc<dyn Backend>,
    pool: &'a Arc<Pool>,
    structured: bool,
    /// Received and not used yet: `input[start..end]`.
    input: Pages,
    start: usize,
    end: usize,
    body: Option<Body>,
    /// Own replies: `output[..out_len]`.
    output: Pages,
    out_len: usize,
    /// Requests handed to backend or pool.
    submitted: u64,
    /// `submitted` minus those in flight, as known last.
    answered: u64,
    /// The backend has got something since the last kick.
    dirty: bool,
}

/// Serves until the client leaves or the connection breaks. Returns after every request is answered or cannot be.
pub(crate) fn serve(
    conn: &Arc<Conn>,
    backend: &Arc<dyn Backend>,
    pool: &Arc<Pool>,
    structured: bool,
) -> io::Result<()> {
    conn.sock.set_read_timeout(Some(IDLE))?;
    let mut server = Server {
        conn,
        answers: Arc::clone(conn) as Arc<dyn Answers>,
        backend,
        pool,
        structured,
        input: Pages::new(IN_LEN)?,
        start: 0,
        end: 0,
        body: None,
        output: Pages::new(OUT_LEN)?,
        out_len: 0,
        submitted: 0,
        answered: 0,
        dirty: false,
    };
    let stop = loop {
        if let Err(stop) = server.turn() {
            break stop;
        }
    };
    if let Some(Body::Write { split, .. }) = server.body.take() {
        // The data never came; nobody is there to hear it.
        split.submitted(Err(libc::EIO));
    }
    let sent = server.end_batch();
    conn.drain(server.submitted);
    match stop {
        Stop::Disconnect => sent,
        Stop::Broken(e) => Err(e),
    }
}

impl Server<'_> {
    /// One turn: receive, hand over all that is complete, kick, send.
    fn turn(&mut self) -> Result<(), Stop> {
        self.receive()?;
        let result = self.consume();
        self.end_batch()?;
        result
    }

    fn kick(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.backend.kick();
        }
    }

    fn end_batch(&mut self) -> io::Result<()> {
        self.kick();
        self.send()
    }

    fn send(&mut self) -> io::Result<()> {
        let len = std::mem::take(&mut self.out_len);
        self.conn.send_own(&self.output[..len])
    }

    fn receive(&mut self) -> Result<(), Stop> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == IN_LEN || self.start > IN_LEN - STREAM_MIN - REQUEST_LEN {
            // What is left is the beginning of one request, smaller than STREAM_MIN.
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        loop {
            match recv(
                self.conn.sock.as_raw_fd(),
                &mut self.input[self.end..],
                MsgFlags::empty(),
            ) {
                Ok(0) if self.start == self.end && self.body.is_none() => {
                    return Err(Stop::Disconnect);
                }
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(n) => {
                    self.end += n;
                    return Ok(());
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => self.idle()?,
                Err(e) => return Err(io::Error::from(e).into()),
            }
        }
    }

    /// Nothing came for a while: gives memory back and waits without limit.
    fn idle(&mut self) -> Result<(), Stop> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.input.release();
        }
        self.output.release();
        self.conn.idle();
        match poll(
            &mut [PollFd::new(self.conn.sock.as_fd(), PollFlags::POLLIN)],
            PollTimeout::NONE,
        ) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(e) => Err(io::Error::from(e).into()),
        }
    }

    /// Handles everything complete in the buffer.
    fn consume(&mut self) -> Result<(), Stop> {
        loop {
            if self.body.is_some() && !self.take_body() {
                return Ok(());
            }
            let rest = &self.input[self.start..self.end];
            if rest.len() < REQUEST_LEN {
                return Ok(());
            }
            let Some(req) = Request::parse(rest) else {
                return Err(
                    io::Error::new(io::ErrorKind::InvalidData, "wrong request magic").into(),
                );
            };
            let len = req.len as usize;
            let have = rest.len() - REQUEST_LEN;
            if req.cmd == CMD_WRITE && have < len && len <= STREAM_MIN {
                return Ok(());
            }
            let payload = self.start + REQUEST_LEN;
            self.start = payload;
            let action = req.check(self.backend.size(), self.structured);
            if req.cmd == CMD_WRITE {
                match action {
                    Action::Write if have >= len => {
                        self.room()?;
                        let ticket = self.ticket(req.cookie);
                        self.start += len;
                        self.dirty = true;
                        self.backend.write(
                            req.pos,
                            &self.input[payload..payload + len],
                            req.fua(),
                            ticket,
                        );
                        continue;
                    }
                    Action::Write => {
                        self.room()?;
                        let split = Split::new(self.ticket(req.cookie));
                        self.body = Some(Body::Write {
                            pos: req.pos,
                            left: len,
                            fua: req.fua(),
                            split,
                        });
                        continue;
                    }
                    _ if req.len > 2 * BLOCK_MAX => {
                        return Err(io::Error::new(
                            io::ErrorKind::InvalidData,
                            "write far too long",
                        )
                        .into());
                    }
                    Action::Refuse(errno) => {
                        self.body = Some(Body::Skip {
                            left: len,
                            cookie: req.cookie,
                            errno,
                        });
                        continue;
                    }
                    // Of no length.
                    _ => {}
                }
            }
            self.act(&req, action)?;
        }
    }

    /// Uses what is here of a long payload. True when it is complete.
    fn take_body(&mut self) -> bool {
        let have = self.end - self.start;
        match &mut self.body {
            None => return true,
            Some(Body::Skip {
                left,
                cookie,
                errno,
            }) => {
                let n = have.min(*left);
                *left -= n;
                self.start += n;
                if *left > 0 {
                    return false;
                }
                let reply = simple_reply(*cookie, wire_error(*errno));
                self.put(&reply);
            }
            Some(Body::Write {
                pos,
                left,
                fua,
                split,
            }) => {
                // Whole blocks only, and the last piece in one go.
                let align = BLOCK_PREFERRED as usize;
                let n = if have >= *left {
                    *left
                } else {
                    have - have % align
                };
                if n > 0 {
                    self.dirty = true;
                    self.backend.write(
                        *pos,
                        &self.input[self.start..self.start + n],
                        *fua,
                        split.piece(),
                    );
                }
                *pos += n as u64;
                *left -= n;
                self.start += n;
                if *left > 0 {
                    return false;
                }
                split.submitted(Ok(()));
            }
        }
        self.body = None;
        true
    }

    fn ticket(&mut self, cookie: u64) -> Ticket {
        self.submitted += 1;
        Ticket {
            to: Arc::clone(&self.answers),
            tag: cookie,
        }
    }

    /// Waits until one more request may be in flight.
    fn room(&mut self) -> Result<(), Stop> {
        if self.submitted - self.answered < IN_FLIGHT_MAX {
            return Ok(());
        }
        // Without a kick the backend might hold all of them back.
        self.end_batch()?;
        self.wait_for_room(0)
    }

    fn wait_for_room(&mut self, read_bytes: usize) -> Result<(), Stop> {
        match self.conn.wait_for_room(self.submitted, read_bytes) {
            Some(in_flight) => {
                self.answered = self.submitted - in_flight;
                Ok(())
            }
            None => Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.output[self.out_len..self.out_len + bytes.len()].copy_from_slice(bytes);
        self.out_len += bytes.len();
    }

    /// Everything but writes.
    fn act(&mut self, req: &Request, action: Action) -> Result<(), Stop> {
        if self.out_len >= SEND_AT {
            self.kick();
            self.send()?;
        }
        match action {
            Action::Disconnect => return Err(Stop::Disconnect),
            Action::Read => self.read(req)?,
            Action::Nothing => self.put(&simple_reply(req.cookie, 0)),
            Action::Refuse(errno) if req.cmd == CMD_READ => self.refuse_read(req.cookie, errno),
            Action::Refuse(errno) => self.put(&simple_reply(req.cookie, wire_error(errno))),
            Action::Flush => {
                self.room()?;
                let ticket = self.ticket(req.cookie);
                self.dirty = true;
                self.backend.flush(ticket);
            }
            Action::Zero => {
                self.room()?;
                let ticket = self.ticket(req.cookie);
                self.dirty = true;
                self.backend
                    .write_zeroes(req.pos, u64::from(req.len), req.fua(), ticket);
            }
            // Handled where the payload is.
            Action::Write => {}
        }
        Ok(())
    }

    fn refuse_read(&mut self, cookie: u64, errno: i32) {
        let structured = self.structured;
        read_no_data(structured, cookie, wire_error(errno), |b| self.put(b));
    }

    fn read(&mut self, req: &Request) -> Result<(), Stop> {
        if req.len == 0 {
            let structured = self.structured;
            read_no_data(structured, req.cookie, 0, |b| self.put(b));
            return Ok(());
        }
        let head = read_header_len(self.structured);
        let data = self.out_len + head;
        let end = data + req.len as usize;
        let mut result = self.backend.try_read(req.pos, &mut self.output[data..end]);
        if result == Ok(false) && self.start == self.end && self.conn.in_flight(self.submitted) == 0
        {
            // Nothing else to do: no reason to wake another thread.
            result = self
                .backend
                .read(req.pos, &mut self.output[data..end])
                .map(|()| true);
        }
        match result {
            Ok(true) => {
                let (structured, at) = (self.structured, self.out_len);
                read_header(&mut self.output[at..data], structured, req);
                self.out_len = end;
                Ok(())
            }
            Ok(false) => self.read_in_pool(*req, head),
            Err(errno) => {
                self.refuse_read(req.cookie, errno);
                Ok(())
            }
        }
    }

    fn read_in_pool(&mut self, req: Request, head: usize) -> Result<(), Stop> {
        let total = head + req.len as usize;
        self.wait_for_pool(total)?;
        self.submitted += 1;
        let (conn, backend, structured) = (
            Arc::clone(self.conn),
            Arc::clone(self.backend),
            self.structured,
        );
        let job = move || {
            let mut answer = Buffer::new(total).map_err(|_| libc::ENOMEM);
            if let Ok(buffer) = &mut answer {
                let (header, data) = buffer.bytes_mut().split_at_mut(head);
                match backend.read(req.pos, data) {
                    Ok(()) => read_header(header, structured, &req),
                    Err(errno) => answer = Err(errno),
                }
            }
            let answer = answer.map_err(|errno| {
                let mut bytes = Vec::new();
                read_no_data(structured, req.cookie, wire_error(errno), |b| {
                    bytes.extend_from_slice(b)
                });
                bytes
            });
            conn.read_done(answer, total);
            conn.flush();
        };
        if self.pool.run(job).is_err() {
            let mut bytes = Vec::new();
            read_no_data(self.structured, req.cookie, wire_error(libc::ENOMEM), |b| {
                bytes.extend_from_slice(b)
            });
            self.conn.read_done(Err(bytes), total);
        }
        Ok(())
    }

    /// Waits for room in the pool. What is finished goes out before, so that the client need not wait with us.
    fn wait_for_pool(&mut self, total: usize) -> Result<(), Stop> {
        if self.conn.try_room(self.submitted, total) {
            return Ok(());
        }
        self.end_batch()?;
        self.wait_for_room(total)
    }
}
