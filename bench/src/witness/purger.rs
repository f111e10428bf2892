//! An operator who invalidates all the time: paths, prefixes and tags, hard and soft, waiting for completion or not.

use super::Meeting;
use super::site::TAGS;
use crate::admin::Admin;
use crate::random::Random;
use crate::wait;
use serde_json::json;
use std::time::Duration;

/// Between two batches.
const PAUSE_MAX_MS: u64 = 30;

/// Invalidates until the meeting is over.
pub(crate) fn run(meeting: &Meeting<'_>, seed: u64) {
    let mut random = Random::new(seed);
    let mut admin = match Admin::connect(meeting.admin) {
        Ok(admin) => admin,
        Err(error) => return meeting.broke(format!("cannot connect to the admin port: {error}")),
    };
    let ledger = meeting.ledger;
    let objects = &ledger.site.objects;
    while !meeting.is_over() {
        wait::pause(Duration::from_millis(random.between(0, PAUSE_MAX_MS)));
        let picked = (random.next() % objects.len() as u64) as usize;
        let (named, mut document): (Vec<usize>, _) = match random.between(0, 9) {
            0 => {
                let tag = random.next() % TAGS;
                let named = (0..objects.len()).filter(|at| objects[*at].tag == tag);
                (named.collect(), json!({ "tags": [format!("tag-{tag}")] }))
            }
            1 => {
                let front = &objects[picked].path;
                let named = (0..objects.len()).filter(|at| objects[*at].path.starts_with(front.as_str()));
                (named.collect(), json!({ "paths": [format!("{front}*")] }))
            }
            2..=4 => {
                let another = (random.next() % objects.len() as u64) as usize;
                let paths = [&objects[picked].path, &objects[another].path];
                (vec![picked, another], json!({ "paths": paths }))
            }
            _ => (vec![picked], json!({ "paths": [&objects[picked].path] })),
        };
        let is_soft = random.chance(25);
        document["soft"] = json!(is_soft);
        let waits = random.chance(60);
        // What is newer than this was asked for after the change, and may stay.
        let changed: Vec<(usize, u64)> = named.iter().map(|at| (*at, ledger.change(*at))).collect();
        let target = if waits { "/v1/invalidations?wait=20" } else { "/v1/invalidations" };
        match admin.ask("POST", target, Some(&document)) {
            Ok((201, told)) => {
                let is_completed = told["status"] == "Completed";
                for (at, version) in changed {
                    ledger.accepted(at, version);
                    if is_completed {
                        ledger.invalidated(
                            at,
                            version,
                            if is_soft { "a soft invalidation" } else { "an invalidation" },
                        );
                    }
                }
                meeting.note(|tally| {
                    tally.purges.0 += u64::from(is_completed);
                    tally.purges.1 += u64::from(!is_completed);
                });
                if waits && !is_completed {
                    meeting.fault(format!("{document} is not completed after 20 s: {told}"));
                }
            }
            Ok((status, told)) => meeting.fault(format!("{document} was answered {status} {told}")),
            Err(error) => return meeting.broke(format!("{document}: {error}")),
        }
    }
}
