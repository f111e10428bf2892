//! Many viewers at once, each with a connection of its own, so that they are spread over all cores.

use super::{Aspis, Broken, Response, Viewer};
use std::collections::BTreeMap;

/// Viewers that act together.
pub(crate) struct Crowd {
    viewers: Vec<Viewer>,
}

impl Crowd {
    #[track_caller]
    pub(crate) fn connect(aspis: &Aspis, count: usize) -> Self {
        Self { viewers: (0..count).map(|_| Viewer::connect(aspis)).collect() }
    }

    /// Connects and GETs a target.
    #[track_caller]
    pub(crate) fn asking(aspis: &Aspis, count: usize, target: &str) -> Self {
        let mut crowd = Self::connect(aspis, count);
        crowd.ask("GET", target, "");
        crowd
    }

    /// Every viewer sends the same request.
    #[track_caller]
    pub(crate) fn ask(&mut self, method: &str, target: &str, fields: &str) {
        for viewer in &mut self.viewers {
            viewer.ask(method, target, fields);
        }
    }

    /// Reads what each viewer gets, all at the same time.
    pub(crate) fn try_responses(&mut self) -> Vec<Result<Response, Broken>> {
        std::thread::scope(|scope| {
            let reading: Vec<_> =
                self.viewers.iter_mut().map(|viewer| scope.spawn(|| viewer.try_response())).collect();
            reading.into_iter().map(|each| each.join().expect("reading does not panic")).collect()
        })
    }

    /// Reads one complete response for each.
    #[track_caller]
    pub(crate) fn responses(&mut self) -> Vec<Response> {
        let mut broken = Vec::new();
        let mut whole = Vec::new();
        for each in self.try_responses() {
            match each {
                Ok(response) => whole.push(response),
                Err(why) => broken.push(why),
            }
        }
        assert!(
            broken.is_empty(),
            "{} of {} got no answer: {:?}",
            broken.len(),
            self.viewers.len(),
            broken[0]
        );
        whole
    }

    /// Every viewer GETs the target; returns the answers.
    #[track_caller]
    pub(crate) fn get(&mut self, target: &str) -> Vec<Response> {
        self.ask("GET", target, "");
        self.responses()
    }

    /// All leave by a reset.
    pub(crate) fn reset(self) {
        self.viewers.into_iter().for_each(Viewer::reset);
    }

    pub(crate) fn each(&mut self) -> impl Iterator<Item = &mut Viewer> {
        self.viewers.iter_mut()
    }
}

/// Counts the first words of `X-Cache`.
#[track_caller]
pub(crate) fn results(responses: &[Response]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for response in responses {
        *counts.entry(response.x_cache()).or_default() += 1;
    }
    counts
}

/// Asserts that each answer is a 200 with this body.
#[track_caller]
pub(crate) fn expect_bodies(responses: &[Response], body: &[u8]) {
    for response in responses {
        assert_eq!(response.status(), 200, "{response:?}");
        assert!(response.body == body, "another body than expected: {response:?}");
    }
}

impl Aspis {
    /// Waits until so many requests are being answered: those that were sent have arrived.
    #[track_caller]
    pub(crate) fn wait_for_requests(&self, count: usize) {
        self.wait_for_metric("aspis_requests_running", count as u64);
    }

    /// Waits until so many requests since the start have found nothing fresh and have been given their place: to fetch, to wait or alone.
    #[track_caller]
    pub(crate) fn wait_for_places(&self, count: usize) {
        self.wait_for_metric("aspis_collapse_total", count as u64);
    }
}
