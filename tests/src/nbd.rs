//! A client for the NBD socket, the client half of the protocol only: several requests in flight, simple replies.
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPT_MAGIC: u64 = 0x4948_4156_454F_5054;
const REP_MAGIC: u64 = 0x0003_e889_0455_65a9;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
/// Force unit access.
pub const FUA: u16 = 1;
const NO_HOLE: u16 = 2;

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cmd {
    /// READ
    Read,
    /// WRITE
    Write,
    /// DISC
    Disconnect,
    /// FLUSH
    Flush,
    /// TRIM
    Trim,
    /// WRITE_ZEROES
    WriteZeroes,
    /// WRITE_ZEROES with NO_HOLE
    FillZeroes,
}

impl Cmd {
    fn code(self) -> u16 {
        match self {
            Cmd::Read => 0,
            Cmd::Write => 1,
            Cmd::Disconnect => 2,
            Cmd::Flush => 3,
            Cmd::Trim => 4,
            Cmd::WriteZeroes | Cmd::FillZeroes => 6,
        }
    }
}

/// A connection in transmission.
#[derive(Debug)]
pub struct Nbd {
    sock: UnixStream,
    /// Size of the export.
    pub size: u64,
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

impl Nbd {
    /// Connects to the socket and enters the export. A server that says nothing for `patience` is an error.
    pub fn connect(path: &Path, export: &str, patience: Duration) -> io::Result<Nbd> {
        let sock = UnixStream::connect(path)?;
        sock.set_read_timeout(Some(patience))?;
        let mut s = &sock;
        let mut hello = [0; 18];
        s.read_exact(&mut hello)?;
        if hello[..8] != MAGIC.to_be_bytes() || hello[8..16] != OPT_MAGIC.to_be_bytes() {
            return Err(wrong("not an NBD server"));
        }
        // Fixed newstyle, no zeros.
        let mut go = 3u32.to_be_bytes().to_vec();
        go.extend(OPT_MAGIC.to_be_bytes());
        go.extend(OPT_GO.to_be_bytes());
        go.extend((export.len() as u32 + 6).to_be_bytes());
        go.extend((export.len() as u32).to_be_bytes());
        go.extend(export.as_bytes());
        go.extend(0u16.to_be_bytes());
        s.write_all(&go)?;
        let mut size = None;
        loop {
            let mut head = [0; 20];
            s.read_exact(&mut head)?;
            let field = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
            if head[..8] != REP_MAGIC.to_be_bytes() || field(16) > 4096 {
                return Err(wrong("damaged option reply"));
            }
            let mut data = vec![0; field(16) as usize];
            s.read_exact(&mut data)?;
            match field(12) {
                REP_INFO if data.len() >= 12 && data[..2] == [0, 0] => {
                    size = Some(u64::from_be_bytes(data[2..10].try_into().unwrap()));
                }
                REP_INFO => {}
                REP_ACK => break,
                // Only "shutting down" is expected: the device goes away.
                _ => return Err(io::ErrorKind::ConnectionRefused.into()),
            }
        }
        let size = size.ok_or_else(|| wrong("no export information"))?;
        Ok(Nbd { sock, size })
    }

    /// Sends a request. `data` is the payload of a write, else empty.
    pub fn send(
        &self,
        cmd: Cmd,
        flags: u16,
        cookie: u64,
        pos: u64,
        len: u32,
        data: &[u8],
    ) -> io::Result<()> {
        let extra = if cmd == Cmd::FillZeroes { NO_HOLE } else { 0 };
        let mut b = Vec::with_capacity(28 + data.len());
        b.extend(REQUEST_MAGIC.to_be_bytes());
        b.extend((flags | extra).to_be_bytes());
        b.extend(cmd.code().to_be_bytes());
        b.extend(cookie.to_be_bytes());
        b.extend(pos.to_be_bytes());
        b.extend(len.to_be_bytes());
        b.extend(data);
        (&self.sock).write_all(&b)
    }

    /// The next reply: cookie and error. After a successful READ its data follows, for [`Nbd::data`].
    pub fn reply(&self) -> io::Result<(u64, u32)> {
        let mut b = [0; 16];
        (&self.sock).read_exact(&mut b)?;
        if b[..4] != REPLY_MAGIC.to_be_bytes() {
            return Err(wrong("damaged reply"));
        }
        let error = u32::from_be_bytes(b[4..8].try_into().unwrap());
        Ok((u64::from_be_bytes(b[8..].try_into().unwrap()), error))
    }

    /// Data of a READ.
    pub fn data(&self, buf: &mut [u8]) -> io::Result<()> {
        (&self.sock).read_exact(buf)
    }

    /// Ends both directions, so that a blocked reader of the connection returns.
    pub fn close(&self) {
        // Gone already is fine.
        let _ = self.sock.shutdown(std::net::Shutdown::Both);
    }

    /// One request and its reply, with nothing else in flight.
    pub fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        self.send(Cmd::Read, 0, 0, pos, buf.len() as u32, &[])?;
        match self.reply()? {
            (0, 0) => self.data(buf),
            (0, e) => Err(wrong(&format!("read at {pos} failed with NBD error {e}"))),
            _ => Err(wrong("reply to nobody")),
        }
    }
}
