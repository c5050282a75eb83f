//! What others may use of `mars-fetch`: its command line. Everything else belongs to the program alone.

pub mod args;
