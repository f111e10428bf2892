//! A connection after `101 Switching Protocols`: bytes both ways, no framing of ours (H-31).
//!
//! Made by [`OriginBody::into_tunnel`](super::OriginBody::into_tunnel); the viewer side drives one task per direction.
//! Idle limits are the driver's. Invariants: what came behind the 101's head is read first; the connection never returns
//! to the pool; at most one reader and one writer.

use std::cell::{Cell, RefCell};

use aspis_exchange::OriginFailure;

use super::conversation::stream_failure;
use super::pool::Connection;

/// The origin's end of a tunnel. Dropping it closes the connection.
pub struct OriginTunnel {
    connection: Connection,
    early: RefCell<Vec<u8>>,
    early_read: Cell<usize>,
}

impl OriginTunnel {
    pub(crate) fn new(connection: Connection, early: Vec<u8>) -> Self {
        OriginTunnel { connection, early: RefCell::new(early), early_read: Cell::new(0) }
    }

    /// Reads what the origin sends next into `buffer`, which must not be empty. Zero: the origin has ended its side.
    pub async fn read<B: AsMut<[u8]> + 'static>(&self, mut buffer: B) -> (Result<usize, OriginFailure>, B) {
        let copied = self.take_early(buffer.as_mut());
        if copied > 0 {
            return (Ok(copied), buffer);
        }
        let whole = 0..buffer.as_mut().len();
        let (received, buffer) = self.connection.stream.read(buffer, whole).await;
        (received.map_err(stream_failure), buffer)
    }

    /// Sends `bytes` and waits until the kernel has taken them.
    pub async fn write(&self, bytes: Vec<u8>) -> Result<(), OriginFailure> {
        self.connection.stream.write(bytes).await.map_err(stream_failure)
    }

    /// Tells the origin that the viewer sends nothing more. What the origin still sends can be read on.
    pub async fn finish_writing(&self) -> Result<(), OriginFailure> {
        self.connection.stream.finish_writing().await.map_err(stream_failure)
    }

    fn take_early(&self, buffer: &mut [u8]) -> usize {
        let mut early = self.early.borrow_mut();
        let rest = &early[self.early_read.get()..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.early_read.set(self.early_read.get() + count);
        if self.early_read.get() == early.len() {
            *early = Vec::new();
            self.early_read.set(0);
        }
        count
    }
}
