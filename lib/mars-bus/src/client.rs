//! The other end, for short-lived programs: one call, or waiting for signals.
use crate::names::BUS_NAME;
use futures_core::Stream;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use zbus::connection::Builder;
use zbus::{Connection, MatchRule, MessageStream, message};
use zbus::{DBusError as _, fdo};

/// Connecting takes no longer, or there is no bus.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Why a call failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CallError {
    /// No bus, or nobody there who has the name.
    Absent(String),
    /// The answer was an error.
    Refused(String),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CallError::Absent(text) | CallError::Refused(text) => f.write_str(text),
        }
    }
}

/// Calls a method that has no results.
///
/// # Errors
/// See [`CallError`].
pub fn call(
    name: &str,
    path: &str,
    interface: &str,
    method: &str,
    arg: Option<u32>,
    limit: Duration,
) -> Result<(), CallError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CallError::Absent(e.to_string()))?;
    runtime.block_on(async {
        let connection = connect(None, limit)
            .await
            .map_err(|e| CallError::Absent(format!("the system bus cannot be reached: {e}")))?;
        let (name, interface) = (Some(name), Some(interface));
        let reply = match arg {
            None => {
                connection
                    .call_method(name, path, interface, method, &())
                    .await
            }
            Some(n) => {
                connection
                    .call_method(name, path, interface, method, &n)
                    .await
            }
        };
        match reply {
            Ok(_) => Ok(()),
            Err(zbus::Error::FDO(e)) => Err(match *e {
                fdo::Error::ServiceUnknown(text) | fdo::Error::NameHasNoOwner(text) => {
                    CallError::Absent(text)
                }
                // Without the name of the error.
                e => CallError::Refused(e.description().unwrap_or("it failed").to_string()),
            }),
            Err(e) => Err(CallError::Refused(e.to_string())),
        }
    })
}

/// The bus at this address, or the system bus.
pub(crate) fn bus(address: Option<&str>) -> Builder<'static> {
    match address {
        Some(a) => Builder::address(a),
        None => Builder::system(),
    }
}

async fn connect(address: Option<&str>, method_limit: Duration) -> Result<Connection, String> {
    let building = bus(address).method_timeout(method_limit).build();
    match tokio::time::timeout(CONNECT_LIMIT, building).await {
        Ok(Ok(c)) => Ok(c),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err("it does not answer".into()),
    }
}

/// Wakes whoever polls [`SignalWatch::as_fd`] when `mars-meta` tells a change below a path. Without a bus it never wakes: a caller has
/// another event to wait for as well.
#[derive(Debug)]
pub struct SignalWatch {
    event: Arc<EventFd>,
    stop: Arc<Notify>,
}

impl SignalWatch {
    /// Begins to listen, in a thread of its own. A signal that was sent before the thread listens is missed; when listening begins, the
    /// watch wakes once.
    ///
    /// # Errors
    /// When there can be no descriptor or thread.
    pub fn new(path: &str) -> io::Result<SignalWatch> {
        SignalWatch::on(None, path)
    }

    /// The same on the bus at this address.
    ///
    /// # Errors
    /// As [`SignalWatch::new`].
    pub fn on(address: Option<&str>, path: &str) -> io::Result<SignalWatch> {
        let address = address.map(str::to_string);
        let event = Arc::new(EventFd::from_flags(
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?);
        let stop = Arc::new(Notify::new());
        let (wake, stopped, path) = (Arc::clone(&event), Arc::clone(&stop), path.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("signals-of-bus".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = stopped.notified() => {}
                        // An error only means that the other events have to do.
                        _ = listen(address.as_deref(), &path, &wake) => std::future::pending().await,
                    }
                });
            })?;
        Ok(SignalWatch { event, stop })
    }

    /// Forgets what was told; true when something was.
    pub fn clear(&self) -> bool {
        self.event.read().is_ok()
    }
}

impl AsFd for SignalWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

async fn listen(address: Option<&str>, path: &str, wake: &EventFd) -> Result<(), String> {
    let text = |e: zbus::Error| e.to_string();
    let connection = connect(address, CONNECT_LIMIT).await?;
    let rule = MatchRule::builder()
        .msg_type(message::Type::Signal)
        .sender(BUS_NAME)
        .path_namespace(path)
        .build()
        .map_err(text)?;
    let mut stream = MessageStream::for_match_rule(rule, &connection, None)
        .await
        .map_err(text)?;
    let _ = wake.write(1);
    while let Some(Ok(_)) = next(&mut stream).await {
        let _ = wake.write(1);
    }
    Ok(())
}

/// The next message; `None` when the connection ended.
pub(crate) async fn next(stream: &mut MessageStream) -> Option<zbus::Result<zbus::Message>> {
    poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await
}
