//! The admin server: health, metrics, invalidations and what is asked about stored responses, on its own address and on the control thread.
//!
//! It shares nothing with the cores but their counters and mailboxes, so a flood of admin requests cannot slow a viewer by more than its share
//! of the machine. Connections are bounded in number and in time. Each path has one row in [`ROUTES`]; what may change something, or tells of
//! what is stored, asks the [`guard`] first.

mod alarm;
mod connection;
mod content;
mod guard;
mod listener;
mod query;
mod readiness;
pub(crate) mod reply;

use std::sync::Arc;
use std::time::Duration;

use aspis_wire::Method;
use aspis_wire::request::RequestHead;
use tokio::sync::Semaphore;

use crate::explain::{self, Explains};
use crate::invalidations::{Invalidations, api};
use crate::memory::page::MemoryPage;
use crate::metrics::{Format, Metrics};
use crate::store::StorePage;
pub(crate) use alarm::Alarm;
use connection::converse;
pub(crate) use guard::Guard;
use listener::{Acceptor, Socket};
pub(crate) use listener::{AdminListener, Reach, bind};
pub(crate) use query::Query;
pub(crate) use readiness::Readiness;
pub(crate) use reply::{Problem, Reply};

/// Most admin connections at a time; further ones wait in the listener's queue.
const CONNECTION_COUNT_MAX: usize = 256;
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
                Socket::Tcp(socket) => converse(socket, &admin).await,
                Socket::Unix(socket) => converse(socket, &admin).await,
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

/// What comes next for a request whose head was looked at.
enum Step {
    /// Its content is an invalidation; the query may say how long to wait for it.
    Take { wait: Option<Duration> },
    /// Nothing more of it is wanted.
    Answer(Task),
}

/// What an answer waits for.
enum Task {
    /// Nothing.
    Say(Reply),
    /// An invalidation that was accepted.
    Accepted(api::Accepted),
    /// How far this one is.
    Invalidation { id: String, query: Query },
    /// The core that owns a URL.
    Explain(Query),
}

impl Admin {
    /// Reads again what the operator may have changed.
    pub(crate) fn reload(&self) {
        self.guard.reload();
    }

    /// Looks at a head: what it asks for, and whether it may.
    fn step(&self, head: &RequestHead<'_, '_>) -> Step {
        let (path, query) = head.path_and_query.split_once('?').unwrap_or((head.path_and_query, ""));
        let found = ROUTES.iter().find(|(known, ..)| match known.strip_suffix('/') {
            Some(_) => path.strip_prefix(known).is_some_and(|name| !name.is_empty() && !name.contains('/')),
            None => path == *known,
        });
        let Some((prefix, route, methods)) = found else {
            let help = "not found: try /healthz, /readyz, /metrics, /v1/invalidations or /v1/explain\n";
            return Step::Answer(Task::Say(reply::text(404, help)));
        };
        if !methods.split(", ").any(|method| head.method.as_str() == method) {
            let refusal = Problem::new(405, "method", format!("{path} takes {methods}"));
            return Step::Answer(Task::Say(refusal.with("allow", methods).reply()));
        }
        let name = &path[prefix.len()..];
        let step = self.routed(*route, name, query, head);
        step.unwrap_or_else(|problem| Step::Answer(Task::Say(problem.reply())))
    }

    fn routed(
        &self,
        route: Route,
        name: &str,
        query: &str,
        head: &RequestHead<'_, '_>,
    ) -> Result<Step, Problem> {
        if !matches!(route, Route::Health | Route::Ready | Route::Metrics) {
            self.guard.may_read(head)?;
        }
        let reply = match route {
            Route::Health => reply::text(200, "ok\n"),
            Route::Ready => self.readiness.reply(),
            Route::Metrics => {
                let format =
                    Format::accepted(head.field("accept").and_then(|value| str::from_utf8(value).ok()));
                reply::reply(200, format.content_type(), self.metrics.render(format))
            }
            Route::Memory => reply::reply(200, "application/json", self.memory.json()),
            Route::Store => match &self.store {
                Some(page) => reply::json(200, &page.json()),
                None => {
                    return Err(Problem::new(404, "store", "there is no store on disk: --disk is not given"));
                }
            },
            Route::Invalidations if head.method == Method::Post => {
                self.guard.may_change(head)?;
                guard::is_json(head)?;
                let wait = api::wait_of(&Query::of(query, &["wait"])?)?;
                return Ok(Step::Take { wait });
            }
            Route::Invalidations => {
                api::list(&self.invalidations, &Query::of(query, &["marker", "max_items"])?)
            }
            Route::Invalidation => {
                let (id, query) = (name.to_owned(), Query::of(query, &["wait"])?);
                return Ok(Step::Answer(Task::Invalidation { id, query }));
            }
            Route::Explain => return Ok(Step::Answer(Task::Explain(Query::of(query, &["url"])?))),
        };
        Ok(Step::Answer(Task::Say(reply)))
    }

    /// Takes the content of a request that has some.
    fn take(&self, content: &[u8], wait: Option<Duration>) -> Task {
        match api::accept(&self.invalidations, content, wait) {
            Ok(accepted) => Task::Accepted(accepted),
            Err(problem) => Task::Say(problem.reply()),
        }
    }

    /// Answers when that can be answered.
    async fn reply(&self, task: Task, alarm: &mut Alarm) -> Reply {
        match task {
            Task::Say(reply) => reply,
            Task::Accepted(accepted) => api::kept(&self.invalidations, accepted, alarm).await,
            Task::Invalidation { id, query } => api::read(&self.invalidations, &id, &query).await,
            Task::Explain(query) => {
                explain::answer(&*self.cores, &query).await.unwrap_or_else(|problem| problem.reply())
            }
        }
    }
}

#[cfg(test)]
mod tests;
