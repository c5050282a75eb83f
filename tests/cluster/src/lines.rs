//! A service that writes all the time, and what can be said about it afterwards.
//!
//! Each line is written and fsync'ed, and only then acknowledged in a file outside of the file system under test.
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// `mars-cluster lines FILE ACK`: goes on with the number behind the last one in the file, for ever.
pub fn write_lines(file: &Path, ack: &Path) -> io::Result<()> {
    let old = fs::read_to_string(file).unwrap_or_default();
    let mut number = numbers(&old).last().copied().unwrap_or(0);
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    let mut ack = OpenOptions::new().create(true).append(true).open(ack)?;
    let host = nix::unistd::gethostname()?;
    let host = host.to_string_lossy();
    loop {
        number += 1;
        file.write_all(format!("{number}\n").as_bytes())?;
        file.sync_all()?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        ack.write_all(format!("{number} {host} {now}\n").as_bytes())?;
    }
}

/// The numbers of all whole lines.
fn numbers(text: &str) -> Vec<u64> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().filter_map(|l| l.parse().ok()).collect()
}

/// An acknowledged line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ack {
    /// Its number.
    pub number: u64,
    /// Who wrote it.
    pub host: String,
    /// When, in milliseconds.
    pub at: u64,
}

/// Reads the file of acknowledgements.
pub fn acks(text: &str) -> Vec<Ack> {
    let parse = |l: &str| {
        let mut words = l.split(' ');
        Some(Ack {
            number: words.next()?.parse().ok()?,
            host: words.next()?.to_string(),
            at: words.next()?.parse().ok()?,
        })
    };
    text.lines().filter_map(parse).collect()
}

/// Time without an acknowledgement between two hosts, in milliseconds, for each change of the host.
pub fn downtimes(acks: &[Ack]) -> Vec<u64> {
    let pairs = acks.windows(2);
    pairs
        .filter(|w| w[0].host != w[1].host)
        .map(|w| w[1].at.saturating_sub(w[0].at))
        .collect()
}

/// Says what is wrong: a line that was acknowledged and is not there, or one out of order.
pub fn wrong(file: &str, acks: &[Ack]) -> Option<String> {
    let there = numbers(file);
    if let Some(w) = there.windows(2).find(|w| w[1] != w[0] + 1) {
        return Some(format!("line {} follows line {}", w[1], w[0]));
    }
    let last = there.last().copied().unwrap_or(0);
    let lost = acks.iter().find(|a| a.number > last);
    lost.map(|a| {
        format!(
            "acknowledged line {} is not in the file, which ends with {last}",
            a.number
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lost_and_doubled_are_seen() {
        let a = acks("1 alpha 100\n2 alpha 110\n3 beta 500\n");
        assert_eq!(downtimes(&a), [390]);
        assert_eq!(wrong("1\n2\n3\n", &a), None);
        assert_eq!(wrong("1\n2\n3\n4", &a), None);
        assert!(wrong("1\n2\n", &a).unwrap().contains("line 3 is not"));
        assert!(wrong("1\n2\n2\n3\n", &a).is_some());
    }
}
