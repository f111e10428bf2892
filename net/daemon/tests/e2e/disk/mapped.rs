//! Hits that are sent from the page cache, and files that are cut short meanwhile.

use super::*;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// What a store of 256 MiB in segments of 2 MiB has mostly in segments that are not written to any more.
fn images() -> Vec<String> {
    targets("image", 30, 300 * KIB)
}

/// A server before an origin that is down, over a store that has everything and whose pages are in memory; `None` where the kernel cannot tell, before Linux 6.5.
fn mapped(rig: &Rig, url: &str, targets: &[String]) -> Option<Aspis> {
    let aspis = rig.launch(url).with("--disk-mapped", "1GiB").start();
    wait_until_recovered(&aspis);
    for volume in rig.volumes() {
        std::io::copy(&mut File::open(volume).expect("a volume"), &mut std::io::sink()).expect("a volume");
    }
    expect_hits(&aspis, targets);
    (aspis.metric("aspis_disk_mapped_total{event=\"taken\"}") > 0).then_some(aspis)
}

#[test]
fn what_is_in_the_page_cache_is_sent_from_there() {
    let rig = Rig::new();
    let targets = images();
    let url = stored_then_ended(&rig, &targets, end);
    let Some(aspis) = mapped(&rig, &url, &targets) else { return };
    expect_hits(&aspis, &targets);
    let [taken, sent] =
        ["taken", "sent"].map(|event| aspis.metric(&format!("aspis_disk_mapped_total{{event=\"{event}\"}}")));
    // What lies in segments that were not full is copied.
    assert!(taken >= 5 && sent >= 2 * taken, "{taken} {sent}");
    // A core shows its levels while somebody is there.
    let _viewer = Viewer::connect(&aspis);
    let shown = eventually("what is mapped is shown", || {
        Some(aspis.metric("aspis_disk_mapped_bytes")).filter(|shown| *shown > 0)
    });
    let image_len = 300 * KIB as u64;
    assert!(shown <= taken * image_len && shown.is_multiple_of(image_len), "{taken}: {shown}");
    let image = &targets[0];
    let whole = body(image);
    let part = Viewer::connect(&aspis).get_with(image, "Range: bytes=100-1099\r\n");
    assert!(part.status() == 206 && part.body == whole[100..1100], "another part than expected");
    // A conditional request has no use for its content.
    let fields = "If-None-Match: \"one\"\r\n";
    assert_eq!(Viewer::connect(&aspis).get_with(image, fields).status(), 304);
    end(aspis);
}

/// What came of a request on a connection of its own: nothing that looks whole is anything but right.
fn ask(address: SocketAddr, target: &str) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    let request = format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let mut got = Vec::new();
    if stream.write_all(request.as_bytes()).is_err() || stream.read_to_end(&mut got).is_err() {
        return;
    }
    let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") else { return };
    let expected = body(target);
    let is_ok = got.starts_with(b"HTTP/1.1 200");
    let content = &got[end + 4..];
    assert!(!is_ok || expected.starts_with(content), "wrong bytes of {target}");
}

/// Files that are cut short while mapped hits are served from them: the process lives, nobody gets a wrong byte, and the folder goes off line.
#[test]
fn files_cut_short_under_mapped_hits_put_their_folder_off_line() {
    let rig = Rig::new();
    let targets = images();
    drop(stored_then_ended(&rig, &targets, end));
    let origin = Origin::start(answer);
    let Some(mut aspis) = mapped(&rig, &origin.url(), &targets) else { return };
    let (is_over, address) = (AtomicBool::new(false), aspis.address());
    thread::scope(|scope| {
        for number in 0..4 {
            let (is_over, targets) = (&is_over, &targets);
            scope.spawn(move || {
                for target in targets.iter().cycle().skip(number * 7) {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    ask(address, target);
                }
            });
        }
        eventually("mapped hits are served", || {
            (aspis.metric("aspis_disk_mapped_total{event=\"sent\"}") > 200).then_some(())
        });
        for volume in rig.volumes() {
            let file = File::options().write(true).open(volume).expect("a volume");
            file.set_len(MIB as u64).expect("our own file");
        }
        eventually("the folder is off line", || {
            (aspis.metric("aspis_disk_volumes_off_line") > 0).then_some(())
        });
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(aspis.is_running());
    // What the disk had comes from the origin.
    let mut viewer = Viewer::connect(&aspis);
    for target in &targets {
        viewer.get(target).expect(200, &body(target));
    }
    assert_eq!(aspis.metric("aspis_disk_check_failures_total"), 0);
    end(aspis);
}
