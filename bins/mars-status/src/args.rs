//! The command line (mars-status.md 1).
use clap::Parser;
use mars_tree::ResName;
use std::path::PathBuf;

/// Shows how MARS is on this host
///
/// Without options: a summary of all resources, with hints what is going on and what to do. Changes nothing.
#[derive(Parser, Clone, Debug, Default)]
#[command(
    name = "mars-status",
    version,
    disable_version_flag = true,
    after_help = "Exit status: 0 success; with --monitor 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN; wrong options and what cannot be determined: 3."
)]
pub struct Args {
    /// Only this resource
    #[arg(long, visible_alias = "ressource", value_name = "RESOURCE")]
    pub resource: Option<ResName>,
    /// Show it again every so many seconds, until interrupted
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub interval: Option<u64>,
    /// Log versions, and how far each host is with them
    #[arg(long)]
    pub history: bool,
    /// Operating parameters
    #[arg(long)]
    pub system: bool,
    /// Warnings and errors of the daemons
    #[arg(long)]
    pub debug: bool,
    /// Bars for sync, fetch and replay
    #[arg(long)]
    pub status: bool,
    /// Only ASCII characters in bars
    #[arg(long)]
    pub ascii: bool,
    /// Check for Nagios: one line with performance data, three lines per resource, exit status
    #[arg(long)]
    pub monitor: bool,
    /// One word for scripts made for DRBD: Connect or Disconnect; needs --resource
    #[arg(long)]
    pub cstate: bool,
    /// One word about the data: Failed, SwitchOff, InvaliDate, OutDate, UpDateIng, UpToDate; needs --resource
    #[arg(long)]
    pub dstate: bool,
    /// Primary or Secondary; needs --resource
    #[arg(long)]
    pub role: bool,
    /// Everything as JSON
    #[arg(long, conflicts_with_all = ["prometheus", "monitor", "cstate", "dstate", "role"])]
    pub json: bool,
    /// Metrics in the text format of Prometheus
    #[arg(long, conflicts_with_all = ["monitor", "cstate", "dstate", "role", "interval"])]
    pub prometheus: bool,
    /// With --prometheus: into this file, which is replaced in one step (textfile collector of the node exporter)
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    pub output: Option<PathBuf>,
    /// Answers one HTTP request on standard input with the metrics (for mars-status.socket)
    #[arg(long, exclusive = true)]
    pub http: bool,
    // No text of its own: it would become that of the program.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub limits: Limits,
    /// Prints the version
    #[arg(short = 'v', short_alias = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
}

/// Thresholds of --monitor.
#[derive(clap::Args, Clone, Copy, PartialEq, Debug)]
#[command(next_help_heading = "Thresholds of --monitor")]
pub struct Limits {
    /// A write that is not applied for longer makes OutDate and WARNING
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub lag: u64,
    /// ... and CRITICAL [default: never]
    #[arg(long, value_name = "SECONDS")]
    pub lag_critical: Option<u64>,
    /// WARNING when more log bytes wait to be applied [default: never]
    #[arg(long, value_name = "BYTES")]
    pub rest: Option<u64>,
    /// ... and CRITICAL [default: never]
    #[arg(long, value_name = "BYTES")]
    pub rest_critical: Option<u64>,
    /// WARNING when less of the space of /mars is free
    #[arg(long, value_name = "PERCENT", default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub space: u64,
    /// ... and CRITICAL
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub space_critical: u64,
    /// WARNING when another host is silent for longer
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub age: u64,
    /// CRITICAL when the primary of a resource is silent for longer
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub age_critical: u64,
    /// WARNING when more deletions are pending
    #[arg(long, value_name = "NUMBER", default_value_t = 150)]
    pub deletes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            lag: 60,
            lag_critical: None,
            rest: None,
            rest_critical: None,
            space: 20,
            space_critical: 10,
            age: 60,
            age_critical: 300,
            deletes: 150,
        }
    }
}

impl Args {
    /// Is one of the words asked for that need a resource?
    pub fn wants_word(&self) -> bool {
        self.cstate || self.dstate || self.role
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from([&["mars-status"], args].concat())
    }

    #[test]
    fn definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn both_spellings_of_resource() {
        for args in [
            &["--resource", "lv0"][..],
            &["--resource=lv0"],
            &["--ressource", "lv0"],
            &["--ressource=lv0"],
        ] {
            assert_eq!(parse(args).unwrap().resource.unwrap().as_str(), "lv0");
        }
    }

    #[test]
    fn defaults_are_those_of_the_type() {
        assert_eq!(parse(&[]).unwrap().limits, Limits::default());
    }

    #[test]
    fn misuse_is_refused() {
        let long = "x".repeat(5000);
        for args in [
            &["--resource", "a b"][..],
            &["--resource", ".."],
            &["--resource", "a/b"],
            &["--resource", "a\nb"],
            &["--resource", &long],
            &["--resource", ""],
            &["--interval", "0"],
            &["--interval", "-1"],
            &["--interval", "soon"],
            &["--lag", "-1"],
            &["--space", "101"],
            &["--output", "/tmp/x"],
            &["--json", "--prometheus"],
            &["--http", "--json"],
            &["lv0"],
            &["--nonsense"],
        ] {
            assert!(parse(args).is_err(), "{args:?}");
        }
    }
}
