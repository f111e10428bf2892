//! The body of a viewer's request, taken from the connection's inbox as it arrives and handed to the origin client.
//!
//! Feeds `OriginClient::fetch`; fed by `Shard::received`. Framing is that of `core/wire`. Invariant: exactly the bytes of
//! this body are taken, so that what follows in the inbox is the next request.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use aspis_exchange::response_head::CONTINUE;
use aspis_telemetry::Counter;
use aspis_wire::chunked::ChunkedDecoder;
use aspis_wire::request::RequestFraming;

use crate::limits::RELAY_BUFFER_LEN;
use crate::origin::{BodyGone, RequestBody};
use crate::shard::Shard;
use crate::viewer::Viewer;

/// What a request body still has to bring.
enum Missing {
    Length(u64),
    Chunks(ChunkedDecoder),
    Nothing,
}

/// The body of one request.
pub(crate) struct ViewerBody {
    shard: Rc<Shard>,
    viewer: Rc<Viewer>,
    missing: Missing,
    /// The viewer waits for `100 Continue` before it sends.
    expects_continue: bool,
    taken: u64,
    /// Why the body could not be read to its end, if so.
    fault: Option<BodyFault>,
    whole: Rc<Cell<bool>>,
}

/// Why a request body ended early. Each is the viewer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFault {
    /// The connection ended or broke inside the body.
    Ended,
    /// Nothing came for `--body-timeout`.
    Late,
    /// The chunked framing is broken.
    Malformed,
    /// More than `--request-body-max` (H-17).
    TooLarge,
}

impl BodyFault {
    /// The status that tells the viewer, where it can still be told.
    pub(crate) fn status(self) -> Option<u16> {
        match self {
            BodyFault::Ended => None,
            BodyFault::Late => Some(408),
            BodyFault::Malformed => Some(400),
            BodyFault::TooLarge => Some(413),
        }
    }
}

impl ViewerBody {
    /// Makes the body of a request whose head was just taken from the inbox.
    ///
    /// `whole` becomes true when its last byte was taken from the connection.
    pub(crate) fn new(
        shard: Rc<Shard>,
        viewer: Rc<Viewer>,
        framing: RequestFraming,
        expects_continue: bool,
        whole: Rc<Cell<bool>>,
    ) -> Self {
        let missing = match framing {
            RequestFraming::None | RequestFraming::Length(0) => Missing::Nothing,
            RequestFraming::Length(length) => Missing::Length(length),
            RequestFraming::Chunked => Missing::Chunks(ChunkedDecoder::default()),
        };
        whole.set(matches!(missing, Missing::Nothing));
        ViewerBody { shard, viewer, missing, expects_continue, taken: 0, fault: None, whole }
    }

    fn is_finished(&self) -> bool {
        matches!(self.missing, Missing::Nothing)
    }

    /// Tells why the body could not be read to its end.
    pub(crate) fn fault(&self) -> Option<BodyFault> {
        self.fault
    }

    fn fail(&mut self, fault: BodyFault) -> BodyGone {
        self.fault = Some(fault);
        BodyGone
    }

    /// Takes what the inbox has of this body. `Ok(empty)` means that more has to arrive.
    fn take(&mut self) -> Result<Vec<u8>, BodyFault> {
        let mut inbox = self.viewer.inbox.borrow_mut();
        let mut bytes = Vec::new();
        let used = match &mut self.missing {
            Missing::Nothing => 0,
            Missing::Length(missing) => {
                let count = (*missing).min(inbox.len().min(RELAY_BUFFER_LEN) as u64) as usize;
                bytes.extend_from_slice(&inbox[..count]);
                *missing -= count as u64;
                if *missing == 0 {
                    self.missing = Missing::Nothing;
                }
                count
            }
            Missing::Chunks(decoder) => {
                let mut used = 0;
                while bytes.len() < RELAY_BUFFER_LEN && !decoder.is_finished() {
                    let decoded = decoder.decode(&inbox[used..]).map_err(|_| BodyFault::Malformed)?;
                    bytes.extend_from_slice(decoded.data);
                    used += decoded.consumed;
                    if decoded.consumed == 0 {
                        break;
                    }
                }
                if decoder.is_finished() {
                    self.missing = Missing::Nothing;
                }
                used
            }
        };
        inbox.consume(used);
        self.whole.set(matches!(self.missing, Missing::Nothing));
        self.taken += bytes.len() as u64;
        Ok(bytes)
    }
}

impl RequestBody for ViewerBody {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, BodyGone> {
        // H-21: the field was removed on the way to the origin, so the viewer is answered here.
        if std::mem::take(&mut self.expects_continue) && !self.is_finished() {
            self.shard.ring.send_owned(self.viewer.socket, CONTINUE.to_vec());
        }
        let patience: Duration = self.shard.settings.body_timeout;
        loop {
            if let Some(fault) = self.fault {
                return Err(self.fail(fault));
            }
            let bytes = match self.take() {
                Ok(bytes) => bytes,
                Err(fault) => return Err(self.fail(fault)),
            };
            self.shard.unpause(&self.viewer);
            if self.taken > self.shard.settings.request_body_max {
                return Err(self.fail(BodyFault::TooLarge));
            }
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
            if self.is_finished() {
                return Ok(None);
            }
            if self.viewer.ended.get() || self.viewer.gone.get() {
                return Err(self.fail(BodyFault::Ended));
            }
            if self.shard.ring.timeout(patience, self.viewer.changed.notified()).await.is_err() {
                self.shard.counters.add(Counter::ViewerTimeoutBody, 1);
                return Err(self.fail(BodyFault::Late));
            }
        }
    }
}
