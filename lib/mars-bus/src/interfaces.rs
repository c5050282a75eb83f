//! The interfaces, as tables. `man/org.storage.mars1.5` says the same; a test compares.
use crate::describe::{Interface, Method, Property};
use crate::value::Type;

/// Stands for an unknown number.
pub const UNKNOWN: u64 = u64::MAX;

const fn p(
    name: &'static str,
    ty: Type,
    emits: bool,
    unit: &'static str,
    meaning: &'static str,
) -> Property {
    Property {
        name,
        ty,
        emits,
        unit,
        meaning,
    }
}

/// The host and the cluster as a whole; at the root of the objects of `mars-meta`.
#[rustfmt::skip]
pub static MANAGER: Interface = Interface {
    name: "org.storage.mars1.Manager",
    properties: &[
        p("Host", Type::Text, true, "", "Name of this host."),
        p("ClusterUuid", Type::Text, true, "empty: in no cluster", "Identity of the cluster."),
        p("Version", Type::Text, true, "", "Version of mars-meta."),
        p("EmergencyLevel", Type::U64, true, "0 to 4", "How short this host is of space below /mars; 0 is enough."),
        p("LamportTime", Type::Text, false, "SECONDS.NNNNNNNNN", "Lamport clock of this host."),
        p("Hosts", Type::Texts, true, "", "Names of all hosts of the cluster, this one included."),
        p("Resources", Type::Texts, true, "", "Names of all resources of the cluster."),
        p("Messages", Type::Messages, true, "class (err, wrn, inf), name, text, since (real time), since (Lamport time)", "What marsadm view shows as messages of the host."),
        p("DamagedLinks", Type::Pairs, true, "path below /mars, value", "Links whose value makes no sense; they are ignored."),
    ],
    methods: &[
        Method {
            name: "Trigger",
            arg: None,
            meaning: "Lets the reconciler look: it compares the units that should run with those that do.",
        },
        Method {
            name: "Ping",
            arg: None,
            meaning: "Asks all hosts for a sign of life and for what is new there, and gives one.",
        },
    ],
};

/// A host of the cluster.
#[rustfmt::skip]
pub static HOST: Interface = Interface {
    name: "org.storage.mars1.Host",
    properties: &[
        p("Name", Type::Text, true, "", "Name of the host."),
        p("Address", Type::Text, true, "empty: unknown", "IP address."),
        p("IsLocal", Type::Bool, true, "", "Is it this host?"),
        p("Reachable", Type::Bool, true, "", "Has it been heard of within the last 60 seconds?"),
        p("LastHeartbeat", Type::Text, false, "SECONDS.NNNNNNNNN, empty: never", "Lamport time of its last sign of life."),
        p("HeartbeatAgeSeconds", Type::U64, false, "seconds, unknown: 18446744073709551615", "Age of its last sign of life."),
        p("Version", Type::Text, true, "empty: unknown", "What it calls its version."),
        p("Features", Type::Text, true, "empty: unknown", "What it can read and write, as in the link features."),
        p("EmergencyLevel", Type::U64, true, "0 to 4", "How short it is of space below /mars; 0 is enough."),
        p("TotalSpaceBytes", Type::U64, true, "bytes, whole GiB, unknown: 18446744073709551615", "Size of its file system /mars without the reserve."),
        p("FreeSpaceBytes", Type::U64, true, "bytes, whole GiB, unknown: 18446744073709551615", "Free space of its file system /mars without the reserve."),
    ],
    methods: &[
    ],
};

/// A resource, as this host sees it: everything that `marsadm view` shows.
#[rustfmt::skip]
pub static RESOURCE: Interface = Interface {
    name: "org.storage.mars1.Resource",
    properties: &[
        p("Name", Type::Text, true, "", "Name of the resource."),
        p("Host", Type::Text, true, "", "The host whose view this is: this one."),
        p("Members", Type::Texts, true, "", "Hosts that joined the resource."),
        p("IsMember", Type::Bool, true, "", "Is this host a member?"),
        p("SizeBytes", Type::U64, true, "bytes, unknown: 18446744073709551615", "Size of the resource."),
        p("DiskState", Type::Text, true, "as in marsadm view", "State of the local disk."),
        p("DiskError", Type::I64, true, "0: none", "Negative errno of the local disk."),
        p("ReplState", Type::Text, true, "as in marsadm view", "State of the replication here."),
        p("Flags", Type::Text, true, "six letters, as in marsadm view", "Device, consistency, attach, sync, fetch, replay."),
        p("Role", Type::Text, true, "as in marsadm view", "Role of this host."),
        p("TodoRole", Type::Text, true, "as in marsadm view", "Role this host shall have."),
        p("PrimaryNode", Type::Text, true, "empty: none", "The designated primary."),
        p("ActualPrimaries", Type::Texts, true, "", "Hosts that are primary now, as far as this host knows."),
        p("PrimaryAgeSeconds", Type::U64, false, "seconds, unknown: 18446744073709551615", "Age of the last sign of life of the designated primary."),
        p("ReplayCode", Type::Text, true, "empty: unknown", "How replay ended last; negative: why it cannot go on."),
        p("Consistent", Type::Bool, true, "", "Is the local disk consistent?"),
        p("SyncReached", Type::Bool, true, "", "Part of Consistent: the sync is complete."),
        p("Clean", Type::Bool, true, "", "Part of Consistent: no dirty data at a primary."),
        p("ReplayReached", Type::Bool, true, "", "Part of Consistent: replay has passed the end of the sync."),
        p("TodoAttach", Type::Bool, true, "", "Switch of marsadm attach."),
        p("TodoSync", Type::Bool, true, "", "Switch of marsadm resume-sync."),
        p("TodoFetch", Type::Bool, true, "", "Switch of marsadm resume-fetch."),
        p("TodoReplay", Type::Bool, true, "", "Switch of marsadm resume-replay."),
        p("IsAttached", Type::Bool, true, "", "Is the disk in use by MARS?"),
        p("IsSyncing", Type::Bool, true, "", "Does a sync run here?"),
        p("IsFetching", Type::Bool, true, "", "Are logs being fetched?"),
        p("IsReplaying", Type::Bool, true, "", "Are logs being replayed?"),
        p("IsPrimary", Type::Bool, true, "", "Is this host primary?"),
        p("HasEmergency", Type::Bool, true, "", "Has logging stopped here, so that the other hosts fall behind?"),
        p("DiskPath", Type::Text, true, "empty: no member", "The local disk."),
        p("DiskPresent", Type::Bool, true, "", "Is the local disk there?"),
        p("DiskSizeBytes", Type::U64, true, "bytes, unknown: 18446744073709551615", "Size of the local disk."),
        p("DevicePath", Type::Text, true, "", "Where the device appears."),
        p("DevicePresent", Type::Bool, true, "", "Is the device there?"),
        p("OpenCount", Type::I64, true, "", "Users of the device."),
        p("OpsPerSecond", Type::I64, true, "requests per second", "Rate at the device."),
        p("Flying", Type::I64, true, "requests", "Requests without an answer yet."),
        p("DeviceError", Type::I64, true, "0: none", "Negative errno of the device."),
        p("SyncPosBytes", Type::U64, true, "bytes, unknown: 18446744073709551615", "Sync: done."),
        p("SyncSizeBytes", Type::U64, true, "bytes, unknown: 18446744073709551615", "Sync: what is to be copied."),
        p("SyncRestBytes", Type::U64, true, "bytes, unknown: 18446744073709551615", "Sync: left."),
        p("SyncPercent", Type::F64, true, "0 to 100, unknown: -1", "Sync: done."),
        p("SyncBytesPerSecond", Type::U64, true, "bytes per second, unknown: 18446744073709551615", "Sync: rate."),
        p("SyncRemainSeconds", Type::F64, true, "seconds, unknown: -1", "Sync: time left at this rate."),
        p("FetchPosBytes", Type::U64, true, "bytes, unknown: 18446744073709551615", "Fetch: done."),
        p("FetchSizeBytes", Type::U64, true, "bytes, unknown: 18446744073709551615", "Fetch: the known logs."),
        p("FetchRestBytes", Type::U64, true, "bytes, unknown: 18446744073709551615", "Fetch: left."),
        p("FetchPercent", Type::F64, true, "0 to 100, unknown: -1", "Fetch: done."),
        p("FetchBytesPerSecond", Type::U64, true, "bytes per second, unknown: 18446744073709551615", "Fetch: rate."),
        p("FetchRemainSeconds", Type::F64, true, "seconds, unknown: -1", "Fetch: time left at this rate."),
        p("FetchAgeSeconds", Type::U64, false, "seconds, unknown: 18446744073709551615", "Fetch: time since it last got on (the lag)."),
        p("ReplayPosBytes", Type::U64, true, "bytes, unknown: 18446744073709551615", "Replay: done."),
        p("ReplaySizeBytes", Type::U64, true, "bytes, unknown: 18446744073709551615", "Replay: the fetched logs."),
        p("ReplayRestBytes", Type::U64, true, "bytes, unknown: 18446744073709551615", "Replay: left."),
        p("ReplayPercent", Type::F64, true, "0 to 100, unknown: -1", "Replay: done."),
        p("ReplayBytesPerSecond", Type::U64, true, "bytes per second, unknown: 18446744073709551615", "Replay: rate."),
        p("ReplayRemainSeconds", Type::F64, true, "seconds, unknown: -1", "Replay: time left at this rate."),
        p("ReplayAgeSeconds", Type::U64, false, "seconds, unknown: 18446744073709551615", "Replay: time since it last got on (the lag)."),
        p("WorkPosBytes", Type::U64, true, "bytes, unknown: 18446744073709551615", "Fetch and replay together: done."),
        p("WorkSizeBytes", Type::U64, true, "bytes, unknown: 18446744073709551615", "Fetch and replay together: the known logs, applied here."),
        p("WorkRestBytes", Type::U64, true, "bytes, unknown: 18446744073709551615", "Fetch and replay together: left."),
        p("WorkPercent", Type::F64, true, "0 to 100, unknown: -1", "Fetch and replay together: done."),
        p("WorkBytesPerSecond", Type::U64, true, "bytes per second, unknown: 18446744073709551615", "Fetch and replay together: rate."),
        p("WorkRemainSeconds", Type::F64, true, "seconds, unknown: -1", "Fetch and replay together: time left at this rate."),
        p("WorkAgeSeconds", Type::U64, false, "seconds, unknown: 18446744073709551615", "Fetch and replay together: time since it last got on (the lag)."),
        p("LogBaseNumber", Type::U64, true, "log number", "First log that is here without a gap."),
        p("LogReplayNumber", Type::U64, true, "log number", "Log that is being replayed, or written back at a primary."),
        p("LogFetchNumber", Type::U64, true, "log number", "Last log that is here without a gap."),
        p("LogWorkNumber", Type::U64, true, "log number", "Last log that is known."),
        p("SplitBrain", Type::Bool, true, "", "Is there a split brain?"),
        p("SplitPoints", Type::Splits, true, "last common LOG,LENGTH; for each host: name, bytes that it would lose", "Where the histories part."),
        p("Messages", Type::Messages, true, "class (err, wrn, inf), name, text, since (real time), since (Lamport time)", "What marsadm view shows as messages of the resource."),
    ],
    methods: &[
    ],
};

/// Live figures of the logger of a resource, on the primary.
#[rustfmt::skip]
pub static LOGGER: Interface = Interface {
    name: "org.storage.mars1.Logger",
    properties: &[
        p("Resource", Type::Text, true, "", "Name of the resource."),
        p("Host", Type::Text, true, "", "Name of this host."),
        p("LogNumber", Type::U64, true, "log number", "The log that is written."),
        p("DurableBytes", Type::U64, true, "bytes", "So much of that log survives a power cut."),
        p("LoggedBytes", Type::U64, true, "bytes", "So much of that log was handed to the kernel."),
        p("WritebackLogNumber", Type::U64, true, "log number", "Log of the write-back position."),
        p("WritebackBytes", Type::U64, true, "bytes", "Everything before this position of that log is on the disk."),
        p("DirtyBytes", Type::U64, true, "bytes", "Device bytes in memory that are not on the disk yet."),
        p("BufferBytes", Type::U64, true, "bytes", "Memory that the dirty buffer takes."),
        p("DeviceOn", Type::Bool, true, "", "Is the device offered?"),
        p("SizeBytes", Type::U64, true, "bytes", "Size of the device."),
        p("Openers", Type::U64, true, "", "Users of the device."),
        p("Flying", Type::U64, true, "requests", "Requests without an answer yet, held ones not counted."),
        p("Reads", Type::U64, true, "requests since the start", "Reads."),
        p("ReadBytes", Type::U64, true, "bytes since the start", "Bytes read."),
        p("Writes", Type::U64, true, "requests since the start", "Writes, write-zeroes and discards."),
        p("WriteBytes", Type::U64, true, "bytes since the start", "Bytes written."),
        p("OpsPerSecond", Type::U64, true, "requests per second", "Rate over the last two seconds or so."),
        p("BytesPerSecond", Type::U64, true, "bytes per second, whole KiB", "Rate over the last two seconds or so."),
        p("Emergency", Type::Bool, true, "", "Has logging stopped, so that writes go directly to the disk?"),
        p("DiskError", Type::U64, true, "errno, 0: none", "Error of the disk."),
        p("Frozen", Type::Bool, true, "", "Are new writes held by Freeze?"),
        p("HeldWrites", Type::U64, true, "requests", "Writes that wait for the end of the freeze."),
        p("QueueCount", Type::U64, true, "since the start", "How often a batch waits for the beginning of its append."),
        p("QueueMeanNs", Type::U64, true, "nanoseconds, 0: never happened", "How long it takes on average that a batch waits for the beginning of its append."),
        p("QueueMaxNs", Type::U64, true, "nanoseconds", "How long it took at most that a batch waits for the beginning of its append."),
        p("EncodeCount", Type::U64, true, "since the start", "How often a piece of a request is encoded and buffered (a sample)."),
        p("EncodeMeanNs", Type::U64, true, "nanoseconds, 0: never happened", "How long it takes on average that a piece of a request is encoded and buffered (a sample)."),
        p("EncodeMaxNs", Type::U64, true, "nanoseconds", "How long it took at most that a piece of a request is encoded and buffered (a sample)."),
        p("AppendCount", Type::U64, true, "since the start", "How often a batch is handed to the kernel."),
        p("AppendMeanNs", Type::U64, true, "nanoseconds, 0: never happened", "How long it takes on average that a batch is handed to the kernel."),
        p("AppendMaxNs", Type::U64, true, "nanoseconds", "How long it took at most that a batch is handed to the kernel."),
        p("SyncCount", Type::U64, true, "since the start", "How often a batch is made durable."),
        p("SyncMeanNs", Type::U64, true, "nanoseconds, 0: never happened", "How long it takes on average that a batch is made durable."),
        p("SyncMaxNs", Type::U64, true, "nanoseconds", "How long it took at most that a batch is made durable."),
        p("AcknowledgeCount", Type::U64, true, "since the start", "How often answers are handed to the device."),
        p("AcknowledgeMeanNs", Type::U64, true, "nanoseconds, 0: never happened", "How long it takes on average that answers are handed to the device."),
        p("AcknowledgeMaxNs", Type::U64, true, "nanoseconds", "How long it took at most that answers are handed to the device."),
        p("WritebackCount", Type::U64, true, "since the start", "How often a generation is written or flushed."),
        p("WritebackMeanNs", Type::U64, true, "nanoseconds, 0: never happened", "How long it takes on average that a generation is written or flushed."),
        p("WritebackMaxNs", Type::U64, true, "nanoseconds", "How long it took at most that a generation is written or flushed."),
    ],
    methods: &[
        Method {
            name: "Rotate",
            arg: None,
            meaning: "Begins the next log, as marsadm log-rotate --force does. Returns when the log is wanted, not when it is written.",
        },
        Method {
            name: "Drain",
            arg: None,
            meaning: "Writes to the disk everything that was accepted so far; returns when it is there. An error after ten minutes, or when the disk fails.",
        },
        Method {
            name: "Freeze",
            arg: Some("timeout_seconds"),
            meaning: "Holds new writes, makes everything accepted durable and writes it to the disk, and returns: the disk now equals the device, for a snapshot of it. Reads and flushes go on. At the end of the timeout (1 to 600 seconds, counted from the call), on Thaw, when the logger stops or another host is designated primary, the held writes go on. When the disk is not clean within the timeout, nothing stays frozen and the call fails. A second call while frozen is refused.",
        },
        Method {
            name: "Thaw",
            arg: None,
            meaning: "Ends a freeze. No error when there is none.",
        },
    ],
};

/// All of them.
pub static ALL: [&Interface; 4] = [&MANAGER, &HOST, &RESOURCE, &LOGGER];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        for i in ALL {
            let names: BTreeSet<&str> = i.properties.iter().map(|p| p.name).collect();
            assert_eq!(names.len(), i.properties.len(), "{}", i.name);
        }
    }
}
