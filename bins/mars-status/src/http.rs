//! One request of HTTP/1.0 or 1.1 on a connection that systemd has accepted (`mars-status.socket`): `GET /metrics`. The request is bounded
//! in size, the connection in time; every answer closes it.
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Longest request with all its header lines.
const REQUEST_MAX: usize = 8 << 10;
/// Nobody needs longer to ask, or to take an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// `GET /metrics`; without a body for `HEAD`.
    Metrics {
        /// Is the body wanted?
        body: bool,
    },
    /// `GET /`: where the metrics are.
    Index,
    /// Refused, with the status line.
    Refused(&'static str),
}

/// Reads what was asked. Only the request line counts; the other lines are read to their end, so that the answer is not lost.
///
/// # Errors
/// Nobody can be answered: closed, timed out.
pub fn read_request(input: &mut impl Read, end: Instant) -> io::Result<Request> {
    let mut head = Vec::with_capacity(512);
    let mut buf = [0u8; 1024];
    loop {
        if Instant::now() >= end {
            return Ok(Request::Refused("408 Request Timeout"));
        }
        let n = match input.read(&mut buf) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                return Ok(Request::Refused("408 Request Timeout"));
            }
            Err(e) => return Err(e),
        };
        if n == 0 {
            return if head.is_empty() {
                Err(io::ErrorKind::UnexpectedEof.into())
            } else {
                Ok(Request::Refused("400 Bad Request"))
            };
        }
        head.extend_from_slice(buf.get(..n).unwrap_or_default());
        let is_whole = |end: &[u8]| head.windows(end.len()).any(|w| w == end);
        if is_whole(b"\r\n\r\n") || is_whole(b"\n\n") {
            return Ok(parse(&head));
        }
        if head.len() > REQUEST_MAX {
            return Ok(Request::Refused("431 Request Header Fields Too Large"));
        }
    }
}

/// The request line of `head`.
fn parse(head: &[u8]) -> Request {
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else {
        return Request::Refused("400 Bad Request");
    };
    let words: Vec<&str> = line.trim_end_matches('\r').split(' ').collect();
    let [method, target, version] = words[..] else {
        return Request::Refused("400 Bad Request");
    };
    if !matches!(version, "HTTP/1.0" | "HTTP/1.1") {
        return Request::Refused("505 HTTP Version Not Supported");
    }
    if !matches!(method, "GET" | "HEAD") {
        return Request::Refused("405 Method Not Allowed");
    }
    match target.split('?').next() {
        Some("/metrics") => Request::Metrics {
            body: method == "GET",
        },
        Some("/") => Request::Index,
        _ => Request::Refused("404 Not Found"),
    }
}

/// A whole answer. `length`: of the body that a GET would get.
fn answer(status: &str, kind: &str, body: &str, length: usize) -> String {
    let allow = if status.starts_with("405") {
        "Allow: GET, HEAD\r\n"
    } else {
        ""
    };
    format!(
        "HTTP/1.0 {status}\r\n{allow}Content-Type: {kind}\r\nContent-Length: {length}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{body}"
    )
}

/// The answer; `metrics` is called only when they are wanted.
pub fn respond(request: Request, metrics: impl FnOnce() -> String) -> String {
    const PLAIN: &str = "text/plain; charset=utf-8";
    match request {
        Request::Metrics { body } => {
            let text = metrics();
            let shown = if body { text.as_str() } else { "" };
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            answer("200 OK", kind, shown, text.len())
        }
        Request::Index => {
            let text = "mars-status: the metrics are at /metrics\n";
            answer("200 OK", PLAIN, text, text.len())
        }
        Request::Refused(status) => {
            let text = format!("{status}\n");
            answer(status, PLAIN, &text, text.len())
        }
    }
}

/// Answers the connection on standard input.
///
/// # Errors
/// It went away.
pub fn serve(metrics: impl FnOnce() -> String) -> io::Result<()> {
    let stdin = io::stdin();
    let seconds = i64::try_from(PATIENCE.as_secs()).unwrap_or(5);
    for set in [
        setsockopt(&stdin, sockopt::ReceiveTimeout, &TimeVal::new(seconds, 0)),
        setsockopt(&stdin, sockopt::SendTimeout, &TimeVal::new(seconds, 0)),
    ] {
        set.map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "--http needs a connection as standard input; it is for mars-status.socket",
            )
        })?;
    }
    // The buffered handle of standard input would read more than is needed, which does no harm: there is one request only.
    let fd = stdin.as_fd().try_clone_to_owned()?;
    let mut connection = std::fs::File::from(fd);
    let request = read_request(&mut connection, Instant::now() + PATIENCE)?;
    let text = respond(request, metrics);
    connection.write_all(text.as_bytes())?;
    connection.flush()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn ask(text: &[u8]) -> io::Result<Request> {
        read_request(&mut io::Cursor::new(text), Instant::now() + PATIENCE)
    }
    fn asked(text: &str) -> Request {
        ask(text.as_bytes()).unwrap()
    }

    #[test]
    fn requests() {
        let get = Request::Metrics { body: true };
        assert_eq!(asked("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), get);
        assert_eq!(asked("GET /metrics?x=1 HTTP/1.0\n\n"), get);
        assert_eq!(
            asked("HEAD /metrics HTTP/1.1\r\n\r\n"),
            Request::Metrics { body: false }
        );
        assert_eq!(asked("GET / HTTP/1.1\r\n\r\n"), Request::Index);
        for (text, status) in [
            ("GET /metrics/../etc HTTP/1.1\r\n\r\n", "404"),
            ("GET //metrics HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET /metrics HTTP/2.0\r\n\r\n", "505"),
            ("GET /metrics\r\n\r\n", "400"),
            ("nonsense\r\n\r\n", "400"),
            ("GET /met", "400"),
        ] {
            let Request::Refused(said) = asked(text) else {
                panic!("{text}")
            };
            assert!(said.starts_with(status), "{text:?}: {said}");
        }
        assert!(ask(b"").is_err());
        assert!(
            matches!(ask(b"\xff\xff\r\n\r\n"), Ok(Request::Refused(s)) if s.starts_with("400"))
        );
    }

    #[test]
    fn endless_requests_are_cut() {
        let endless = [b"GET /metrics HTTP/1.1\r\n".to_vec(), vec![b'x'; 1 << 20]].concat();
        let mut input = io::Cursor::new(endless);
        let said = read_request(&mut input, Instant::now() + PATIENCE).unwrap();
        assert!(matches!(said, Request::Refused(s) if s.starts_with("431")));
        assert!(input.position() <= (REQUEST_MAX + 2048) as u64);
        let late = read_request(&mut io::repeat(b'x'), Instant::now()).unwrap();
        assert!(matches!(late, Request::Refused(s) if s.starts_with("408")));
    }

    #[test]
    fn answers() {
        let get = respond(Request::Metrics { body: true }, || "abc\n".into());
        assert!(get.starts_with("HTTP/1.0 200 OK\r\n") && get.ends_with("\r\n\r\nabc\n"));
        assert!(get.contains("Content-Length: 4\r\n") && get.contains("version=0.0.4"));
        let head = respond(Request::Metrics { body: false }, || "abc\n".into());
        assert!(head.contains("Content-Length: 4\r\n") && head.ends_with("\r\n\r\n"));
        let no = respond(Request::Refused("405 Method Not Allowed"), || {
            panic!("not wanted")
        });
        assert!(no.contains("Allow: GET, HEAD\r\n"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_or_dropped(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            if let Ok(request) = ask(&bytes) {
                let text = respond(request, String::new);
                prop_assert!(text.starts_with("HTTP/1.0 "));
            }
        }
    }
}
