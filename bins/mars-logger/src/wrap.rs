//! Layers between the daemon and what it works on.
use crate::io::{DataDisk, LogStore};
use std::sync::Arc;

/// A layer around a data disk.
pub type WrapDisk = dyn Fn(Arc<dyn DataDisk>) -> Arc<dyn DataDisk>;
/// A layer around the place where logs are made.
pub type WrapStore = dyn Fn(Box<dyn LogStore>) -> Box<dyn LogStore>;

/// Puts layers (failing, recording, slow ones) around disk and logs. The daemon itself runs with [`Wrap::default`], which changes nothing.
pub struct Wrap {
    /// Around the data disk, for recovery and for the engine.
    pub disk: Box<WrapDisk>,
    /// Around the place where logs are made.
    pub store: Box<WrapStore>,
}

impl Default for Wrap {
    fn default() -> Wrap {
        Wrap {
            disk: Box::new(|disk| disk),
            store: Box::new(|store| store),
        }
    }
}
