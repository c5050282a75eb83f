//! Amounts of bytes for people, in status texts.

const UNITS: [(&str, u64); 4] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// The largest unit of which there are at least ten.
fn unit(bytes: u64) -> (&'static str, u64) {
    let fits = |(_, size): &&(&str, u64)| bytes / *size >= 10;
    UNITS.iter().rfind(fits).copied().unwrap_or(UNITS[0])
}

/// `1020 MiB`.
pub fn bytes(n: u64) -> String {
    let (name, size) = unit(n);
    format!("{} {name}", n / size)
}

/// `812/1020 MiB`, and the speed when there is one: `812/1020 MiB, 96 MiB/s`.
pub fn progress(done: u64, total: u64, kib_per_second: u64) -> String {
    let (name, size) = unit(total);
    let speed = rate(kib_per_second);
    format!("{}/{} {name}{speed}", done.min(total) / size, total / size)
}

/// `, 96 MiB/s`; nothing when there is no speed.
pub fn rate(kib_per_second: u64) -> String {
    match kib_per_second {
        0 => String::new(),
        n => format!(", {}/s", bytes(n.saturating_mul(1024))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short_and_exact_enough() {
        const MIB: u64 = 1 << 20;
        for (n, text) in [
            (0, "0 B"),
            (10_239, "10239 B"),
            (10_240, "10 KiB"),
            (1020 * MIB, "1020 MiB"),
            (20_000 * MIB, "19 GiB"),
            (u64::MAX, "17179869183 GiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(
            progress(812 * MIB, 1020 * MIB, 96 * 1024),
            "812/1020 MiB, 96 MiB/s"
        );
        assert_eq!(progress(0, 0, 0), "0/0 B");
        assert_eq!(progress(9, 5, 0), "5/5 B", "a total that is behind");
        assert_eq!(rate(5), ", 5120 B/s");
    }
}
