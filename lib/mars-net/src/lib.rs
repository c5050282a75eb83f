//! Peer connections: hello, frames, limits, listening. Room for TLS: everything works on any `Read + Write`.
//!
//! May use: no other room of the house. Must never use: logs, disks, policy. All input is hostile: bounded, checked, never a panic.

mod conn;
mod frame;
mod hello;
mod listen;
/// For daemons that run on tokio.
pub mod tokio_io;
mod visit;

pub use conn::{Conn, ConnectOptions, accept, bind_for, connect, tune};
pub use frame::{
    FRAME_HEADER, Frame, FrameError, MAX_FRAME, decode_frame_header, encode_frame_header,
    read_frame, write_frame,
};
pub use hello::{
    HELLO_HEAD, HELLO_MAX, Hello, HelloError, HelloMessage, PROTOCOL_VERSION, Refusal, Service,
    accept_hello, decode_hello, encode_accept, encode_refusal, hello_needs, offer_hello,
};
pub use listen::{Listener, listen};
pub use visit::{
    KIND_ANSWER, KIND_END, KIND_MERGE, KIND_TREE, MergeAnswer, MergeRequest, VISIT_BODY_MAX,
    VISITOR, Visit, VisitLink, answer_frame, decode_request, tree_frames,
};
