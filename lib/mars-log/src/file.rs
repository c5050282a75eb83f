//! Log files: appending.
use crate::PreparedTail;
use crate::direct::{DirectEnd, open_direct};
use mars_tree::LogName;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// A log file that this host writes; never extended after a restart. File size = log length, unless a tail is prepared; at rest
/// always ([`LogFile::finish`]). Holds a lock on the file, so that nobody takes a prepared tail for one that was left.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    tail: Arc<PreparedTail>,
    /// Appends go past the page cache.
    direct: Option<DirectEnd>,
    name: LogName,
    len: u64,
    durable: u64,
    failed: bool,
}

impl LogFile {
    /// Opens an existing EMPTY file or creates it exclusively (mode 0600) and syncs the directory.
    pub fn create(dir: &Path, name: &LogName) -> io::Result<LogFile> {
        LogFile::create_with(dir, name, false)
    }

    /// As `create`; `direct`: appends go past the page cache, where the file system can.
    pub fn create_with(dir: &Path, name: &LogName, direct: bool) -> io::Result<LogFile> {
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
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    format!("{} is written by somebody else", path.display()),
                ));
            }
            Err(TryLockError::Error(e)) => return Err(e),
        }
        let ends = |direct: bool| -> io::Result<(File, Option<DirectEnd>)> {
            if direct {
                return Ok((open_direct(&path)?, Some(DirectEnd::open(&path)?)));
            }
            let mut options = OpenOptions::new();
            options
                .write(true)
                .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW);
            Ok((options.open(&path)?, None))
        };
        let (tail, direct) = match ends(direct) {
            Err(e) if direct && e.raw_os_error() == Some(libc::EINVAL) => ends(false)?,
            other => other?,
        };
        // The name must survive a crash before anybody relies on the content.
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(LogFile {
            file,
            tail: Arc::new(PreparedTail::new(tail)),
            direct,
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
        let end = self.len + bytes.len() as u64;
        self.tail.claim(end);
        let r = match self.direct.as_mut().map(|d| d.append(bytes, self.len)) {
            Some(Err(e)) if e.raw_os_error() == Some(libc::EINVAL) => {
                // Blocks of another size than is common.
                self.direct = None;
                self.file.write_all_at(bytes, self.len)
            }
            Some(r) => r,
            None => self.file.write_all_at(bytes, self.len),
        };
        match r {
            Ok(()) => {
                self.len = end;
                Ok(())
            }
            Err(e) => {
                self.failed = true;
                self.tail.close();
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

    /// For the thread that prepares the tail.
    pub fn tail(&self) -> Arc<PreparedTail> {
        Arc::clone(&self.tail)
    }

    /// Nothing more is appended: cuts off what was prepared, durably. Then file size = log length.
    pub fn finish(&mut self) -> io::Result<()> {
        self.tail.close();
        self.refuse_when_failed()?;
        if self.file.metadata()?.len() > self.len {
            self.file.set_len(self.len)?;
            self.file.sync_all()?;
        }
        Ok(())
    }

    /// A sync by another thread failed: the file takes no more data.
    pub fn set_failed(&mut self) {
        self.tail.close();
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

impl Drop for LogFile {
    /// Whoever prepares must not go on in a file that is cut or deleted next. The prepared part stays: a crash leaves it, too.
    fn drop(&mut self) {
        self.tail.close();
    }
}
