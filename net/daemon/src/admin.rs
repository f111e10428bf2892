//! The admin server: health, metrics, invalidations and what is asked about stored responses, on its own address and on the control thread.
//!
//! It shares nothing with the cores but their counters and mailboxes, so a flood of admin requests cannot slow a viewer by more than its share
//! of the machine. Connections are bounded in number and in time. Each path has one row in [`ROUTES`]; what may change something, or tells of
//! what is stored, asks the [`guard`] first.

mod guard;
mod listener;
mod query;
mod readiness;
pub(crate) mod reply;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use crate::explain::{self, Explains};
use crate::invalidations::{Invalidations, api};
use crate::memory::page::MemoryPage;
use crate::metrics::{Format, Metrics};
use crate::store::StorePage;
pub(crate) use guard::Guard;
use listener::{Acceptor, Socket};
pub(crate) use listener::{AdminListener, Reach, bind};
pub(crate) use query::Query;
pub(crate) use readiness::Readiness;
pub(crate) use reply::{Problem, Reply};

/// Most admin connections at a time; further ones wait in the listener's queue.
const CONNECTION_COUNT_MAX: usize = 256;
/// A connection may take this long to send a head, between two requests too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after an accept that failed, for example because no file is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the admin server answers from.
pub(crate) struct Admin {
    /// For `/readyz`.
    pub(crate) readiness: Arc<Readiness>,
    /// For `/metrics`.
    pub(crate) metrics: Metrics,
    /// For `/v1/memory`.
    pub(crate) memory: MemoryPage,
    /// For `/v1/store`; `None` without a store on disk.
    pub(crate) store: Option<StorePage>,
    /// For `/v1/invalidations`.
    pub(crate) invalidations: Arc<Invalidations>,
    /// For `/v1/explain`.
    pub(crate) cores: Arc<dyn Explains>,
    /// Who may ask for what.
    pub(crate) guard: Guard,
}

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Health,
    Ready,
    Metrics,
    Memory,
    Store,
    Invalidations,
    Invalidation,
    Explain,
}

/// Every path, with the methods that it takes. One that ends with a slash has a name behind it.
const ROUTES: &[(&str, Route, &str)] = &[
    ("/healthz", Route::Health, "GET, HEAD"),
    ("/readyz", Route::Ready, "GET, HEAD"),
    ("/metrics", Route::Metrics, "GET, HEAD"),
    ("/v1/memory", Route::Memory, "GET, HEAD"),
    ("/v1/store", Route::Store, "GET, HEAD"),
    ("/v1/invalidations", Route::Invalidations, "GET, HEAD, POST"),
    ("/v1/invalidations/", Route::Invalidation, "GET, HEAD"),
    ("/v1/explain", Route::Explain, "GET, HEAD"),
];

/// Serves until the runtime ends.
pub(crate) async fn serve(listener: AdminListener, admin: Arc<Admin>) {
    let acceptor = match listener.into_async() {
        Ok(acceptor) => acceptor,
        Err(error) => return tracing::error!("the admin server cannot start: {error}"),
    };
    let places = Arc::new(Semaphore::new(CONNECTION_COUNT_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes the semaphore");
        let socket = match accept(&acceptor).await {
            Some(socket) => socket,
            None => continue,
        };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            match socket {
                Socket::Tcp(socket) => converse(socket, admin).await,
                Socket::Unix(socket) => converse(socket, admin).await,
            }
            drop(place);
        });
    }
}

async fn accept(acceptor: &Acceptor) -> Option<Socket> {
    match acceptor.accept().await {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::warn!("the admin server cannot accept: {error}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn converse(socket: impl AsyncRead + AsyncWrite + Unpin, admin: Arc<Admin>) {
    let service = service_fn(|request: Request<Incoming>| {
        let admin = Arc::clone(&admin);
        async move { Ok::<_, Infallible>(admin.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(socket), service);
    // What a peer does to its own admin connection concerns nobody else.
    let _ = connection.await;
}

impl Admin {
    /// Reads again what the operator may have changed.
    pub(crate) fn reload(&self) {
        self.guard.reload();
    }

    /// Answers one request.
    async fn answer<B>(&self, request: Request<B>) -> Reply
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = request.uri().path();
        let found = ROUTES.iter().find(|(known, ..)| match known.strip_suffix('/') {
            Some(_) => path.strip_prefix(known).is_some_and(|name| !name.is_empty() && !name.contains('/')),
            None => path == *known,
        });
        let Some((prefix, route, methods)) = found else {
            return reply::text(
                StatusCode::NOT_FOUND,
                "not found: try /healthz, /readyz, /metrics, /v1/invalidations or /v1/explain\n",
            );
        };
        if !methods.split(", ").any(|method| request.method().as_str() == method) {
            let detail = format!("{path} takes {methods}");
            let mut refusal = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", detail).reply();
            refusal.headers_mut().insert(ALLOW, methods.parse().expect("methods are a field's value"));
            return refusal;
        }
        let name = path[prefix.len()..].to_owned();
        match self.routed(*route, &name, request).await {
            Ok(answer) => answer,
            Err(problem) => problem.reply(),
        }
    }

    async fn routed<B>(&self, route: Route, name: &str, request: Request<B>) -> Result<Reply, Problem>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (target, fields) = (request.uri(), request.headers());
        if !matches!(route, Route::Health | Route::Ready | Route::Metrics) {
            self.guard.may_read(target, fields)?;
        }
        match route {
            Route::Health => Ok(reply::text(StatusCode::OK, "ok\n")),
            Route::Ready => Ok(self.readiness.reply()),
            Route::Metrics => {
                let format = Format::accepted(fields.get(ACCEPT).and_then(|value| value.to_str().ok()));
                Ok(reply::reply(StatusCode::OK, format.content_type(), self.metrics.render(format)))
            }
            Route::Memory => Ok(reply::reply(StatusCode::OK, "application/json", self.memory.json())),
            Route::Store => match &self.store {
                Some(page) => Ok(reply::json(StatusCode::OK, &page.json())),
                None => Err(Problem::new(
                    StatusCode::NOT_FOUND,
                    "store",
                    "there is no store on disk: --disk is not given",
                )),
            },
            Route::Invalidations if request.method() == Method::POST => {
                self.guard.may_change(target, fields)?;
                guard::is_json(fields)?;
                Ok(api::create(&self.invalidations, request).await)
            }
            Route::Invalidations => {
                Ok(api::list(&self.invalidations, &Query::of(target, &["marker", "max_items"])?))
            }
            Route::Invalidation => {
                let query = Query::of(target, &["wait"])?;
                Ok(api::read(&self.invalidations, name, &query).await)
            }
            Route::Explain => {
                let query = Query::of(target, &["url"])?;
                explain::answer(&*self.cores, &query).await
            }
        }
    }
}

#[cfg(test)]
mod tests;
