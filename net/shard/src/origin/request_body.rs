//! Sends a request's head and content to the origin, framed anew.
//!
//! Fed by the viewer side through [`RequestBody`] with content that is decoded already; driven by `client` while it
//! watches for an early answer, and by `body` if the answer comes before the content is sent. Invariants: `Content-Length`
//! is kept exactly, so content that ends early or runs over ends the connection; a chunked body is closed by its last
//! chunk only if the viewer's was; at most one piece of content is in our hands.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use aspis_runtime::Ring;
use aspis_wire::chunked;
use aspis_wire::request::RequestFraming;

use super::stream::{Stream, StreamError};

/// The viewer's content will not come: it left, or what it sent cannot be content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyGone;

/// A request's content, as the viewer side gives it.
pub trait RequestBody {
    /// The next piece, decoded; `None` after the last. A piece may be empty.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<u8>>, BodyGone>>;
}

/// For requests that have no content.
#[derive(Clone, Copy, Debug)]
pub enum NoBody {}

impl RequestBody for NoBody {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, BodyGone> {
        match *self {}
    }
}

/// A body that is lent to a fetch and can be had back: its owner wants to know how far it came, or to drain its rest.
///
/// One handle goes to [`OriginClient::fetch`](super::OriginClient::fetch), its clone stays. Once the owner has taken the
/// body back, the fetch finds it gone and gives up its request.
pub struct LentBody<B>(Rc<Cell<Option<B>>>);

impl<B> LentBody<B> {
    /// Lends `body`.
    pub fn new(body: B) -> Self {
        LentBody(Rc::new(Cell::new(Some(body))))
    }

    /// Takes the body back; `None` if that was done already or if a piece of it is being waited for right now.
    pub fn take_back(&self) -> Option<B> {
        self.0.take()
    }
}

impl<B> Clone for LentBody<B> {
    fn clone(&self) -> Self {
        LentBody(Rc::clone(&self.0))
    }
}

impl<B: RequestBody> RequestBody for LentBody<B> {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, BodyGone> {
        let mut used = Used { place: &self.0, body: Some(self.0.take().ok_or(BodyGone)?) };
        used.body.as_mut().expect("only `drop` takes it").next().await
    }
}

/// Puts a body back into its place, also when the wait for a piece was given up.
struct Used<'p, B> {
    place: &'p Cell<Option<B>>,
    body: Option<B>,
}

impl<B> Drop for Used<'_, B> {
    fn drop(&mut self) {
        self.place.set(self.body.take());
    }
}

/// Why a request was not sent whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendFailure {
    /// The viewer's side ended.
    BodyGone,
    /// The origin did not take it. Its answer may explain why.
    Origin(StreamError),
    /// The origin took nothing for the read timeout.
    Stalled,
}

/// Where a request's bytes go.
pub(crate) struct Outlet {
    pub(crate) ring: Ring,
    pub(crate) stream: Rc<Stream>,
    /// How long the origin may take for one piece.
    pub(crate) piece_timeout: Duration,
}

impl Outlet {
    async fn write(&self, bytes: Vec<u8>) -> Result<(), SendFailure> {
        match self.ring.timeout(self.piece_timeout, self.stream.write(bytes)).await {
            Ok(written) => written.map_err(SendFailure::Origin),
            Err(_) => Err(SendFailure::Stalled),
        }
    }
}

/// Sends `head` and then all of `body`.
pub(crate) async fn send<B: RequestBody>(
    outlet: Outlet,
    head: Vec<u8>,
    framing: RequestFraming,
    body: B,
) -> Result<(), SendFailure> {
    outlet.write(head).await?;
    match framing {
        RequestFraming::None => Ok(()),
        RequestFraming::Length(length) => send_exactly(&outlet, length, body).await,
        RequestFraming::Chunked => send_chunked(&outlet, body).await,
    }
}

async fn send_exactly<B: RequestBody>(outlet: &Outlet, length: u64, mut body: B) -> Result<(), SendFailure> {
    let mut left = length;
    while left > 0 {
        let Some(piece) = body.next().await.map_err(|BodyGone| SendFailure::BodyGone)? else {
            return Err(SendFailure::BodyGone);
        };
        if piece.is_empty() {
            continue;
        }
        left = left.checked_sub(piece.len() as u64).ok_or(SendFailure::BodyGone)?;
        outlet.write(piece).await?;
    }
    Ok(())
}

async fn send_chunked<B: RequestBody>(outlet: &Outlet, mut body: B) -> Result<(), SendFailure> {
    while let Some(piece) = body.next().await.map_err(|BodyGone| SendFailure::BodyGone)? {
        // An empty chunk would end the body.
        if piece.is_empty() {
            continue;
        }
        let mut header = [0; 18];
        let header = chunked::chunk_header(piece.len(), &mut header);
        let mut framed = Vec::with_capacity(header.len() + piece.len() + 2);
        framed.extend_from_slice(header);
        framed.extend_from_slice(&piece);
        framed.extend_from_slice(b"\r\n");
        outlet.write(framed).await?;
    }
    outlet.write(chunked::LAST_CHUNK.to_vec()).await
}
