//! The inside of `mars-meta`: spreads the symlink tree between the hosts of a cluster.
//!
//! Pure: [`spread`] (what to send to whom), [`gate`] (who may talk to us), [`parting`], [`relevant`], [`wire`], [`publish`]. The rim: [`conn`]
//! (sockets), [`visit`] (hosts of other clusters), [`disks`], [`engine`] (the one loop that owns everything).

pub mod args;
pub mod bus;
pub mod conn;
pub mod disks;
pub mod engine;
pub mod gate;
pub mod mesh;
pub mod parting;
pub mod publish;
pub mod quiet;
pub mod relevant;
pub mod runwatch;
pub mod spread;
pub mod story;
pub mod sys;
pub mod trigger;
pub mod unstored;
pub mod visit;
pub mod wire;
