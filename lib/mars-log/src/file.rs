//! Log files: appending.
use mars_tree::LogName;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// A log file that this host writes. File size = log length; never extended after a restart.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    name: LogName,
    len: u64,
    durable: u64,
    failed: bool,
}

impl LogFile {
    /// Opens an existing EMPTY file or creates it exclusively (mode 0600) and syncs the directory.
    pub fn create(dir: &Path, name: &LogName) -> io::Result<LogFile> {
        let path = dir.join(name.to_string());
        let open = |create: bool| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(create)
                .mode(0o600)
                .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
                .open(&path)
        };
        let file = match open(true) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => open(false)?,
            other => other?,
        };
        let meta = file.metadata()?;
        if !meta.is_file() || meta.len() != 0 {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!(
                    "{} exists and is not an empty file: a log is never extended",
                    path.display()
                ),
            ));
        }
        // The name must survive a crash before anybody relies on the content.
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(LogFile {
            file,
            name: name.clone(),
            len: 0,
            durable: 0,
            failed: false,
        })
    }

    /// Name.
    pub fn name(&self) -> &LogName {
        &self.name
    }

    /// Bytes handed to the kernel.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Nothing written yet?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes known to be durable.
    pub fn durable_len(&self) -> u64 {
        self.durable
    }

    /// Has an error closed this log for good?
    pub fn is_failed(&self) -> bool {
        self.failed
    }

    /// Appends at the end (all or error; after an error the file takes no more data).
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.refuse_when_failed()?;
        let r = self.file.write_all_at(bytes, self.len);
        match r {
            Ok(()) => {
                self.len += bytes.len() as u64;
                Ok(())
            }
            Err(e) => {
                self.failed = true;
                // Part of the bytes may be there. Nobody counts on them; without them the file ends at a record border.
                // When this fails too, the reader finds a torn tail.
                let _ = self.file.set_len(self.len);
                Err(e)
            }
        }
    }

    /// A handle with which another thread can fdatasync; it then reports to `set_durable`, or to `set_failed`. One thread
    /// at a time: the kernel reports a write-back error only once per open file.
    pub fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Everything up to `len` is durable now. Never moves back, never beyond what was appended; nothing becomes durable
    /// after a failure, because the kernel forgets a write-back error once it has told it.
    pub fn set_durable(&mut self, len: u64) {
        if !self.failed {
            self.durable = self.durable.max(len.min(self.len));
        }
    }

    /// A sync by another thread failed: the file takes no more data.
    pub fn set_failed(&mut self) {
        self.failed = true;
    }

    /// fdatasync and `set_durable(len at the time of the call)`.
    pub fn sync(&mut self) -> io::Result<()> {
        self.refuse_when_failed()?;
        match self.file.sync_data() {
            Ok(()) => {
                self.durable = self.len;
                Ok(())
            }
            Err(e) => {
                self.failed = true;
                Err(e)
            }
        }
    }

    fn refuse_when_failed(&self) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other(format!(
                "{} takes no more data after an earlier I/O error",
                self.name
            )));
        }
        Ok(())
    }
}
