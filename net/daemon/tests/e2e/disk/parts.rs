//! Ranges that were fetched, after an end, an orderly one or not: they are served without the origin, and nothing else is made of them.

use super::*;

const FILM: &str = "/film/0/12000000";

/// Small ones, one in slices, and the end.
const FETCHED: [(usize, usize); 4] =
    [(0, 999), (500_000, 899_999), (3_000_000, 7_999_999), (11_900_000, 11_999_999)];

fn ranged(reply: &mut Reply<'_>) {
    let target = reply.request.target().to_owned();
    let body = body(&target);
    let range = reply.request.field("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let fields = [("Cache-Control", "max-age=600"), ("ETag", "\"one\"")];
    match range.map(|(first, last)| (first.parse(), last.parse())) {
        Some((Ok(first), Ok(last))) => {
            let stated = format!("bytes {first}-{last}/{}", body.len());
            let all = [&fields[..], &[("Content-Range", &stated)]].concat();
            reply.answer(206, &all, &body[first..=last]);
        }
        _ => reply.answer(200, &fields, &body),
    }
}

#[track_caller]
fn expect_part(viewer: &mut Viewer, (first, last): (usize, usize), x_cache: &str) {
    let part = viewer.get_with(FILM, &format!("Range: bytes={first}-{last}\r\n"));
    assert_eq!((part.status(), part.x_cache()), (206, x_cache), "{first}-{last}: {part:?}");
    let stated = format!("bytes {first}-{last}/12000000");
    assert_eq!(part.field("content-range"), Some(&*stated));
    assert!(part.body == body(FILM)[first..=last], "{first}-{last} are other bytes");
}

/// R-3, R-5: and what an operator invalidates is not served afterwards, nor after another kill (I-22).
#[test]
fn ranges_that_were_fetched_outlive_the_process() {
    for signal in ["TERM", "KILL"] {
        // One volume, so that what is found in it tells that all before it is there.
        let rig = Rig { cores: "1", ..Rig::new() };
        let origin = Origin::start(ranged);
        let url = origin.url();
        let aspis = rig.start(&url);
        let mut viewer = Viewer::connect(&aspis);
        for range in FETCHED {
            until_appended(&aspis, || expect_part(&mut viewer, range, "Miss"));
        }
        let mark = targets("mark", 1, 100);
        fill(&aspis, &mark);
        rig.wait_until_written(&[&mark[..], &[FILM.to_owned()]].concat());
        let kill = |mut aspis: Aspis| {
            aspis.signal(signal);
            aspis.wait_for_exit();
        };
        drop(viewer);
        kill(aspis);
        drop(origin);
        let told = crate::support::run(&["store", "check", &rig.folder.file("store")]);
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.contains("4 lists of parts"), "{told}");
        let aspis = rig.start(&url);
        wait_until_recovered(&aspis);
        let mut viewer = Viewer::connect(&aspis);
        for range in FETCHED.into_iter().chain([(10, 19), (3_999_990, 4_000_009), (11_999_990, 11_999_999)]) {
            expect_part(&mut viewer, range, "Hit");
        }
        for fields in ["", "Range: bytes=900-1100\r\n", "Range: bytes=8000000-8000000\r\n"] {
            assert_eq!(viewer.get_with(FILM, fields).status(), 502, "{fields}");
        }
        assert_eq!(aspis.metric("aspis_disk_check_failures_total"), 0);
        aspis.invalidate(&format!(r#"{{"paths": ["{FILM}"]}}"#));
        drop(viewer);
        kill(aspis);
        let aspis = rig.start(&url);
        wait_until_recovered(&aspis);
        for (first, last) in FETCHED {
            let fields = format!("Range: bytes={first}-{last}\r\n");
            assert_eq!(Viewer::connect(&aspis).get_with(FILM, &fields).status(), 502);
        }
        end(aspis);
    }
}
