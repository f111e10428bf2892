//! A connection that became a tunnel after `101 Switching Protocols`: bytes both ways until one side is done (H-31).
//!
//! Begun by `viewer/exchange.rs`; uses the viewer's inbox on one side and the origin client's tunnel on the other.
//! Invariants: each direction holds one buffer; nothing is looked at, cached or changed.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;

use aspis_runtime::future::{Either, race};
use aspis_telemetry::{CoreCounters, Counter};

use crate::limits::{RELAY_BUFFER_LEN, SEND_WINDOW, TUNNEL_IDLE};
use crate::origin::OriginTunnel;
use crate::shard::Shard;
use crate::viewer::Viewer;
use crate::viewer::relay::take_front;

/// How one direction of a tunnel came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The sender was done and the receiver was told so; the other direction goes on.
    Orderly,
    /// A side is gone, or was silent for too long: the tunnel is over.
    Broken,
}

/// Carries bytes both ways until both sides are done, a side breaks, or the origin is silent for ten minutes.
/// Adds the bytes sent to the viewer to `sent`.
pub(crate) async fn run(shard: &Rc<Shard>, viewer: &Rc<Viewer>, tunnel: &OriginTunnel, sent: &Cell<u64>) {
    let _open = OpenTunnel::new(&shard.counters);
    let mut up = pin!(to_origin(shard, viewer, tunnel));
    let mut down = pin!(to_viewer(shard, viewer, tunnel, sent));
    match race(up.as_mut(), down.as_mut()).await {
        Either::Left(End::Orderly) => {
            down.await;
        }
        Either::Right(End::Orderly) => {
            // A viewer that has heard everything and neither says nor ends anything is not waited for.
            let _ = shard.ring.timeout(shard.settings.idle_timeout, up).await;
        }
        Either::Left(End::Broken) | Either::Right(End::Broken) => {}
    }
}

/// Counts a tunnel for as long as it lives, also when the viewer's task is cut short.
struct OpenTunnel<'t>(&'t CoreCounters);

impl<'t> OpenTunnel<'t> {
    fn new(counters: &'t CoreCounters) -> Self {
        counters.add(Counter::Tunnels, 1);
        counters.add(Counter::TunnelsOpen, 1);
        OpenTunnel(counters)
    }
}

impl Drop for OpenTunnel<'_> {
    fn drop(&mut self) {
        self.0.sub(Counter::TunnelsOpen, 1);
    }
}

async fn to_origin(shard: &Rc<Shard>, viewer: &Rc<Viewer>, tunnel: &OriginTunnel) -> End {
    loop {
        let bytes = viewer.inbox.borrow_mut().take_bytes();
        if !bytes.is_empty() {
            if tunnel.write(bytes).await.is_err() {
                return End::Broken;
            }
            shard.unpause(viewer);
            continue;
        }
        if viewer.gone.get() {
            return End::Broken;
        }
        if viewer.ended.get() {
            return if tunnel.finish_writing().await.is_ok() { End::Orderly } else { End::Broken };
        }
        viewer.changed.notified().await;
    }
}

async fn to_viewer(shard: &Rc<Shard>, viewer: &Rc<Viewer>, tunnel: &OriginTunnel, sent: &Cell<u64>) -> End {
    let _weight = shard.account.origin.fetches.weigh(RELAY_BUFFER_LEN);
    let mut buffer = Vec::new();
    loop {
        buffer.resize(RELAY_BUFFER_LEN, 0);
        let read = shard.ring.timeout(TUNNEL_IDLE, tunnel.read(buffer)).await;
        let Ok((read, returned)) = read else { return End::Broken };
        buffer = returned;
        let count = match read {
            Ok(0) => break,
            Ok(count) => count,
            Err(_) => return End::Broken,
        };
        sent.set(sent.get() + count as u64);
        // A viewer that ended its side before it left is missed only here: there is no more to receive from it.
        if !shard.ring.send_owned(viewer.socket, take_front(&mut buffer, count)) {
            return End::Broken;
        }
        if shard.ring.queued_len(viewer.socket) > SEND_WINDOW && shard.flush(viewer).await.is_err() {
            return End::Broken;
        }
    }
    if shard.flush(viewer).await.is_err() {
        return End::Broken;
    }
    shard.ring.shut_sending(viewer.socket);
    End::Orderly
}
