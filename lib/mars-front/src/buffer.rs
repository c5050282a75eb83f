//! Memory for one read on its way from the device to the client.

use crate::sys::Pages;
use std::io;

/// From this size on the memory goes back to the system at once; smaller ones are cheaper from the allocator.
const LARGE: usize = 64 << 10;

/// A buffer of a fixed size, zero at first.
pub(crate) enum Buffer {
    Small(Vec<u8>),
    Large(Pages),
}

impl Buffer {
    pub(crate) fn new(len: usize) -> io::Result<Buffer> {
        Ok(if len < LARGE {
            Buffer::Small(vec![0; len])
        } else {
            Buffer::Large(Pages::new(len)?)
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Buffer::Small(v) => v,
            Buffer::Large(p) => p,
        }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Buffer::Small(v) => v,
            Buffer::Large(p) => p,
        }
    }
}
