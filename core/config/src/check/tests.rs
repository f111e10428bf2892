use aspis_wire::Scheme;
use proptest::prelude::*;

use super::*;
use crate::behavior::{Behavior, BodyOnGet, Methods, MinTtlOutranks};
use crate::{AccessLog, AdminAddress, Cores, OriginHost};

fn given(pairs: &[(&str, &str)]) -> Result<Settings, SettingError> {
    let mut raw: Raw = pairs.iter().copied().collect();
    if !raw.contains("origin") {
        raw.push("origin", "http://origin.example");
    }
    check(&raw)
}

fn message(pairs: &[(&str, &str)]) -> String {
    given(pairs).expect_err("these settings are refused").to_string()
}

/// The defaults of the interface, and D-22, D-23, D-26.
#[test]
fn defaults_are_those_of_the_table() {
    let settings = given(&[]).unwrap();
    assert_eq!(settings.listen.iter().map(|l| l.0.to_string()).collect::<Vec<_>>(), ["127.0.0.1:8080"]);
    assert_eq!(settings.admin, AdminAddress::Address("127.0.0.1:9080".parse().unwrap()));
    assert_eq!((settings.admin_token.as_deref(), settings.state.as_deref()), (None, None));
    assert!(settings.purge_from.is_empty() && settings.cache_tag_header.is_none());
    assert_eq!(settings.access_log, AccessLog::Off);
    assert_eq!(settings.origin_host, OriginHost::Viewer);
    assert_eq!(settings.cores, Cores::All);
    assert_eq!((settings.name.as_str(), settings.semantics), ("aspis", Semantics::Rfc9111));
    assert_eq!((settings.memory, settings.default_ttl), (None, None));
    assert_eq!((settings.replica_slots, settings.hit_for_miss), (65_536, Duration::from_secs(10))); // C-13
    assert_eq!(settings.connect_timeout, Duration::from_secs(10));
    assert_eq!(settings.read_timeout, Duration::from_secs(30));
    assert_eq!(settings.connection_attempts, 3);
    assert_eq!(settings.origin_keepalive_timeout, Duration::from_secs(5));
    assert_eq!(settings.request_body_max, 64_000_000_000); // H-17
    assert_eq!((settings.origin.scheme, settings.origin.port), (Scheme::Http, 80));
    assert!(!settings.proxy_protocol && settings.trusted_proxies.is_empty());
}

#[test]
fn replicas_and_marks_can_be_switched_off() {
    let settings = given(&[("replica-slots", "0"), ("hit-for-miss", "0")]).unwrap();
    assert_eq!((settings.replica_slots, settings.hit_for_miss), (0, Duration::ZERO));
    assert_eq!(
        message(&[("replica-slots", "16777217")]),
        "invalid value '16777217' for '--replica-slots': expected a whole number from 0 to 16777216"
    );
    assert!(message(&[("hit-for-miss", "61s")]).contains("--hit-for-miss"));
}

#[test]
fn a_disk_tier_has_folders_that_differ_and_keeps_its_rules_beside_it() {
    let settings = given(&[]).unwrap();
    assert!(settings.disk.is_empty() && settings.disk_size.is_none() && settings.disk_write_budget.is_none());
    let settings =
        given(&[("disk", "/b"), ("disk", "/a"), ("disk-size", "1TiB"), ("disk-write-budget", "20MiB/s")]);
    let settings = settings.unwrap();
    assert_eq!(settings.disk, ["/b", "/a"]);
    assert_eq!((settings.disk_size, settings.disk_write_budget), (Some(1 << 40), Some(20 << 20)));
    assert_eq!((settings.disk_mean_object, settings.state.as_deref()), (16 << 10, Some("/b")));
    let mapped = |value| given(&[("disk", "/b"), ("disk-mapped", value)]).unwrap().disk_mapped;
    assert_eq!((mapped("0"), mapped("2GiB"), settings.disk_mapped), (Some(0), Some(2 << 30), None));
    let settings = given(&[("disk", "/b"), ("state", "/s")]).unwrap();
    assert_eq!((settings.disk_size, settings.state.as_deref()), (None, Some("/s")));
    assert_eq!(
        message(&[("disk", "/a"), ("disk", "/b"), ("disk", "/a")]),
        "invalid value '/a' for '--disk': expected each folder once"
    );
    assert_eq!(
        message(&[("disk-size", "1GiB")]),
        "invalid value '1GiB' for '--disk-size': expected --disk DIR beside it"
    );
    assert_eq!(
        message(&[("disk", "/a"), ("disk-size", "1MiB")]),
        "invalid value '1MiB' for '--disk-size': expected a size from 32MiB to 20TiB"
    );
}

#[test]
fn a_store_is_formatted_with_a_size_and_for_cores() {
    let format = |pairs: &[(&str, &str)]| check_format(&pairs.iter().copied().collect());
    let settings = FormatSettings { size: 1 << 30, cores: Cores::Count(3) };
    assert_eq!(format(&[("disk-size", "1GiB"), ("cores", "3")]), Ok(settings));
    let missing = format(&[]).expect_err("no size").to_string();
    assert_eq!(missing, "'--disk-size' is missing: expected a size such as 64MiB, 2GiB or 500MB");
}

#[test]
fn every_default_in_the_table_is_accepted() {
    for setting in SETTINGS {
        if let Some(default) = setting.default {
            let mut raw: Raw = [("origin", "http://a")].into_iter().collect();
            raw.push(setting.flag, default);
            assert_eq!(check(&raw).map(|_| ()), Ok(()), "--{} {default}", setting.flag);
        }
    }
}

#[test]
fn refusals_name_flag_value_and_what_is_accepted() {
    assert_eq!(
        message(&[("memory", "x")]),
        "invalid value 'x' for '--memory': expected a size such as 64MiB, 2GiB or 500MB"
    );
    assert_eq!(
        message(&[("memory", "1MiB")]),
        "invalid value '1MiB' for '--memory': expected a size from 16MiB to 64TiB"
    );
    assert_eq!(
        message(&[("connection-attempts", "4")]),
        "invalid value '4' for '--connection-attempts': expected a whole number from 1 to 3"
    );
    assert_eq!(
        message(&[("read-timeout", "30")]),
        "invalid value '30' for '--read-timeout': expected a duration such as 500ms, 10s, 24h or 1h30m"
    );
    assert_eq!(
        message(&[("read-timeuot", "30s")]),
        "unknown flag '--read-timeuot': expected '--read-timeout', perhaps"
    );
    assert_eq!(
        message(&[("zzzzzzzzzz", "")]),
        "unknown flag '--zzzzzzzzzz': expected one of those that --help lists"
    );
    assert_eq!(message(&[("name", "a"), ("name", "b")]), "invalid value 'a' for '--name': expected it once");
    assert_eq!(
        check(&Raw::new()).expect_err("an origin is needed").to_string(),
        "'--origin' is missing: expected a URL such as http://127.0.0.1:8000 or https://origin.example/prefix"
    );
    assert_eq!(
        message(&[("min-ttl", "500ms")]),
        "invalid value '500ms' for '--min-ttl': expected whole seconds, such as 10s or 24h"
    );
    assert_eq!(
        message(&[("proxy-protocol", "maybe")]),
        "invalid value 'maybe' for '--proxy-protocol': expected no value: it is on when given"
    );
}

/// Each flag with bounds or a grammar refuses a text that is certainly wrong, and names itself.
#[test]
fn every_flag_refuses_nonsense_by_name() {
    for setting in SETTINGS {
        let error = given(&[(setting.flag, "\0 nonsense")]).expect_err(setting.flag);
        assert_eq!(error.flag, setting.flag);
        assert_eq!(error.value.as_deref(), Some("\0 nonsense"));
        assert!(!error.accepted.is_empty());
    }
}

/// T-15: minimum <= default <= maximum, and what is left out follows.
#[test]
fn ttl_order_and_defaults() {
    let seconds = |pairs: &[(&str, &str)]| {
        let s = given(pairs).unwrap();
        (s.min_ttl.as_secs(), s.default_ttl.map(|ttl| ttl.as_secs()), s.max_ttl.as_secs())
    };
    let cloudfront = ("semantics", "cloudfront");
    assert_eq!(seconds(&[]), (0, None, 31_536_000));
    assert_eq!(seconds(&[cloudfront]), (0, Some(86_400), 31_536_000));
    assert_eq!(seconds(&[cloudfront, ("min-ttl", "2d")]), (172_800, Some(172_800), 31_536_000));
    assert_eq!(seconds(&[cloudfront, ("default-ttl", "400d")]), (0, Some(34_560_000), 34_560_000));
    assert_eq!(seconds(&[("min-ttl", "400d")]), (34_560_000, None, 34_560_000));
    assert_eq!(
        seconds(&[cloudfront, ("min-ttl", "0"), ("default-ttl", "0"), ("max-ttl", "0")]),
        (0, Some(0), 0)
    );
    assert_eq!(
        message(&[("min-ttl", "10s"), ("max-ttl", "5s")]),
        "invalid value '5s' for '--max-ttl': expected at least --min-ttl, which is 10s"
    );
    assert_eq!(
        message(&[("min-ttl", "10s"), ("default-ttl", "5s")]),
        "invalid value '5s' for '--default-ttl': expected at least --min-ttl, which is 10s"
    );
    assert_eq!(
        message(&[cloudfront, ("max-ttl", "1h")]),
        "invalid value '1h' for '--max-ttl': expected at least --default-ttl, which is 1d when not given"
    );
    assert_eq!(
        message(&[("default-ttl", "2h"), ("max-ttl", "1h")]),
        "invalid value '1h' for '--max-ttl': expected at least --default-ttl, which is 2h"
    );
}

#[test]
fn listeners_and_sizes_are_checked_against_each_other() {
    assert!(message(&[("listen", ":1"), ("listen", "[::]:1")]).contains("each address once"));
    assert!(message(&[("listen", "127.0.0.1:9080")]).contains("another address than --listen"));
    assert!(given(&[("listen", ":0"), ("listen", ":0")]).is_ok());
    assert!(
        message(&[("memory", "16MiB"), ("object-size-max", "17MiB")])
            .contains("at most --memory, which is 16MiB")
    );
    assert!(given(&[("memory", "16MiB")]).is_ok());
    // with a disk memory is no bound.
    let size = |given: Result<Settings, SettingError>| given.map(|settings| settings.object_size_max).ok();
    let with_disk = [("memory", "16MiB"), ("disk", "/a")];
    assert_eq!(size(given(&with_disk)), Some(50 << 30));
    assert_eq!(size(given(&[&with_disk[..], &[("object-size-max", "17MiB")]].concat())), Some(17 << 20));
    assert_eq!(size(given(&[])), Some(64 << 20));
}

#[test]
fn trusted_proxies_add_up() {
    let settings = given(&[("trusted-proxies", "10.0.0.0/8,::1"), ("trusted-proxies", "192.0.2.1")]).unwrap();
    assert_eq!(settings.trusted_proxies.len(), 3);
}

/// The two semantics differ only in switches (profile, last table).
#[test]
fn behavior_is_compiled_from_semantics() {
    let rfc = Behavior::from(&given(&[]).unwrap());
    assert!(rfc.cache_status && rfc.invalidate_on_unsafe);
    assert_eq!((rfc.methods, rfc.body_on_get), (Methods::Any, BodyOnGet::Pass));
    let cloudfront =
        Behavior::from(&given(&[("semantics", "cloudfront"), ("origin-host", "a.example")]).unwrap());
    assert!(!cloudfront.cache_status && !cloudfront.invalidate_on_unsafe);
    assert_eq!((cloudfront.methods, cloudfront.body_on_get), (Methods::Seven, BodyOnGet::Refuse));
    assert_eq!(cloudfront.min_ttl_outranks, MinTtlOutranks::Directives);
    assert_eq!((cloudfront.default_ttl, cloudfront.origin_authority.as_str()), (Some(86_400), "a.example"));
}

proptest! {
    #[test]
    fn any_flags_and_values_give_an_answer(pairs in proptest::collection::vec(("[a-z-]{0,12}", "\\PC{0,12}"), 0..4)) {
        let raw: Raw = pairs.into_iter().collect();
        let _ = check(&raw).map_err(|error| error.to_string());
    }

    #[test]
    fn accepted_ttls_are_in_order(min in 0_u64..100, default in 0_u64..100, max in 0_u64..100) {
        let (a, b, c) = (format!("{min}s"), format!("{default}s"), format!("{max}s"));
        let answer = given(&[("min-ttl", &a), ("default-ttl", &b), ("max-ttl", &c)]);
        prop_assert_eq!(answer.is_ok(), min <= default && default <= max);
    }
}
