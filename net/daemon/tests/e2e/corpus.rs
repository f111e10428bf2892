//! The smuggling corpus of the wire parser, sent at the whole server: refused, or re-framed to exactly one message.

use crate::support::{Broken, Launch, Origin, Viewer, find};
use reader::{Case, Expected, Step};
use std::sync::{Arc, Mutex};

#[path = "../../../../core/wire/tests/corpus/reader.rs"]
mod reader;

/// The content of every request that reached the origin whole, in order.
type Arrived = Arc<Mutex<Vec<Vec<u8>>>>;

fn take(arrived: &Arrived) -> Vec<Vec<u8>> {
    std::mem::take(&mut arrived.lock().expect("plain pushes do not panic"))
}

/// The method that a step's request line names.
fn method(step: &Step) -> String {
    let text = String::from_utf8_lossy(&step.bytes).into_owned();
    text.trim_start().split(' ').next().unwrap_or_default().to_owned()
}

/// RFC 9112 section 11.2: what the viewer's bytes become is told by the origin's side, not by us.
#[test]
fn requests_reach_the_origin_once_or_never() {
    let arrived = Arrived::default();
    let origin = {
        let arrived = arrived.clone();
        Origin::start(move |reply| {
            let mut body = Vec::new();
            if reply.body_into(&mut |piece| body.extend_from_slice(piece)) {
                arrived.lock().expect("plain pushes do not panic").push(body.clone());
                reply.answer(200, &[("Cache-Control", "no-store")], &body);
            }
        })
    };
    let aspis = Launch::before(&origin.url()).start();
    let cases = reader::requests();
    assert!(cases.len() >= 160, "{} cases", cases.len());
    let mut faults = Vec::new();
    for case in &cases {
        let mut viewer = Viewer::connect(&aspis);
        let _ = viewer.connection.send(&case.bytes());
        if let Err(fault) = answers(case, &mut viewer) {
            faults.push(format!("{}: {fault}", case.name));
        }
        let messages = case.steps.iter().filter_map(|step| match &step.expected {
            Expected::Message { content } => Some(content.clone()),
            _ => None,
        });
        let (whole, messages) = (take(&arrived), messages.collect::<Vec<_>>());
        let same = whole.len() == messages.len()
            && whole.iter().zip(&messages).all(|(body, told)| told.as_ref().is_none_or(|told| told == body));
        if !same {
            let shown =
                whole.iter().map(|body| String::from_utf8_lossy(body).into_owned()).collect::<Vec<_>>();
            faults.push(format!("{}: {} requests expected, {shown:?} arrived", case.name, messages.len()));
        }
    }
    let smuggled = origin.requests().into_iter().filter(|head| head.target().contains("smuggled")).count();
    assert_eq!(smuggled, 0, "smuggled requests reached the origin; {faults:#?}");
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());
}

/// Reads the answers to a case and compares them with what must become of its steps.
fn answers(case: &Case, viewer: &mut Viewer) -> Result<(), String> {
    for step in &case.steps {
        match &step.expected {
            Expected::Message { content } => {
                let response = final_response(viewer, &method(step))?;
                let fits = method(step) == "HEAD"
                    || content.as_ref().is_none_or(|content| *content == response.body);
                if response.status() != 200 || !fits {
                    return Err(format!("200 with its content expected: {response:?}"));
                }
            }
            Expected::Refused(status) => {
                let response = final_response(viewer, "GET")?;
                if response.status() != *status || !response.lists("connection", "close") {
                    return Err(format!("{status} and a close expected: {response:?}"));
                }
                return closed(viewer, "a refusal");
            }
            Expected::Incomplete => {
                // Nothing more will come: neither an answer of the origin nor a hang may follow.
                viewer.connection.finish_sending();
                let rest = viewer.rest();
                let refused = rest.starts_with(b"HTTP/1.1 4") || rest.is_empty();
                return if refused {
                    Ok(())
                } else {
                    Err(format!("answered: {:?}", String::from_utf8_lossy(&rest)))
                };
            }
            Expected::UntilClose { .. } => return Err("requests do not end with the connection".to_owned()),
        }
    }
    viewer.connection.finish_sending();
    closed(viewer, "the last message")
}

fn final_response(viewer: &mut Viewer, method: &str) -> Result<crate::support::Response, String> {
    loop {
        match viewer.try_response_to(method) {
            Ok(response) if response.status() == 100 => {}
            Ok(response) => return Ok(response),
            Err(broken) => return Err(format!("no answer: {broken:?}")),
        }
    }
}

fn closed(viewer: &mut Viewer, what: &str) -> Result<(), String> {
    let rest = viewer.rest();
    if rest.is_empty() {
        Ok(())
    } else {
        Err(format!("bytes after {what}: {:?}", String::from_utf8_lossy(&rest)))
    }
}

/// The first step that is not an interim response: what the viewer must get to see.
fn final_step(case: &Case) -> &Step {
    let interim = |step: &&Step| {
        matches!(step.expected, Expected::Message { .. })
            && step.bytes.get(9..10).is_some_and(|digit| digit == b"1")
    };
    case.steps.iter().find(|step| !interim(step)).expect("a case has a final step")
}

/// A 304 answers conditions only; guarded ones are the origin's to judge, so they reach it as they are.
fn conditions(case: &Case) -> &'static str {
    let is_304 = final_step(case).bytes.get(9..12) == Some(b"304");
    if is_304 { "If-Match: \"v\"\r\nIf-None-Match: \"v\"\r\n" } else { "" }
}

/// H-25: what cannot be read in one way is 502, or visibly cut once its head was passed on; it is never stored.
#[test]
fn responses_are_refused_or_reframed_to_one() {
    let cases = Arc::new(reader::responses());
    assert!(cases.len() >= 80, "{} cases", cases.len());
    let origin = {
        let cases = cases.clone();
        Origin::start(move |reply| match reply.request.target()[1..].parse::<usize>() {
            Ok(number) => {
                reply.send(&cases[number].bytes());
                reply.close();
            }
            Err(_) => reply.answer(200, &[("Cache-Control", "no-store")], b"yes"),
        })
    };
    // With a default lifetime everything that is complete is stored: what is not must not be.
    let aspis =
        Launch::before(&origin.url()).with("--default-ttl", "1h").with("--read-timeout", "2s").start();
    let mut faults = Vec::new();
    // An origin-form CONNECT does not exist towards a gateway; that case is for the parser alone.
    for (number, case) in cases.iter().enumerate().filter(|(_, case)| case.method != "CONNECT") {
        for round in ["first", "second"] {
            let mut viewer = Viewer::connect(&aspis);
            viewer.ask(&case.method, &format!("/{number}"), conditions(case));
            if let Err(fault) = judged(case, &mut viewer) {
                faults.push(format!("{} ({round}): {fault}", case.name));
            }
            viewer.ask_if_open("/alive");
            match viewer.try_response() {
                Ok(response) if response.body == b"yes" => {}
                Err(Broken::Closed) => {}
                Err(Broken::Failed(error)) if error.kind() != std::io::ErrorKind::WouldBlock => {}
                other => faults.push(format!("{} ({round}), the next answer: {other:?}", case.name)),
            }
        }
    }
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());
    Viewer::connect(&aspis).get("/alive").expect(200, b"yes");
}

/// Reads the final answer to a case and compares it with the case's final step.
fn judged(case: &Case, viewer: &mut Viewer) -> Result<(), String> {
    let answer = loop {
        match viewer.try_response_to(&case.method) {
            Ok(response) if response.status() < 200 => {}
            other => break other,
        }
    };
    let step = final_step(case);
    if let Ok(response) = &answer {
        let told = matches!(&step.expected, Expected::Message { content: Some(content) } | Expected::UntilClose { content: Some(content) } if find(content, b"evil").is_some());
        if find(&response.body, b"evil").is_some() && !told {
            return Err(format!("content that is none: {response:?}"));
        }
    }
    match (&step.expected, answer) {
        (Expected::Message { content } | Expected::UntilClose { content }, Ok(response)) => {
            let status = String::from_utf8_lossy(&step.bytes[9..12]).into_owned();
            let fits = content.as_ref().is_none_or(|content| *content == response.body);
            match response.word(1) == status && fits {
                true => Ok(()),
                false => Err(format!("{status} with its content expected: {response:?}")),
            }
        }
        (Expected::Refused(_) | Expected::Incomplete, Ok(response)) => match response.status() {
            502 => Ok(()),
            _ => Err(format!("502 expected: {response:?}")),
        },
        // A fault in the content shows after the head has gone: then the transfer must look cut.
        (Expected::Refused(_), Err(Broken::Truncated(..))) if case.name.starts_with("chunk") => Ok(()),
        (Expected::Refused(_), Err(Broken::Failed(error)))
            if case.name.starts_with("chunk") && error.kind() == std::io::ErrorKind::UnexpectedEof =>
        {
            Ok(())
        }
        (Expected::Incomplete, Err(Broken::Truncated(..))) => Ok(()),
        (Expected::Incomplete, Err(Broken::Failed(error)))
            if error.kind() == std::io::ErrorKind::UnexpectedEof =>
        {
            Ok(())
        }
        (_, Err(broken)) => Err(format!("no complete answer: {broken:?}")),
    }
}
