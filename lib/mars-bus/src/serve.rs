//! The rim: a thread with a connection to the bus. Nothing here can hold up or end the daemon; without a bus it tries again later.
use crate::answer::{Answer, Args, Call, OBJECT_MANAGER, PROPERTIES, Reply, answer};
use crate::client::{bus, next};
use crate::model::{Change, Object, Props, State, diff};
use crate::names::ROOT_PATH;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore};
use zbus::fdo::RequestNameFlags;
use zbus::message::{Flags, Type as MessageType};
use zbus::{Connection, Message, MessageStream, ObjectPath, Variant};

/// First pause after a connection failed; doubles.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A bus that does not answer the greeting is none.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The bus itself answers at once.
const BUS_LIMIT: Duration = Duration::from_secs(25);
/// Who asks gets values that are at most this old.
const FRESH: Duration = Duration::from_millis(100);
/// Methods of ours under way, those that are refused in the end included.
const CALLS_MAX: usize = 32;
/// Threads for them.
const THREADS_MAX: usize = 8;

/// Why a method failed: error name without `org.freedesktop.DBus.Error.`, and text.
#[derive(Clone, Debug)]
pub struct Failure(pub &'static str, pub String);

/// Whose objects these are. Called from the thread of the bus, and for methods from others.
pub trait Source: Send + Sync + 'static {
    /// The objects now. Shall be quick; may read files.
    fn state(&self) -> State;
    /// Carries out a method. May take its time.
    ///
    /// # Errors
    /// Travels to the caller.
    fn call(&self, path: &str, method: &str, arg: Option<u32>) -> Result<(), Failure>;
}

/// Says that the state may have changed. Cheap: between two looks at the state only the first ring costs more than an atomic operation.
#[derive(Clone, Default, Debug)]
pub struct Bell(Arc<(AtomicBool, Notify)>);

impl Bell {
    /// Not connected to anything yet.
    pub fn new() -> Bell {
        Bell::default()
    }
    /// Something may have changed.
    pub fn ring(&self) {
        if !self.0.0.swap(true, Ordering::AcqRel) {
            self.0.1.notify_one();
        }
    }
    fn silence(&self) {
        self.0.0.store(false, Ordering::Release);
    }
    async fn rung(&self) {
        self.0.1.notified().await;
    }
}

/// What is put on the bus.
pub struct Setup {
    /// Bus name.
    pub name: String,
    /// A name that many processes share: all but one wait in its queue, but the rules of the bus's policy for it hold for all of them. Rules for
    /// a whole name space are not known to every bus.
    pub shared: Option<&'static str>,
    /// Address of the bus; `None`: the system bus.
    pub address: Option<String>,
    /// The objects.
    pub source: Arc<dyn Source>,
    /// Rings when something changed.
    pub bell: Bell,
    /// Changes are told at most once in this time.
    pub gap: Duration,
}

/// Leaves the bus when dropped; does not wait for it.
#[derive(Debug)]
pub struct Bus {
    stop: Arc<Notify>,
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

/// Starts the thread.
///
/// # Errors
/// When there can be no thread.
pub fn start(setup: Setup) -> io::Result<Bus> {
    let stop = Arc::new(Notify::new());
    let stopped = Arc::clone(&stop);
    // Here, so that the caller hears of it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(THREADS_MAX)
        .thread_stack_size(512 << 10)
        .build()?;
    std::thread::Builder::new()
        .name("bus".into())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = stopped.notified() => {}
                    () = run(&setup) => {}
                }
            });
            // A method under way must not keep the daemon from ending.
            runtime.shutdown_background();
        })?;
    Ok(Bus { stop })
}

async fn run(setup: &Setup) {
    let mut pause = PAUSE_MIN;
    let mut told = String::new();
    loop {
        let why = match connect(setup).await {
            Ok((connection, stream)) => {
                pause = PAUSE_MIN;
                if !std::mem::take(&mut told).is_empty() {
                    tracing::info!("on the system bus as {}", setup.name);
                }
                match Server::new(setup, connection).run(stream).await {
                    Ok(()) => "the connection ended".to_string(),
                    Err(e) => e.to_string(),
                }
            }
            Err(Refusal::Taken) => {
                let why = format!("the bus name {} belongs to somebody else", setup.name);
                if told != why {
                    tracing::warn!("{why}; going on without D-Bus, tried again");
                    told.clone_from(&why);
                }
                why
            }
            Err(Refusal::Bus(e)) => e.to_string(),
        };
        if told.is_empty() {
            tracing::info!("no system bus ({why}); going on without it, tried again");
            told = why;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

enum Refusal {
    Taken,
    Bus(zbus::Error),
}

impl From<zbus::Error> for Refusal {
    fn from(e: zbus::Error) -> Refusal {
        match e {
            zbus::Error::NameTaken => Refusal::Taken,
            e => Refusal::Bus(e),
        }
    }
}

async fn connect(setup: &Setup) -> Result<(Connection, MessageStream), Refusal> {
    let connecting = async {
        let connection = bus(setup.address.as_deref())
            .method_timeout(BUS_LIMIT)
            .build()
            .await?;
        // Listening begins before anybody can find the name.
        let stream = MessageStream::from(&connection);
        if let Some(shared) = setup.shared {
            connection
                .request_name_with_flags(shared, RequestNameFlags::empty())
                .await?;
        }
        // Never taken away from another process, and never given away.
        connection
            .request_name_with_flags(setup.name.as_str(), RequestNameFlags::DO_NOT_QUEUE)
            .await?;
        Ok((connection, stream))
    };
    match tokio::time::timeout(CONNECT_LIMIT, connecting).await {
        Ok(result) => result,
        Err(_) => Err(Refusal::Bus(zbus::Error::Failure(
            "it does not answer".into(),
        ))),
    }
}

/// One connection.
struct Server<'a> {
    setup: &'a Setup,
    connection: Connection,
    /// What listeners know.
    told: State,
    told_at: Instant,
    now: State,
    looked_at: Instant,
    /// When to tell changes.
    due: Option<Instant>,
    calls: Arc<Semaphore>,
}

impl<'a> Server<'a> {
    fn new(setup: &'a Setup, connection: Connection) -> Server<'a> {
        setup.bell.silence();
        let state = setup.source.state();
        let now = Instant::now();
        Server {
            setup,
            connection,
            told: state.clone(),
            told_at: now,
            now: state,
            looked_at: now,
            due: None,
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
        }
    }

    async fn run(mut self, mut stream: MessageStream) -> zbus::Result<()> {
        loop {
            let due = self.due;
            let timer = async {
                match due {
                    Some(t) => tokio::time::sleep_until(t.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = next(&mut stream) => match message {
                    None => return Ok(()),
                    Some(Err(e)) => return Err(e),
                    Some(Ok(m)) => if m.message_type() == MessageType::MethodCall {
                        self.called(&m).await?;
                    },
                },
                () = self.setup.bell.rung() => self.soon(),
                () = timer => {
                    self.due = None;
                    self.look();
                    self.tell().await?;
                }
            }
        }
    }

    fn soon(&mut self) {
        let at = (self.told_at + self.setup.gap).max(Instant::now());
        self.due = Some(self.due.map_or(at, |d| d.min(at)));
    }

    fn look(&mut self) {
        // Silenced first: what changes during the look rings again.
        self.setup.bell.silence();
        self.now = self.setup.source.state();
        self.looked_at = Instant::now();
    }

    async fn tell(&mut self) -> zbus::Result<()> {
        self.told_at = Instant::now();
        let changes = diff(&self.told, &self.now);
        self.told.clone_from(&self.now);
        for change in &changes {
            self.signal(change).await?;
        }
        Ok(())
    }

    async fn signal(&self, change: &Change) -> zbus::Result<()> {
        let to = None::<&str>;
        let c = &self.connection;
        match change {
            Change::Changed(path, interface, changed) => {
                let body = (*interface, variants(changed), Vec::<&str>::new());
                c.emit_signal(to, path.as_str(), PROPERTIES, "PropertiesChanged", &body)
                    .await
            }
            // Only a manager announces objects.
            _ if !self.now.contains_key(ROOT_PATH) => Ok(()),
            Change::Added(path, object) => {
                let body = (ObjectPath::try_from(path.as_str())?, interfaces(object));
                c.emit_signal(to, ROOT_PATH, OBJECT_MANAGER, "InterfacesAdded", &body)
                    .await
            }
            Change::Removed(path, interface) => {
                let body = (ObjectPath::try_from(path.as_str())?, vec![*interface]);
                c.emit_signal(to, ROOT_PATH, OBJECT_MANAGER, "InterfacesRemoved", &body)
                    .await
            }
        }
    }

    /// Answers a call. Bounded work; methods of ours go to a task.
    async fn called(&mut self, message: &Message) -> zbus::Result<()> {
        let header = message.header();
        let (Some(path), Some(member)) = (header.path(), header.member()) else {
            return Ok(());
        };
        if self.looked_at.elapsed() >= FRESH {
            self.look();
            if self.now != self.told {
                self.soon();
            }
        }
        let call = Call {
            path: path.as_str(),
            interface: header.interface().map(|i| i.as_str()),
            member: member.as_str(),
            args: arguments(message),
        };
        let c = &self.connection;
        let quiet = message
            .primary_header()
            .flags()
            .contains(Flags::NO_REPLY_EXPECTED);
        match answer(&self.now, &call) {
            Answer::Do(method, arg) => {
                self.start_method(message, method, arg);
                Ok(())
            }
            _ if quiet => Ok(()),
            Answer::Error(name, text) => {
                c.reply_error(&header, format!("org.freedesktop.DBus.Error.{name}"), &text)
                    .await
            }
            Answer::Reply(reply) => match reply {
                Reply::Nothing => c.reply(&header, &()).await,
                Reply::Text(text) => c.reply(&header, &text).await,
                Reply::MachineId => c.reply(&header, &machine_id()).await,
                Reply::Value(value) => c.reply(&header, &value.variant()).await,
                Reply::All => {
                    let props = self.now.get(call.path).map(|o| variants(&o.props));
                    c.reply(&header, &props.unwrap_or_default()).await
                }
                Reply::Managed => {
                    let mut all = BTreeMap::new();
                    for (path, object) in self.now.iter().filter(|(p, _)| *p != ROOT_PATH) {
                        all.insert(ObjectPath::try_from(path.as_str())?, interfaces(object));
                    }
                    c.reply(&header, &all).await
                }
            },
        }
    }

    fn start_method(&self, message: &Message, method: &'static str, arg: Option<u32>) {
        let permit = Arc::clone(&self.calls).try_acquire_owned();
        let connection = self.connection.clone();
        let source = Arc::clone(&self.setup.source);
        let message = message.clone();
        tokio::spawn(async move {
            let result = match permit {
                Ok(_permit) => carry_out(&connection, &message, source, method, arg).await,
                Err(_) => Err(Failure("LimitsExceeded", "too many calls at once".into())),
            };
            let header = message.header();
            if header.primary().flags().contains(Flags::NO_REPLY_EXPECTED) {
                return;
            }
            let sent = match result {
                Ok(()) => connection.reply(&header, &()).await,
                Err(Failure(name, text)) => {
                    connection
                        .reply_error(&header, format!("org.freedesktop.DBus.Error.{name}"), &text)
                        .await
                }
            };
            if let Err(e) = sent {
                tracing::debug!("reply to {method}: {e}");
            }
        });
    }
}

/// The bus says who the caller is; its policy may be wider than ours.
async fn carry_out(
    connection: &Connection,
    message: &Message,
    source: Arc<dyn Source>,
    method: &'static str,
    arg: Option<u32>,
) -> Result<(), Failure> {
    let denied = |text: String| Failure("AccessDenied", text);
    let header = message.header();
    let sender = header.sender().map(|s| s.as_str().to_string());
    let Some(sender) = sender else {
        return Err(denied(format!("{method}: the caller has no name")));
    };
    const DBUS: &str = "org.freedesktop.DBus";
    let uid: Result<u32, zbus::Error> = async {
        connection
            .call_method(
                Some(DBUS),
                "/org/freedesktop/DBus",
                Some(DBUS),
                "GetConnectionUnixUser",
                &sender,
            )
            .await?
            .body()
            .deserialize()
    }
    .await;
    let uid = uid.map_err(|e| denied(format!("{method}: the caller is unknown: {e}")))?;
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        tracing::debug!(uid, method, "refused");
        return Err(denied(format!(
            "{method}: only root may do this, not uid {uid}"
        )));
    }
    let path = header.path().map(|p| p.as_str().to_string());
    let path = path.unwrap_or_default();
    let work = tokio::task::spawn_blocking(move || source.call(&path, method, arg));
    work.await
        .unwrap_or_else(|e| Err(Failure("Failed", format!("{method}: {e}"))))
}

fn arguments(message: &Message) -> Args {
    let body = message.body();
    let signature = body.signature().to_string_no_parens();
    let parsed = match signature.as_str() {
        "" => Ok(Args::None),
        "s" => body.deserialize::<String>().map(Args::Text),
        "ss" => body
            .deserialize::<(String, String)>()
            .map(|(a, b)| Args::Texts(a, b)),
        "ssv" => body
            .deserialize::<(String, String, Variant<'_>)>()
            .map(|(a, b, _)| Args::Setting(a, b)),
        "u" => body.deserialize::<u32>().map(Args::Number),
        _ => return Args::Other(signature),
    };
    parsed.unwrap_or(Args::Other(signature))
}

fn variants(props: &Props) -> BTreeMap<&str, Variant<'_>> {
    props.iter().map(|(n, v)| (*n, v.variant())).collect()
}

fn interfaces(object: &Object) -> BTreeMap<&str, BTreeMap<&str, Variant<'_>>> {
    BTreeMap::from([(object.interface.name, variants(&object.props))])
}

fn machine_id() -> String {
    std::fs::read_to_string("/etc/machine-id")
        .map(|t| t.trim().to_string())
        .unwrap_or_default()
}
