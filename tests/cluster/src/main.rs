//! `mars-cluster`: a cluster to play with, and the helpers of the scenarios.
use clap::{Parser, Subcommand};
use mars_cluster::{Builder, keeper, lines, rootfs};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "Clusters of containers with real systemd")]
struct Cli {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Start alpha and beta with one replicated resource and give a shell on alpha
    Shell,
    /// Start alpha and beta with MARS installed, and keep them until the standard input ends
    Hold,
    /// Build the root file system, if it is not there yet, and print where it is
    Rootfs,
    /// Write numbered lines for ever, each fsync'ed and then acknowledged in another file
    Lines { file: PathBuf, ack: PathBuf },
    #[command(hide = true)]
    Keeper {
        dir: PathBuf,
        layers: String,
        hosts: Vec<String>,
    },
    #[command(hide = true)]
    World {
        dir: PathBuf,
        layers: String,
        hosts: Vec<String>,
    },
}

fn shell() {
    let cluster = Builder::new("shell").disk("data", 512).start();
    cluster.form();
    cluster.resource("data", "data");
    let (alpha, beta) = (cluster.host(0), cluster.host(1));
    alpha.ok(&["mkfs.ext4", "-q", "/dev/mars/data"]);
    let pid = |h: &mars_cluster::Host| h.leader().unwrap_or_default();
    println!("\n{}", alpha.marsadm(&["view", "all"]));
    println!(
        "This is alpha; /dev/mars/data holds an empty ext4. A shell on beta, from another terminal as root:\n\
         \n  nsenter -t {} -a bash\n\
         \n(on alpha: nsenter -t {} -a bash). /cluster is the same directory on both. Leave with exit; nothing stays behind.\n",
        pid(beta),
        pid(alpha)
    );
    alpha.shell("");
    println!("cleaning up ...");
}

fn hold() {
    let cluster = Builder::new("hold").disk("data", 256).start();
    for h in &cluster.hosts {
        println!("{}: nsenter -t {} -a bash", h.name, h.leader().unwrap_or(0));
    }
    println!("up {}", cluster.dir().display());
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        What::Shell => {
            shell();
            Ok(())
        }
        What::Hold => {
            hold();
            Ok(())
        }
        What::Rootfs => {
            println!("{}", rootfs::get().display());
            Ok(())
        }
        What::Lines { file, ack } => lines::write_lines(&file, &ack).map_err(|e| e.to_string()),
        What::Keeper { dir, layers, hosts } => keeper::keeper_main(&dir, &layers, &hosts),
        What::World { dir, layers, hosts } => {
            keeper::world_main(&dir, &layers, &hosts);
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mars-cluster: {e}");
            ExitCode::FAILURE
        }
    }
}
