//! What packages contain that is computed.
//!
//! `mars-gen man DIR DATE` writes the manual pages of the programs, section 8, to DIR. What a program accepts comes from its own definition; what
//! has to be told beside it stands in `man/PROGRAM.8.in`. mars-states(7) and the tables of docs/manual/reference.md (`mars-gen reference FILE`) come
//! from the help texts of `marsadm`. `mars-gen third-party SOURCES` prints what is linked into the programs.
mod help;
mod third_party;

use anyhow::{Context, bail};
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::path::{Path, PathBuf};

/// A program: its definition, and what is appended to its page (roff).
struct Program {
    definition: Command,
    more: &'static str,
}

fn programs() -> Vec<Program> {
    let daemon = |definition: Command, more| Program { definition, more };
    vec![
        Program {
            definition: marsadm::definition().long_about(
                "Changes the symlink tree of this host, brings the running daemons in line with it, and shows how things are. What concerns other hosts \
                 is spread to them by mars-meta(8).",
            ),
            more: include_str!("../../../man/marsadm.8.in"),
        },
        daemon(
            mars_logger::args::Args::command(),
            include_str!("../../../man/mars-logger.8.in"),
        ),
        daemon(
            mars_fetch::args::Args::command(),
            include_str!("../../../man/mars-fetch.8.in"),
        ),
        daemon(
            mars_replay::args::Args::command(),
            include_str!("../../../man/mars-replay.8.in"),
        ),
        daemon(
            mars_sync::args::Args::command(),
            include_str!("../../../man/mars-sync.8.in"),
        ),
        daemon(
            mars_meta::args::Args::command(),
            include_str!("../../../man/mars-meta.8.in"),
        ),
        daemon(
            mars_status::args::Args::command(),
            include_str!("../../../man/mars-status.8.in"),
        ),
    ]
}

/// One page.
fn page(program: Program, date: &str) -> anyhow::Result<Vec<u8>> {
    let name = program.definition.get_name().to_string();
    let front = name == "marsadm";
    let man = Man::new(program.definition)
        .title(name.to_uppercase())
        .section("8")
        .date(date)
        .source(concat!("MARS ", env!("CARGO_PKG_VERSION")))
        .manual("MARS");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    if front {
        let mut synopsis = Roff::new();
        synopsis.control("SH", ["SYNOPSIS"]);
        synopsis.text([
            bold("marsadm"),
            roman(" [OPTIONS] COMMAND [RESOURCES] [ARGUMENTS]"),
        ]);
        synopsis.to_writer(&mut out)?;
    } else {
        man.render_synopsis_section(&mut out)?;
    }
    man.render_description_section(&mut out)?;
    if front {
        help::commands().to_writer(&mut out)?;
    }
    man.render_options_section(&mut out)?;
    out.extend_from_slice(program.more.as_bytes());
    Ok(out)
}

fn manual(dir: &str, date: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| dir.to_string())?;
    for program in programs() {
        let file: PathBuf = Path::new(dir).join(format!("{}.8", program.definition.get_name()));
        std::fs::write(&file, page(program, date)?).with_context(|| file.display().to_string())?;
    }
    let file = Path::new(dir).join("mars-states.7");
    let mut states = Vec::new();
    help::states(date).to_writer(&mut states)?;
    std::fs::write(&file, states).with_context(|| file.display().to_string())
}

/// Writes the computed part of the manual's reference anew.
fn reference(file: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| file.to_string())?;
    let text = help::refreshed(&text).with_context(|| format!("{file} lacks its marks"))?;
    std::fs::write(file, text).with_context(|| file.to_string())
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["man", dir, date] => manual(dir, date),
        ["reference", file] => reference(file),
        ["third-party", sources] => {
            print!("{}", third_party::third_party(Path::new(sources))?);
            Ok(())
        }
        _ => bail!(
            "usage: mars-gen man DIR YYYY-MM-DD | mars-gen reference FILE | mars-gen third-party SOURCES"
        ),
    }
}
