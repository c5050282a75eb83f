//! Simulation of power cuts in one thread: the real decisions of the logger, real recovery and real application of logs, on a simulated disk
//! and simulated log files that know what was flushed. Everything follows from one seed.
pub mod disk;
pub mod life;
pub mod links;
pub mod logs;
pub mod past;
pub mod plan;
pub mod power;
pub mod rng;
pub mod secondary;
pub mod seen;
pub mod soak;
pub mod subset;
pub mod wreck;
