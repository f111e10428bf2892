//! What the operator writes: no text panics, and a value that is written the way it is shown is the same value.
#![no_main]

use aspis_config::values;
use aspis_config::{Behavior, Cores, OriginHost, Raw, check};
use aspis_wire::{fields, parse_authority, structured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match choice % 9 {
        0 => check_url(text),
        1 => {
            if let Ok(size) = values::size(text) {
                assert_eq!(values::size(&values::write_size(size)), Ok(size));
            }
        }
        2 => {
            if let Ok(duration) = values::duration(text) {
                assert_eq!(values::duration(&values::write_duration(duration)), Ok(duration));
            }
        }
        3 => {
            if let Ok(address) = values::listen(text) {
                assert_eq!(values::listen(&address.0.to_string()), Ok(address));
            }
        }
        4 => check_cores(text),
        5 => {
            for net in values::networks(text).unwrap_or_default() {
                assert_eq!(net, net.trunc());
                assert_eq!(values::networks(&net.to_string()), Ok(vec![net]));
            }
        }
        6 => {
            if let Ok(name) = values::name(text) {
                assert!(fields::is_token(name.as_bytes()) && structured::is_token(&name));
            }
        }
        7 => {
            if let Ok(OriginHost::Name(name)) = values::origin_host(text) {
                assert!(fields::is_field_value(name.as_bytes()) && !name.contains([' ', '/', '@', ',']));
            }
        }
        _ => check_all(text),
    }
});

fn check_url(text: &str) {
    let Ok(url) = values::origin_url(text) else { return };
    assert_eq!(values::origin_url(&url.to_string()), Ok(url.clone()));
    assert!(
        url.path_prefix.is_empty() || url.path_prefix.starts_with('/') && !url.path_prefix.ends_with('/')
    );
    assert!(url.port != 0 && url.host == url.host.to_lowercase());
    assert!(parse_authority(url.authority().as_bytes()).is_some(), "{}", url.authority());
}

fn check_cores(text: &str) {
    match values::cores(text) {
        Ok(Cores::List(list)) => assert!(!list.is_empty() && list.is_sorted_by(|a, b| a < b)),
        Ok(Cores::Count(count)) => assert!(count > 0),
        Ok(Cores::All) | Err(_) => {}
    }
}

/// Each line is `flag=value` or a switch.
fn check_all(text: &str) {
    let mut raw = Raw::new();
    raw.push("origin", "http://origin.example");
    for line in text.lines() {
        let (flag, value) = line.split_once('=').unwrap_or((line, ""));
        raw.push(flag, value);
    }
    match check(&raw) {
        Ok(settings) => {
            let behavior = Behavior::from(&settings);
            assert!(behavior.min_ttl <= behavior.max_ttl);
            assert!(
                behavior.default_ttl.is_none_or(|ttl| (behavior.min_ttl..=behavior.max_ttl).contains(&ttl))
            );
            assert!(fields::is_token(behavior.name.as_bytes()));
        }
        Err(error) => assert!(error.to_string().contains(&error.flag) && !error.accepted.is_empty()),
    }
}
