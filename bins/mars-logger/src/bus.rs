//! The logger on the system bus.
use crate::engine::Engine;
use crate::freeze::{DRAIN_MAX, FreezeError};
use mars_bus::interfaces::LOGGER;
use mars_bus::{Bell, Bus, Failure, Object, Setup, Source, State, Value, props};
use mars_policy::{RotateHold, View, rotate_plan};
use mars_tree::{Batch, HostName, Key, ResName, Tree};
use std::sync::Arc;
use std::time::Duration;

/// Changes are told at most this often.
const GAP: Duration = Duration::from_secs(1);

struct Logger {
    engine: Arc<Engine>,
    tree: Tree,
    res: ResName,
    me: HostName,
}

/// Puts the logger on the bus, from a thread of its own. Without such a thread the logger works as well.
pub fn start(engine: &Arc<Engine>, tree: &Tree, res: &ResName, me: &HostName) -> Option<Bus> {
    let bell = Bell::new();
    engine.set_bell(bell.clone());
    let logger = Logger {
        engine: Arc::clone(engine),
        tree: tree.clone(),
        res: res.clone(),
        me: me.clone(),
    };
    let setup = Setup {
        name: mars_bus::logger_name(res.as_str()),
        shared: Some(mars_bus::LOGGERS_NAME),
        address: None,
        source: Arc::new(logger),
        bell,
        gap: GAP,
    };
    mars_bus::start(setup)
        .inspect_err(|e| tracing::warn!("no D-Bus: {e}"))
        .ok()
}

fn mean(nanos: u64, count: u64) -> u64 {
    nanos.checked_div(count).unwrap_or(0)
}

impl Source for Logger {
    fn state(&self) -> State {
        let f = self.engine.figures();
        let s = self.engine.status();
        let (queue_max, encode_max) = self.engine.longest_of();
        let get = |name: &str| {
            let number = match name {
                "Resource" => return Value::text(self.res.as_str()),
                "Host" => return Value::text(self.me.as_str()),
                "DeviceOn" => return Value::Bool(f.device_on != 0),
                "Emergency" => return Value::Bool(s.is_emergency),
                "Frozen" => return Value::Bool(s.is_frozen),
                "LogNumber" => f.log_nr,
                "DurableBytes" => f.durable_len,
                "LoggedBytes" => f.logged_len,
                "WritebackLogNumber" => f.writeback_nr,
                "WritebackBytes" => f.writeback_pos,
                "DirtyBytes" => f.dirty_bytes,
                "BufferBytes" => s.memory as u64,
                "SizeBytes" => mars_front::Backend::size(self.engine.as_ref()),
                "Openers" => f.openers,
                "Flying" => f.flying,
                "Reads" => f.reads,
                "ReadBytes" => f.read_bytes,
                "Writes" => f.writes,
                "WriteBytes" => f.write_bytes,
                "OpsPerSecond" => f.ops_rate,
                "BytesPerSecond" => f.amount_rate.saturating_mul(1024),
                "DiskError" => u64::from(s.disk_error.unsigned_abs()),
                "HeldWrites" => s.held,
                "QueueCount" => f.queue_count,
                "QueueMeanNs" => mean(f.queue_ns, f.queue_count),
                "QueueMaxNs" => queue_max,
                "EncodeCount" => f.encode_count,
                "EncodeMeanNs" => mean(f.encode_ns, f.encode_count),
                "EncodeMaxNs" => encode_max,
                "AppendCount" => f.append_count,
                "AppendMeanNs" => mean(f.append_ns, f.append_count),
                "AppendMaxNs" => f.append_max_ns,
                "SyncCount" => f.sync_count,
                "SyncMeanNs" => mean(f.sync_ns, f.sync_count),
                "SyncMaxNs" => f.sync_max_ns,
                "AcknowledgeCount" => f.acknowledge_count,
                "AcknowledgeMeanNs" => mean(f.acknowledge_ns, f.acknowledge_count),
                "AcknowledgeMaxNs" => f.acknowledge_max_ns,
                "WritebackCount" => f.write_back_count,
                "WritebackMeanNs" => mean(f.write_back_ns, f.write_back_count),
                "WritebackMaxNs" => f.write_back_max_ns,
                // A test sees to it that there is no other.
                _ => mars_bus::interfaces::UNKNOWN,
            };
            Value::U64(number)
        };
        let object = Object {
            interface: &LOGGER,
            props: props(&LOGGER, get),
        };
        State::from([(mars_bus::logger_path(self.res.as_str()), object)])
    }

    fn call(&self, _: &str, method: &str, arg: Option<u32>) -> Result<(), Failure> {
        let failed = |e: FreezeError| {
            let name = match e {
                FreezeError::Timeout => "InvalidArgs",
                FreezeError::NotClean => "Timeout",
                FreezeError::NoThread => "LimitsExceeded",
                _ => "Failed",
            };
            Failure(name, format!("resource {}: {e}", self.res))
        };
        match method {
            "Rotate" => self.rotate(),
            "Drain" => self.engine.drain(DRAIN_MAX).map_err(failed),
            "Freeze" => {
                let limit = Duration::from_secs(arg.unwrap_or(0).into());
                self.engine.freeze(limit).map_err(failed)
            }
            "Thaw" => {
                self.engine.thaw();
                Ok(())
            }
            other => Err(Failure("UnknownMethod", format!("no method {other}"))),
        }
    }
}

impl Logger {
    /// As `marsadm log-rotate --force`: an empty file that the control loop finds.
    fn rotate(&self) -> Result<(), Failure> {
        let failed = |e: String| Failure("Failed", format!("resource {}: {e}", self.res));
        let snap = self
            .tree
            .snapshot_of(&self.res)
            .map_err(|e| failed(e.to_string()))?;
        let view = View {
            snap: &snap,
            me: &self.me,
            local: &self.me,
            now: self.tree.clock().now(),
            window: Duration::from_secs(60),
            engine_running: true,
        };
        let log = match rotate_plan(&view, &self.res, usize::MAX, 0) {
            Ok(log) => log,
            // Nothing to do is no error.
            Err(RotateHold::Empty | RotateHold::Exists) => return Ok(()),
            Err(hold) => return Err(failed(hold.to_string())),
        };
        let known = snap.number(&Key::MaxNr(self.res.clone())).unwrap_or(0);
        let mut batch = Batch::new();
        batch.create_log(Key::Log(self.res.clone(), log.clone()));
        if u64::from(log.nr) > known {
            batch.set(Key::MaxNr(self.res.clone()), log.nr);
        }
        self.tree
            .commit(&batch)
            .map(|_| ())
            .map_err(|e| failed(e.to_string()))
    }
}
