//! The judge finds what is planted: wrong bytes, foreign editions, what was invalidated, what is too stale, what is cut. And it finds nothing
//! where nothing is wrong.

use super::ledger::{Answer, Asked, Ledger};
use super::origin::Origin;
use super::site::{Edition, Site};
use super::viewer::Viewer;
use super::{Meeting, Tally};
use crate::http::{self, Head};
use crate::wait;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

fn ledger() -> Arc<Ledger> {
    Arc::new(Ledger::new(Site::new(5, 40)))
}

/// The right answer to a plain request for an edition of the first object.
fn right(ledger: &Ledger, edition: Edition) -> (Asked, Answer) {
    let len = ledger.object(0).content_len(edition);
    let asked = Asked { object: 0, variant: 0, least: 1, range: None, known: None, is_head: false };
    let answer =
        Answer { status: 200, etag: Some(edition.tag()), stated_len: Some(len), len, ..Answer::default() };
    (asked, answer)
}

#[test]
fn a_right_answer_is_right() {
    let ledger = ledger();
    let first = Edition { version: 1, variant: 0 };
    let (asked, answer) = right(&ledger, first);
    assert_eq!(ledger.judge(&asked, &answer), Ok(first));
    let ranged = Asked { range: Some((10, 20)), ..asked.clone() };
    let whole = answer.len;
    let part = Answer {
        status: 206,
        stated_len: Some(10),
        len: 10,
        content_range: Some(format!("bytes 10-19/{whole}")),
        ..answer.clone()
    };
    assert_eq!(ledger.judge(&ranged, &part), Ok(first));
    let known = Asked { known: Some(first), ..asked };
    assert_eq!(ledger.judge(&known, &Answer { status: 304, len: 0, ..answer }), Ok(first));
}

#[test]
fn each_lie_is_found() {
    let ledger = ledger();
    ledger.change(0);
    let second = Edition { version: 2, variant: 0 };
    let (asked, answer) = right(&ledger, second);
    assert!(ledger.judge(&asked, &answer).is_ok());
    let whole = answer.len;
    let tagged = |version, variant| Some(Edition { version, variant }.tag());
    let lies = [
        ("a wrong byte", Answer { wrong_at: Some(7), ..answer.clone() }),
        ("another variant", Answer { etag: tagged(2, 1), ..answer.clone() }),
        ("a version that there is not", Answer { etag: tagged(3, 0), ..answer.clone() }),
        ("one whose length it does not have", Answer { etag: tagged(1, 0), ..answer.clone() }),
        ("none", Answer { etag: None, ..answer.clone() }),
        ("a short body", Answer { len: whole - 1, stated_len: None, ..answer.clone() }),
        ("a short length", Answer { stated_len: Some(whole - 1), ..answer.clone() }),
        ("an error", Answer { status: 502, ..answer.clone() }),
        ("a part that nobody asked for", Answer { status: 206, ..answer.clone() }),
        ("no content", Answer { status: 304, len: 0, ..answer.clone() }),
    ];
    for (lie, answer) in lies {
        assert!(ledger.judge(&asked, &answer).is_err(), "{lie} passed");
    }
    let ranged = Asked { range: Some((10, 20)), ..asked.clone() };
    let shifted = Answer {
        status: 206,
        content_range: Some(format!("bytes 11-20/{whole}")),
        stated_len: Some(10),
        len: 10,
        ..answer
    };
    assert!(ledger.judge(&ranged, &shifted).is_err(), "a shifted part passed");
    let known = Asked { known: Some(Edition { version: 1, variant: 0 }), ..asked };
    let unchanged = Answer { status: 304, etag: tagged(2, 0), ..Answer::default() };
    assert!(ledger.judge(&known, &unchanged).is_err(), "an edition that the viewer does not have passed");
}

#[test]
fn what_was_invalidated_may_not_come_again() {
    let ledger = ledger();
    let object = (0..40).find(|at| ledger.object(*at).lifetime > 60).unwrap();
    let least = || ledger.least(object, Instant::now());
    assert_eq!(ledger.change(object), 2);
    assert_eq!(least(), 1, "nothing was said");
    ledger.accepted(object, 2);
    assert_eq!(least(), 1, "not before it is done");
    ledger.restarted();
    assert_eq!(least(), 2, "the next process must know");
    ledger.change(object);
    ledger.invalidated(object, 3, "POST");
    ledger.invalidated(object, 2, "POST");
    assert_eq!(least(), 3);
}

#[test]
fn what_lives_shortly_may_not_be_stale_for_long() {
    let ledger = ledger();
    let object = (0..40).find(|at| ledger.object(*at).lifetime < 60).unwrap();
    let changed = Instant::now();
    ledger.change(object);
    assert_eq!(ledger.least(object, changed), 1);
    assert_eq!(ledger.least(object, changed + Duration::from_secs(3)), 1);
    assert_eq!(ledger.least(object, changed + Duration::from_secs(5)), 2);
}

/// Viewers before a server that is none: what they tell of it.
fn tally_of(ledger: &Ledger, address: SocketAddr, work: impl FnOnce(&Meeting<'_>)) -> Tally {
    let meeting = Meeting::new(ledger, address, address);
    work(&meeting);
    meeting.tally()
}

#[test]
fn an_honest_server_is_without_fault() {
    let ledger = ledger();
    let origin = Origin::start(&ledger).unwrap();
    let tally = tally_of(&ledger, origin.address(), |meeting| {
        Viewer::new(meeting, 1).look_at_all(0, 1);
        thread::scope(|scope| {
            for seed in 2..4 {
                scope.spawn(move || Viewer::new(meeting, seed).run());
            }
            wait::until(Duration::from_secs(20), || {
                let seen = meeting.tally();
                seen.parts > 5 && seen.unchanged > 0 && seen.posts > 2 && seen.left > 2
            });
            meeting.end();
        });
    });
    assert_eq!(tally.faults, Vec::<String>::new());
    assert!(tally.answers > 40 && tally.parts > 5 && tally.posts > 2, "{tally:?}");
}

/// Serves the first version of whatever is asked for, with its byte number `flipped` flipped.
fn liar(ledger: &Arc<Ledger>, flipped: Option<usize>) -> SocketAddr {
    let ledger = Arc::clone(ledger);
    let answer = move |mut stream: &TcpStream, head: &Head| {
        let (_, path) = head.request_line().unwrap();
        let object = ledger.object(ledger.site.find(path).unwrap());
        let edition = Edition { version: 1, variant: 0 };
        let mut body = vec![0; object.content_len(edition) as usize];
        object.content(edition).fill(0, &mut body);
        if let Some(byte) = flipped.and_then(|at| body.get_mut(at)) {
            *byte ^= 0x10;
        }
        let (tag, len) = (edition.tag(), body.len());
        let head = format!("HTTP/1.1 200 OK\r\nETag: {tag}\r\nContent-Length: {len}\r\n\r\n");
        stream.write_all(&[head.into_bytes(), body].concat())
    };
    http::serve(answer).unwrap()
}

#[test]
fn a_flipped_byte_and_an_old_version_are_found() {
    let plain = Arc::new(Ledger::new(Site { objects: ledger().site.objects[2..5].to_vec() }));
    // The paths carry the numbers of the whole site; the liar finds them by those of this one.
    let mut objects = plain.site.objects.clone();
    for (number, object) in objects.iter_mut().enumerate() {
        object.path = format!("/w5/{number}");
        (object.variants, object.lifetime, object.in_parts) = (1, 86_400, false);
    }
    let ledger = Arc::new(Ledger::new(Site { objects }));
    let address = liar(&ledger, Some(0));
    let look = |meeting: &Meeting<'_>| Viewer::new(meeting, 1).look_at_all(0, 1);
    let tally = tally_of(&ledger, address, look);
    assert_eq!((tally.faults.len(), tally.answers), (3, 0));
    assert!(tally.faults[0].contains("wrong byte at 0"), "{:?}", tally.faults);

    let honest_but_late = liar(&ledger, None);
    assert_eq!(tally_of(&ledger, honest_but_late, look).faults, Vec::<String>::new());
    let version = ledger.change(1);
    ledger.invalidated(1, version, "POST");
    let tally = tally_of(&ledger, honest_but_late, look);
    assert_eq!(tally.faults.len(), 1);
    assert!(tally.faults[0].contains("version 1 is served, least is 2"), "{:?}", tally.faults);
}
