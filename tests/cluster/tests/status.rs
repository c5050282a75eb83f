//! The metrics endpoint under a real systemd: hardened, socket-activated, off by default.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_cluster::Builder;

/// A request without a client program.
const ASK: &str =
    "exec 3<>/dev/tcp/127.0.0.1/9777; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";

#[test]
fn status_metrics_over_http() {
    let c = Builder::new("status").disk("data", 256).start();
    c.form();
    c.resource("data", "data");
    let (alpha, beta) = (c.host(0), c.host(1));
    beta.wait_view("diskstate", "data", "UpToDate");
    for h in &c.hosts {
        assert_eq!(h.active("mars-status.socket"), "inactive");
        assert_eq!(
            h.property("mars-status.socket", "UnitFileState"),
            "disabled"
        );
        h.ok(&["systemctl", "enable", "--now", "mars-status.socket"]);
    }
    for (h, role) in [(alpha, "Primary"), (beta, "Secondary")] {
        let text = h.ok(&["bash", "-c", ASK]);
        assert!(text.starts_with("HTTP/1.0 200 OK\r\n"), "{text}");
        let name = if role == "Primary" { "alpha" } else { "beta" };
        let own = format!("resource=\"data\",host=\"{name}\",self=\"1\"");
        for line in [
            "mars_up 1".to_string(),
            "mars_engine_running 1".to_string(),
            format!("mars_role{{{own},role=\"{role}\"}} 1"),
            // Disks and links are seen through all the hardening.
            format!("mars_dstate{{{own},state=\"UpToDate\"}} 1"),
            format!("mars_stale{{{own}}} 0"),
        ] {
            assert!(text.lines().any(|l| l == line), "{name}: {line}\n{text}");
        }
        // Many at once, one after the other: no limit of systemd stops the socket.
        let many = format!("for i in $(seq 50); do ({ASK}) >/dev/null || exit 1; done");
        h.ok(&["bash", "-c", &many]);
        assert_eq!(h.active("mars-status.socket"), "active");
        // Port 9777 of 127.0.0.1 and of no other address.
        let sockets = h.sh("cat /proc/net/tcp /proc/net/tcp6");
        let listening: Vec<&str> = sockets
            .lines()
            .filter(|l| l.contains(":2631 ") && l.contains(":0000 0A "))
            .collect();
        assert_eq!(listening.len(), 1, "{sockets}");
        assert!(listening[0].contains(" 0100007F:2631 "), "{sockets}");
        // A line in the journal for every question would be too much.
        let said = h.sh("journalctl -q -o cat -u 'mars-status@*' | head");
        assert_eq!(said.trim(), "");
    }
    assert_eq!(alpha.failed_units(), Vec::<String>::new());
    c.finish(&[]);
}
