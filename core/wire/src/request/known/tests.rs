//! What is remembered never changes an answer, and stays within its bounds.

use proptest::prelude::*;

use super::*;

/// Both ways to read the same bytes, as text that shows all of it.
#[track_caller]
fn same(known: &mut KnownSections, bytes: &[u8], limits: &HeadLimits) {
    let mut slots = FieldSlots::new();
    let plain = format!("{:?}", parse_request(bytes, &mut slots, limits));
    let mut slots = KnownSlots::new();
    let shown = bytes.escape_ascii();
    assert_eq!(format!("{:?}", known.parse_request(bytes, &mut slots, limits)), plain, "{shown}");
}

/// The same so often that the section is known for the last two, if it is kept at all.
#[track_caller]
fn same_again(known: &mut KnownSections, bytes: &[u8]) {
    for _ in 0..5 {
        same(known, bytes, &HeadLimits::default());
    }
}

fn request(path: &str, section: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\n{section}\r\n").into_bytes()
}

#[test]
fn a_section_is_kept_when_it_comes_again() {
    let mut known = KnownSections::default();
    let section = "Host: a\r\nAccept: */*\r\n";
    for (path, count) in [("/1", 0), ("/2", 0), ("/3", 1), ("/4", 1)] {
        let bytes = request(path, section);
        same(&mut known, &bytes, &HeadLimits::default());
        assert_eq!(known.sections.len(), count, "{path}");
    }
    let bytes = request("/5", section);
    let mut slots = KnownSlots::new();
    let kept = known.sections[0].bytes.as_ptr_range();
    let head = known.parse_request(&bytes, &mut slots, &HeadLimits::default()).unwrap().unwrap();
    assert_eq!((head.path_and_query, head.authority, head.len), ("/5", "a", bytes.len()));
    assert!(kept.contains(&head.field("accept").unwrap().as_ptr()), "it was parsed again");
}

#[test]
fn a_section_is_found_before_other_bytes_too() {
    let mut known = KnownSections::default();
    let one = request("/1", "Host: a\r\n");
    same_again(&mut known, &one);
    let three = [&one[..], &request("/2", "Host: a\r\n"), b"GET /3 HT"].concat();
    let mut at = 0;
    for path in ["/1", "/2"] {
        same(&mut known, &three[at..], &HeadLimits::default());
        let mut slots = KnownSlots::new();
        let head = known.parse_request(&three[at..], &mut slots, &HeadLimits::default()).unwrap().unwrap();
        assert_eq!(head.path_and_query, path);
        at += head.len;
    }
    same(&mut known, &three[at..], &HeadLimits::default());
    assert_eq!(at, one.len() * 2);
    // A longer section that begins like a known one is another.
    same_again(&mut known, &request("/1", "Host: a\r\nRange: bytes=0-1\r\n"));
    same_again(&mut known, &one);
}

#[test]
fn what_depends_on_the_line_is_judged_anew() {
    let mut known = KnownSections::default();
    for section in [
        "Host: a\r\n",
        "",
        "Host: a\r\nConnection: keep-alive\r\n",
        "Host: a\r\nConnection: close\r\n",
        "Host: a\r\nTransfer-Encoding: chunked\r\n",
        "Host: a\r\nContent-Length: 3\r\n",
        "Host: a\r\nExpect: 100-continue\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
        "host:  EXAMPLE.com:81 \r\nX:\r\nY: \t \r\nZ: a\tb\u{e9} \r\n",
    ] {
        for line in [
            "GET / HTTP/1.1",
            "GET / HTTP/1.0",
            "HEAD /a?b HTTP/1.1",
            "POST / HTTP/1.1",
            "GET http://b/c HTTP/1.1",
            "GET http://b HTTP/1.0",
            "OPTIONS * HTTP/1.1",
            "GET * HTTP/1.1",
            "GET  HTTP/1.1",
            "GET a HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GET / HTTP/1.2",
            "GET / http/1.1",
            "GET / HTTP/1.1 ",
            "GET\t/ HTTP/1.1",
            "get / HTTP/1.1",
            "\r\nGET / HTTP/1.1",
            "GET / HTTP/1.1\n",
            "GET / HTTP/1.1\r",
        ] {
            same_again(&mut known, format!("{line}\r\n{section}\r\n").as_bytes());
        }
        same_again(&mut known, format!("GET / HTTP/1.1\n{section}\r\n").as_bytes());
        same_again(&mut known, format!("GET / HTTP/1.1\r\n{section}\n").as_bytes());
    }
}

#[test]
fn long_lines_are_read_as_ever() {
    let mut known = KnownSections::default();
    for len in [1, 1_000, 1_005, 1_006, 1_007, 1_024, 8_183, 8_184, 8_185, 9_000] {
        same_again(&mut known, &request(&format!("/{}", "x".repeat(len - 1)), "Host: a\r\n"));
    }
}

#[test]
fn every_byte_of_a_target_is_judged_as_ever() {
    let mut known = KnownSections::default();
    same_again(&mut known, &request("/", "Host: a\r\n"));
    for byte in 0..=255 {
        let bytes = [b"GET /x", &[byte][..], b"y HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        same(&mut known, &bytes, &HeadLimits::default());
    }
}

#[test]
fn limits_hold_for_what_is_known() {
    let bytes = request("/abc", "Host: a\r\nX: y\r\nZ: z\r\n");
    for limits in [
        HeadLimits { head_len_max: bytes.len() - 1, ..HeadLimits::default() },
        HeadLimits { head_len_max: bytes.len(), ..HeadLimits::default() },
        HeadLimits { field_count_max: 2, ..HeadLimits::default() },
        HeadLimits { field_count_max: 3, ..HeadLimits::default() },
        HeadLimits { target_len_max: 11, ..HeadLimits::default() },
        HeadLimits { target_len_max: 12, ..HeadLimits::default() },
    ] {
        let mut known = KnownSections::default();
        same_again(&mut known, &bytes);
        same(&mut known, &bytes, &limits);
        same(&mut known, &bytes, &limits);
    }
}

#[test]
fn what_is_long_has_many_fields_or_never_comes_again_is_not_kept() {
    let mut known = KnownSections::default();
    let empty = known.heap_len();
    for number in 0..2_000 {
        same(
            &mut known,
            &request("/", &format!("Host: a\r\nX-Number: {number}\r\n")),
            &HeadLimits::default(),
        );
    }
    let long = format!("Host: a\r\nX: {}\r\n", "y".repeat(KNOWN_SECTION_LEN_MAX));
    same_again(&mut known, &request("/", &long));
    same_again(&mut known, &request("/", &format!("Host: a\r\n{}", "X: y\r\n".repeat(KNOWN_FIELDS_MAX))));
    same_again(&mut known, &request("/", "Host: a,b\r\n"));
    assert_eq!((known.sections.len(), known.heap_len()), (0, empty));
    same_again(&mut known, &request("/", &format!("Host: a\r\n{}", "X: y\r\n".repeat(KNOWN_FIELDS_MAX - 1))));
    assert_eq!(known.sections.len(), 1);
}

#[test]
fn its_memory_is_bounded_and_told() {
    let mut known = KnownSections::default();
    let fields = "X-Long-Name: y\r\n".repeat(KNOWN_FIELDS_MAX - 2);
    for number in 0..4 * PLACE_COUNT {
        let padding = "z".repeat(KNOWN_SECTION_LEN_MAX - fields.len() - 64);
        same_again(&mut known, &request("/", &format!("Host: a\r\nX: {number}{padding}\r\n{fields}")));
    }
    let places = known.places.iter().filter(|place| place.kept.is_some()).count();
    assert_eq!(places, known.sections.len());
    assert!(places > PLACE_COUNT / 2, "{places}");
    let held: usize = known.sections.iter().map(Section::heap_len).sum();
    let tables = PLACE_COUNT * size_of::<Place>() + known.sections.capacity() * size_of::<Section>();
    assert_eq!(known.heap_len(), held + tables);
    assert!(known.heap_len() <= PLACE_COUNT * 2_600, "{}", known.heap_len());
}

#[test]
fn a_section_makes_way_for_one_that_comes_twice_in_its_place() {
    let mut known = KnownSections::default();
    let section = |number: usize| format!("Host: a\r\nX: {number}\r\n");
    let place = |number: usize| place_of(key_of(format!("{}\r\n", section(number)).as_bytes()));
    let others: Vec<usize> = (1..).filter(|&number| place(number) == place(0)).take(2).collect();
    let kept = |known: &KnownSections| known.sections[0].fields.len() == 2 && known.sections.len() == 1;
    same_again(&mut known, &request("/", &section(0)));
    let first = known.sections[0].bytes.clone();
    for _ in 0..4 {
        for &other in &others {
            same(&mut known, &request("/", &section(other)), &HeadLimits::default());
        }
    }
    assert!(kept(&known) && known.sections[0].bytes == first, "what comes in turns displaced it");
    same_again(&mut known, &request("/", &section(others[0])));
    assert!(kept(&known) && known.sections[0].bytes != first);
    same_again(&mut known, &request("/", &section(0)));
}

proptest! {
    /// Whatever came before, an answer is that of a parser without memory.
    #[test]
    fn memory_changes_no_answer(
        requests in prop::collection::vec(
            ("(GET|HEAD|POST|G) (/[a-c]{0,2}|\\*|http://h/|/ |) ?HTTP/1\\.[012]", "(Host: [ab]\r\n)?(X: [ab]\r\n){0,2}(Connection: (close|upgrade)\r\n)?", "(\r\n|\n)(GET|.)?"),
            1..40,
        ),
        cut in 0_usize..80,
    ) {
        let mut known = KnownSections::default();
        for (line, section, end) in &requests {
            let bytes = format!("{line}\r\n{section}{end}").into_bytes();
            same(&mut known, &bytes, &HeadLimits::default());
            same(&mut known, &bytes[..bytes.len().min(cut)], &HeadLimits::default());
        }
    }
}
