//! One admin connection: its bytes become requests, and what the routes say becomes bytes.
//!
//! The strict parser of `core/wire` reads the heads, as it does for viewers and origins. An answer leaves with one write; pipelined requests are
//! answered one after the other. Everything has a bound: a head in length and time, content in length, time and number, an answer in the time
//! in which its reader takes nothing. Who goes away while an answer is waited for is noticed.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use aspis_wire::request::{RequestError, RequestHead, parse_request};
use aspis_wire::{FieldSlots, HeadLimits, Method, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::alarm::Alarm;
use super::content::Content;
use super::reply::{After, Problem, Reply};
use super::{Admin, Step};
use crate::invalidations::limits::{BODY_LEN_MAX, BODY_TIMEOUT};

/// A head may take this long to come, counted from the answer before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A reader who takes nothing of an answer for this long is gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Who was refused may go on sending for this long: a connection that ends with bytes unread may take the answer with it.
const LINGER: Duration = Duration::from_secs(1);
/// What a head may have. A target can hold the longest URL, percent-encoded.
const LIMITS: HeadLimits =
    HeadLimits { head_len_max: 64 << 10, target_len_max: 52 << 10, ..HeadLimits::DEFAULT };
/// Room for one read, which is made when there is less than the other.
const READ_LEN: usize = 4 << 10;
const READ_LEN_MIN: usize = 1 << 10;
/// Longer buffers are given back when they are empty.
const KEPT_LEN_MAX: usize = 16 << 10;

// Beside the target there is room for fields.
const _: () = assert!(LIMITS.target_len_max + (8 << 10) <= LIMITS.head_len_max);
const _: () = assert!(3 * crate::explain::URL_LEN_MAX + (1 << 10) <= LIMITS.target_len_max);

/// Answers requests until the peer, a limit or an error ends it. What a peer does to its own connection concerns nobody else.
pub(super) async fn converse(socket: impl AsyncRead + AsyncWrite + Unpin, admin: &Admin) {
    let mut connection = Connection { socket, unread: Vec::new(), answer: Vec::new(), alarm: Alarm::new() };
    while connection.exchange(admin).await.is_ok() {}
}

struct Connection<S> {
    socket: S,
    /// What came and was not read yet.
    unread: Vec<u8>,
    /// The answer, as it leaves.
    answer: Vec<u8>,
    alarm: Alarm,
}

/// The connection ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// What was waited for took too long.
    Late,
    /// The peer is gone, or was answered for the last time.
    Gone,
}

/// What a head says.
struct Asked {
    step: Step,
    content: Content,
    head_len: usize,
    /// Whether the answer is its head alone.
    is_head: bool,
    /// What becomes of the connection, as far as the peer says.
    after: After,
    expects_continue: bool,
}

impl Asked {
    fn of(head: &RequestHead<'_, '_>, admin: &Admin) -> Self {
        let after = match (head.keep_alive, head.version) {
            (false, _) => After::Close,
            (true, Version::Http10) => After::KeepAndSay,
            (true, Version::Http11) => After::Keep,
        };
        Asked {
            step: admin.step(head),
            content: Content::new(head.framing),
            head_len: head.len,
            is_head: head.method == Method::Head,
            after,
            expects_continue: head.expect_continue,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Answers one request.
    async fn exchange(&mut self, admin: &Admin) -> Result<(), End> {
        let asked = match self.head(admin).await? {
            Ok(asked) => asked,
            Err(error) => {
                let problem = Problem::new(error.status(), "request", error.as_str());
                return self.refuse(&problem.reply(), false).await;
            }
        };
        let Asked { step, mut content, is_head, .. } = asked;
        self.unread.drain(..asked.head_len);
        let task = match step {
            Step::Answer(task) => task,
            Step::Take { wait } => match self.content(&mut content, asked.expects_continue, admin).await {
                Ok(()) => admin.take(content.bytes(), wait),
                Err(problem) => return self.refuse(&problem.reply(), is_head).await,
            },
        };
        let work = admin.reply(task, &mut self.alarm);
        let reply = while_there(&mut self.socket, &mut self.unread, work).await.ok_or(End::Gone)?;
        // Content that nobody wanted is passed over if it is there. Else nobody can tell where the next request begins.
        if content.take(&mut self.unread) != Ok(true) {
            return self.refuse(&reply, is_head).await;
        }
        self.send(&reply, is_head, asked.after).await?;
        if asked.after == After::Close { Err(End::Gone) } else { Ok(()) }
    }

    /// Waits for a head.
    async fn head(&mut self, admin: &Admin) -> Result<Result<Asked, RequestError>, End> {
        let end = Instant::now() + HEAD_TIMEOUT;
        if self.unread.is_empty() && self.unread.capacity() > KEPT_LEN_MAX {
            self.unread = Vec::new();
        }
        loop {
            match parse_request(&self.unread, &mut FieldSlots::new(), &LIMITS) {
                Ok(Some(head)) => return Ok(Ok(Asked::of(&head, admin))),
                Ok(None) => {}
                Err(error) => return Ok(Err(error)),
            }
            self.more(end).await?;
        }
    }

    /// Reads content within its limits.
    async fn content(
        &mut self,
        content: &mut Content,
        expects_continue: bool,
        admin: &Admin,
    ) -> Result<(), Problem> {
        let late = || Problem::new(408, "body", "the body did not come in time");
        let end = Instant::now() + BODY_TIMEOUT;
        let place = self.alarm.until(end, admin.invalidations.bodies().acquire()).await;
        let _place = place.ok_or_else(late)?;
        let mut to_say: &[u8] = if expects_continue { b"HTTP/1.1 100 Continue\r\n\r\n" } else { b"" };
        loop {
            let is_whole = content.take(&mut self.unread);
            if content.len() > BODY_LEN_MAX as u64 {
                return Err(Problem::new(
                    413,
                    "body-too-long",
                    format!("the body is longer than {BODY_LEN_MAX} bytes: send several requests"),
                ));
            }
            if is_whole.map_err(|error| Problem::bad("body", error.as_str()))? {
                return Ok(());
            }
            if !to_say.is_empty() {
                // Who does not take it does not send either.
                let _ = self.alarm.until(end, self.socket.write_all(std::mem::take(&mut to_say))).await;
            }
            match self.more(end).await {
                Ok(()) => {}
                Err(End::Late) => return Err(late()),
                Err(End::Gone) => return Err(Problem::bad("body", "the body broke off")),
            }
        }
    }

    /// Waits for bytes.
    async fn more(&mut self, end: Instant) -> Result<(), End> {
        if self.unread.capacity() - self.unread.len() < READ_LEN_MIN {
            self.unread.reserve(READ_LEN);
        }
        let read = poll_fn(|context| poll_read(&mut self.socket, &mut self.unread, context));
        match self.alarm.until(end, read).await {
            Some(true) => Ok(()),
            Some(false) => Err(End::Gone),
            None => Err(End::Late),
        }
    }

    /// Sends an answer.
    async fn send(&mut self, reply: &Reply, is_head: bool, after: After) -> Result<(), End> {
        self.answer.clear();
        reply.write(&mut self.answer, is_head, after);
        let mut rest = &self.answer[..];
        while !rest.is_empty() {
            match self.alarm.until(Instant::now() + ANSWER_TIMEOUT, self.socket.write(rest)).await {
                Some(Ok(sent)) if sent > 0 => rest = &rest[sent..],
                _ => return Err(End::Gone),
            }
        }
        if self.answer.capacity() > KEPT_LEN_MAX {
            self.answer = Vec::new();
        }
        Ok(())
    }

    /// Answers for the last time, while the peer may still be sending.
    async fn refuse(&mut self, reply: &Reply, is_head: bool) -> Result<(), End> {
        self.send(reply, is_head, After::Close).await?;
        let end = Instant::now() + LINGER;
        let _ = self.alarm.until(end, self.socket.shutdown()).await;
        loop {
            self.unread.clear();
            self.more(end).await?;
        }
    }
}

/// Reads what is there behind `unread`, as much as there is room for; false at the end or an error.
fn poll_read(
    socket: &mut (impl AsyncRead + Unpin),
    unread: &mut Vec<u8>,
    context: &mut Context<'_>,
) -> Poll<bool> {
    let read = pin!(socket.read_buf(unread));
    read.poll(context).map(|read| read.is_ok_and(|count| count > 0))
}

/// Waits for `work`, but not when the peer has gone away. What it sends meanwhile is read as far as there is room.
async fn while_there<T>(
    socket: &mut (impl AsyncRead + Unpin),
    unread: &mut Vec<u8>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        while unread.len() < unread.capacity() {
            match poll_read(socket, unread, context) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(None),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests;
