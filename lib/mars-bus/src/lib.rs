//! MARS on the system bus. What is offered is data: [`interfaces`] says which properties, methods and signals there are, a [`State`] holds the
//! values, [`diff`] finds the signals, [`answer`] answers calls. All of that is plain code. [`start`] puts it on a bus, from a thread of its own:
//! who offers something never waits for the bus, and goes on when there is none.
//!
//! May use: the operating system. Must never know what a daemon does.

mod answer;
mod client;
mod describe;
pub mod interfaces;
mod model;
mod names;
mod serve;
mod value;

pub use answer::{Answer, Args, Call, Reply, answer};
pub use client::{CallError, SignalWatch, call};
pub use describe::{Interface, Method, Property, introspect, manual};
pub use model::{Change, Object, Props, State, diff, props};
pub use names::{
    BUS_NAME, LOGGERS_NAME, ROOT_PATH, escape, host_path, logger_name, logger_path, resource_path,
    unescape,
};
pub use serve::{Bell, Bus, Failure, Setup, Source, start};
pub use value::{Type, Value};
