//! Every case of the smuggling corpus becomes exactly the messages that it says, or is refused with its status,
//! however its bytes arrive.

#[path = "corpus/reader.rs"]
mod reader;
mod support;

use aspis_wire::Method;
use reader::{Case, Expected};
use support::{Event, Side, read_connection};

/// What the connection must carry; the steps after a refusal or a wait are never reached.
fn expected(case: &Case) -> Vec<Event> {
    let event = |step: &reader::Step| match &step.expected {
        Expected::Message { content } => {
            Some(Event::Message { len: step.bytes.len(), content: content.clone().unwrap_or_default() })
        }
        Expected::UntilClose { content } => {
            Some(Event::UntilClose { content: content.clone().unwrap_or_default() })
        }
        Expected::Refused(status) => Some(Event::Refused(*status)),
        Expected::Incomplete => None,
    };
    case.steps.iter().filter_map(event).collect()
}

/// Forgets the content of messages whose case does not tell it.
fn compared(case: &Case, mut events: Vec<Event>) -> Vec<Event> {
    for (event, step) in events.iter_mut().zip(&case.steps) {
        let untold = matches!(
            step.expected,
            Expected::Message { content: None } | Expected::UntilClose { content: None }
        );
        match event {
            Event::Message { content, .. } | Event::UntilClose { content } if untold => content.clear(),
            _ => {}
        }
    }
    events
}

#[track_caller]
fn check(case: &Case, side: Side<'_>) {
    let bytes = case.bytes();
    // Byte by byte is quadratic in the harness's calls, so long cases take larger steps.
    let steps = if bytes.len() > 4_096 { [509, 4_093, bytes.len()] } else { [1, 7, bytes.len()] };
    for step in steps {
        let mut arrivals: Vec<usize> = (step..bytes.len()).step_by(step).collect();
        arrivals.push(bytes.len());
        let events = compared(case, read_connection(&bytes, &arrivals, side));
        assert_eq!(events, expected(case), "{side:?} case {} by {step} bytes", case.name);
    }
}

#[test]
fn no_request_of_the_corpus_is_read_in_two_ways() {
    for case in reader::requests() {
        check(&case, Side::Request);
    }
}

#[test]
fn no_response_of_the_corpus_is_read_in_two_ways() {
    for case in reader::responses() {
        check(&case, Side::Response(Method::from_text(&case.method)));
    }
}

#[test]
fn the_corpus_has_its_size() {
    let (requests, responses) = (reader::requests().len(), reader::responses().len());
    println!("{requests} requests, {responses} responses");
    assert!(requests >= 160 && responses >= 80 && requests + responses >= 240, "{requests} + {responses}");
    let refused = |cases: Vec<Case>| {
        let last = |case: &Case| matches!(case.steps.last(), Some(step) if matches!(step.expected, Expected::Refused(_)));
        cases.iter().filter(|case| last(case)).count()
    };
    assert!(refused(reader::requests()) + refused(reader::responses()) >= 200);
}

#[test]
fn the_escapes_of_the_corpus_mean_what_its_head_says() {
    assert_eq!(reader::unescape(r"a\r\n\t\\\x00\xff"), b"a\r\n\t\\\0\xff");
    assert_eq!(reader::unescape(r"\(2 a\(3 b)\r)c"), b"abbb\rabbb\rc");
}
