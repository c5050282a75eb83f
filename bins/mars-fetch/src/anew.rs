//! Fetching a damaged log again from its first byte (symlink-tree.md 5.3, transaction-log.md 2.6).
use crate::client::Client;
use crate::local::sync_dir;
use crate::peer::Ended;
use anyhow::{Context, bail};
use mars_log::{LogReader, ReadRecord, ScanLimits};
use mars_tree::{HostName, Key, LogName};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

impl Client<'_> {
    /// Into a hidden file, which takes the place of the local copy when it is sound beyond `pos`, where the local copy is not.
    pub fn fetch_anew(
        &mut self,
        host: &HostName,
        ip: &str,
        log: &LogName,
        pos: u64,
    ) -> anyhow::Result<()> {
        let path = self.tree.path(&Key::Log(self.res.clone(), log.clone()));
        let temp = path.with_file_name(format!(".anew-{log}"));
        let result = self.fetch_into(host, ip, log, &temp).and_then(|file| {
            check(&file, pos)?;
            std::fs::rename(&temp, &path).context("replacing the damaged copy")?;
            sync_dir(&path).context("replacing the damaged copy")
        });
        if result.is_err() {
            std::fs::remove_file(&temp).ok();
        }
        result
    }

    fn fetch_into(
        &mut self,
        host: &HostName,
        ip: &str,
        log: &LogName,
        temp: &Path,
    ) -> anyhow::Result<File> {
        // Left over from a killed predecessor.
        if let Err(e) = std::fs::remove_file(temp)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            return Err(e).context("removing an old temporary file");
        }
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(temp)
            .context("creating a temporary file")?;
        let res = self.res.clone();
        let peer = self.connect(host, ip)?;
        peer.want(&res, log, 0)?;
        match peer.receive_all(|b| (&file).write_all(b))? {
            Ended::Complete(_) => {}
            // A log that is still being written: what it had is enough. The connection is in the middle of a stream.
            Ended::Again => self.hang_up(),
            Ended::Gone(why) => bail!(why),
        }
        file.sync_data().context("making the new copy durable")?;
        Ok(file)
    }
}

/// Is the file a sound log up to behind `pos`?
fn check(file: &File, pos: u64) -> anyhow::Result<()> {
    let len = file.metadata()?.len();
    let mut reader = LogReader::new(file.try_clone()?, 0, len, ScanLimits::default());
    while let ReadRecord::Record(..) = reader.next_record()? {}
    let good = reader.position();
    if good > pos {
        return Ok(());
    }
    bail!(
        "the copy of the source is damaged too: sound up to {good} of {len} bytes, needed is more than {pos}"
    )
}
