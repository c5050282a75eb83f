//! Transaction logs: records (encode, scan, checksum, compress), log files, version links and their chain.
//!
//! May use: `mars-tree` (names, values), `mars-live` (stamps). Must never use: the network, the data disk, policy.
//! Format: `transaction-log.md`; everything read here may be hostile or torn: bounded, checked, never a panic.

mod codec;
mod compress;
mod digest;
mod direct;
mod file;
mod layout;
mod lzo;
pub mod numbers;
mod reader;
mod record;
mod scan;
mod tail;
mod version;
pub mod wire;
mod zeroes;

pub use codec::{Compression, Digest, FeatureMask};
pub use direct::DirectBlocks;
pub use file::LogFile;
pub use reader::{LogReader, ReadRecord};
pub use record::{
    EncodeOptions, MAX_PAYLOAD_V1, MAX_ZERO_RECORD, OVERHEAD, Payload, Record, encode_write,
    encode_zeroes,
};
pub use scan::{Detail, Scan, ScanLimits, Scanner, StopCode};
pub use tail::{PreparedTail, cut_if_left, cut_prepared, unprepared_len, valid_end};
pub use version::{SwitchBlock, SwitchInput, may_switch, next_version, placeholder, version_chain};
