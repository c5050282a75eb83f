//! `mars-status` as a library: what the program runs, and what its manual page is made from. [`gather`](mod@gather) asks the outside
//! once; everything else makes text from it.
pub mod args;
pub mod bars;
pub mod check;
pub mod gather;
pub mod history;
pub mod http;
pub mod json;
pub mod prom;
pub mod summary;
pub mod system;
pub mod text;
pub mod words;

use args::Args;
use check::{Level, check, checked, three_lines};
use clap::Parser;
use gather::{Facts, Unknown, gather};
use mars_tree::HostEnv;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;
use text::{Text, print};

/// Wrong options, and what cannot be determined.
const UNKNOWN: u8 = Level::Unknown as u8;

/// Runs a command line (with the program's name); the exit status.
pub fn run(line: impl IntoIterator<Item = OsString>) -> u8 {
    let args = match Args::try_parse_from(line) {
        Ok(args) => args,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { UNKNOWN } else { 0 };
        }
    };
    if args.wants_word() && args.resource.is_none() {
        return failed(
            &args,
            "--cstate, --dstate and --role need a resource; add --resource NAME",
        );
    }
    let env = match HostEnv::from_process() {
        Ok(env) => env,
        Err(e) => return failed(&args, &e.to_string()),
    };
    if args.http {
        return serve(&env);
    }
    let Some(seconds) = args.interval else {
        return once(&args, &env);
    };
    loop {
        if text::wants_colour() {
            // Home, and clear what follows.
            print("\x1b[H\x1b[2J");
        }
        once(&args, &env);
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

/// Says why there is nothing to say.
fn failed(args: &Args, why: &str) -> u8 {
    let why: String = why
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if args.monitor {
        print(&format!("MARS UNKNOWN: {}\n", why.replace('|', "/")));
    } else {
        let _ = writeln!(io::stderr(), "mars-status: {why}");
    }
    UNKNOWN
}

fn once(args: &Args, env: &HostEnv) -> u8 {
    let facts = match gather(env, args.resource.as_ref()) {
        Ok(facts) => facts,
        Err(e) => {
            if args.prometheus {
                // A file that stays as it is would tell of better days.
                let wrote = write_metrics(args, &prom::down());
                return failed(args, e.text()).max(wrote);
            }
            let code = failed(args, e.text());
            let plain = !args.monitor && !args.wants_word() && !args.json;
            return match e {
                Unknown::Version(_) if plain => 1,
                _ => code,
            };
        }
    };
    if args.prometheus {
        return write_metrics(args, &prom::metrics(&facts, args.limits.lag));
    }
    if args.json {
        let document = json::json(&facts, &args.limits, args.resource.is_some());
        let text = serde_json::to_string_pretty(&document).unwrap_or_default();
        print(&format!("{text}\n"));
        return 0;
    }
    let (text, code) = render(args, &facts, text::wants_colour());
    print(&text);
    code
}

/// What is shown, and the exit status. Options combine; those that want words or a check leave the summary out.
pub fn render(args: &Args, f: &Facts, colour: bool) -> (String, u8) {
    let mut t = Text::new(colour);
    let lag = args.limits.lag;
    let named = args.resource.is_some();
    if args.monitor || args.wants_word() {
        let mut code = 0;
        if args.monitor {
            let c = check(f, &args.limits, named);
            code = c.level.code();
            t.line(c.first_line());
            for r in checked(f, named) {
                three_lines(&mut t, f, r, lag);
            }
        }
        for r in f.report.resources.iter().filter(|_| args.wants_word()) {
            let Some(m) = r.members.iter().find(|m| m.is_me) else {
                t.line(format!(
                    "not joined [resource-{} on {}]",
                    r.name, f.report.host
                ));
                continue;
            };
            let words = [
                (args.role, words::role(m)),
                (args.dstate, words::dstate(&f.report, r, m, lag).word()),
                (args.cstate, words::cstate(m)),
            ];
            for (_, word) in words.iter().filter(|(wanted, _)| *wanted) {
                t.line(format!("{word} [resource-{} on {}]", r.name, f.report.host));
            }
        }
        return (t.finish(), code);
    }
    summary::header(&mut t, f, args.resource.as_ref());
    summary::cluster(&mut t, f);
    if args.system {
        system::system(&mut t, f);
    }
    if args.debug {
        system::debug(&mut t, f);
    }
    if f.report.resources.is_empty() {
        t.hint(text::Class::Hint, "no resources found");
    }
    for r in &f.report.resources {
        summary::resource(&mut t, f, r, lag);
        if args.history {
            history::history(&mut t, r);
        }
        if args.status {
            bars::bars(&mut t, r, args.ascii);
        }
    }
    (t.finish(), 0)
}

fn write_metrics(args: &Args, text: &str) -> u8 {
    let Some(file) = &args.output else {
        print(text);
        return 0;
    };
    match replace(file, text) {
        Ok(()) => 0,
        Err(e) => failed(args, &format!("{}: {e}", file.display())),
    }
}

/// Replaces a file in one step: who reads it sees the old text or the new one. It can be read by everybody.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_string());
    let name = file
        .file_name()
        .ok_or_else(|| bad("a file name is needed"))?
        .to_string_lossy();
    // Without the ending .prom, which the collector looks for.
    let tmp = file.with_file_name(format!(".{name}.{}", std::process::id()));
    let write = || {
        let mut out = File::options()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&tmp)?;
        out.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        out.write_all(text.as_bytes())?;
        std::fs::rename(&tmp, file)
    };
    let done = write();
    if done.is_err() {
        let _ = std::fs::remove_file(&tmp);
    }
    done
}

fn serve(env: &HostEnv) -> u8 {
    let metrics = || match gather(env, None) {
        Ok(facts) => prom::metrics(&facts, args::Limits::default().lag),
        Err(e) => {
            let _ = writeln!(io::stderr(), "mars-status: {}", e.text());
            prom::down()
        }
    };
    match http::serve(metrics) {
        Ok(()) => 0,
        // Who asked has gone: nothing for an administrator.
        Err(e) if e.kind() != io::ErrorKind::InvalidInput => 0,
        Err(e) => {
            let _ = writeln!(io::stderr(), "mars-status: {e}");
            UNKNOWN
        }
    }
}
