use proptest::prelude::*;

use super::*;

#[test]
fn sizes_take_binary_and_decimal_units() {
    let cases = [
        ("0", 0),
        ("1048576", 1 << 20),
        ("64MiB", 64 << 20),
        ("64mib", 64 << 20),
        ("2GiB", 2 << 30),
        ("1TiB", 1 << 40),
        ("4KiB", 4096),
        ("64GB", 64_000_000_000),
        ("512B", 512),
    ];
    for (text, bytes) in cases {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
    for text in ["", "MiB", "64M", "-1", "+1", "1.5GiB", " 1", "64 MiB", "99999999999TiB", "1e9"] {
        assert!(size(text).is_err(), "{text}");
    }
}

#[test]
fn durations_need_units_in_falling_order() {
    let cases = [
        ("0", 0),
        ("500ms", 500),
        ("10s", 10_000),
        ("24h", 86_400_000),
        ("1h30m", 5_400_000),
        ("1d1ms", 86_400_001),
    ];
    for (text, ms) in cases {
        assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
    }
    for text in ["", "10", "s", "1.5s", "30m1h", "1s1s", "-1s", "1 s", "1w", "99999999999999999999s", "10S"] {
        assert!(duration(text).is_err(), "{text}");
    }
}

#[test]
fn listen_addresses_take_all_addresses_and_localhost() {
    for (text, shown) in [
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("[::]:8080", "[::]:8080"),
        (":8080", "[::]:8080"),
        ("localhost:0", "127.0.0.1:0"),
    ] {
        assert_eq!(listen(text).map(|ListenAddress(address)| address.to_string()), Ok(shown.to_string()));
    }
    for text in ["", "8080", "127.0.0.1", "::1:8080:", "example.com:80", ":65536", ":+1", "[::]", "unix:/x"] {
        assert!(listen(text).is_err(), "{text}");
    }
    assert_eq!(admin("off"), Ok(AdminAddress::Off));
    assert!(admin("on").is_err());
    assert_eq!(admin("unix:/run/a.sock"), Ok(AdminAddress::Unix("/run/a.sock".to_string())));
    assert!(admin("unix:").is_err());
}

/// D-16, D-17: scheme, host, port, prefix without a slash at its end.
#[test]
fn origin_urls_are_split() {
    for (text, scheme, host, port, prefix, authority) in [
        ("http://127.0.0.1:8000", Scheme::Http, "127.0.0.1", 8000, "", "127.0.0.1:8000"),
        ("https://Origin.Example/", Scheme::Https, "origin.example", 443, "", "origin.example"),
        ("HTTP://a/production/", Scheme::Http, "a", 80, "/production", "a"),
        ("https://a:443/x/y", Scheme::Https, "a", 443, "/x/y", "a"),
        ("http://[::1]:81", Scheme::Http, "::1", 81, "", "[::1]:81"),
    ] {
        let url = origin_url(text).unwrap();
        assert_eq!(
            (url.scheme, url.host.as_str(), url.port, url.path_prefix.as_str()),
            (scheme, host, port, prefix)
        );
        assert_eq!(url.authority(), authority);
    }
    for text in [
        "",
        "a",
        "a:80",
        "ftp://a",
        "http://",
        "http:///x",
        "http://u@a",
        "http://u:p@a",
        "http://a:",
        "http://a:0",
        "http://a:x",
        "http://a:70000",
        "http://a?x",
        "http://a/x?y",
        "http://a/x#y",
        "http://a b",
        "http://[::1",
        "http://[a]",
        "http://-a",
        "http://a..b",
        "http://\u{fc}.example",
        "http://a/\u{fc}",
        "http://a/x y",
        "http://a\r\n",
    ] {
        assert!(origin_url(text).is_err(), "{text:?}");
    }
}

#[test]
fn cores_are_a_count_or_a_list() {
    assert_eq!(cores("2"), Ok(Cores::Count(2)));
    assert_eq!(cores("0,2-3"), Ok(Cores::List(vec![0, 2, 3])));
    assert_eq!(cores("3-3"), Ok(Cores::List(vec![3])));
    assert_eq!(cores("4,1"), Ok(Cores::List(vec![1, 4])));
    for text in ["", "0", "-1", "1-", "3-1", "1,1", "0-2,1", "a", "1,,2", "0-99999999"] {
        assert!(cores(text).is_err(), "{text}");
    }
}

#[test]
fn networks_hosts_names_and_logs() {
    assert_eq!(
        networks("10.1.2.3/8, ::1").unwrap().iter().map(IpNet::to_string).collect::<Vec<_>>(),
        ["10.0.0.0/8", "::1/128"]
    );
    for text in ["", "10.0.0.0/33", "a", "10.0.0.0/8,"] {
        assert!(networks(text).is_err(), "{text}");
    }
    assert_eq!(origin_host("viewer"), Ok(OriginHost::Viewer));
    assert_eq!(origin_host("origin"), Ok(OriginHost::Origin));
    assert_eq!(origin_host("WWW.example.com:81"), Ok(OriginHost::Name("www.example.com:81".into())));
    assert!(origin_host("a b").is_err() && origin_host("").is_err() && origin_host("a\r\nb").is_err());
    assert_eq!(name("aspis-1"), Ok("aspis-1".into()));
    let too_long = "a".repeat(65);
    for text in ["", "1a", "a b", "a;b", "a\"", "a,b", too_long.as_str()] {
        assert!(name(text).is_err(), "{text}");
    }
    assert_eq!(access_log("-"), Ok(AccessLog::Stdout));
    assert_eq!(access_log("off"), Ok(AccessLog::Off));
    assert!(access_log("").is_err());
    assert!(path("a\0b").is_err());
    assert!(semantics("RFC9111").is_err());
    assert!(count("+5").is_err() && count("").is_err() && count("99999999999999999999").is_err());
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(ms in 0_u64..1 << 50, bytes in any::<u64>()) {
        let span = Duration::from_millis(ms);
        prop_assert_eq!(duration(&write_duration(span)), Ok(span));
        prop_assert_eq!(size(&write_size(bytes)), Ok(bytes));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,24}|[0-9a-z:/.\\[\\],-]{0,24}") {
        let _ = (size(&text), duration(&text), listen(&text), admin(&text), origin_url(&text), cores(&text));
        let _ = (networks(&text), origin_host(&text), name(&text), access_log(&text), count(&text));
    }
}
