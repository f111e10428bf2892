//! The store as an operator handles it: the commands, and what a start refuses, with the file, what is wrong and what mends it.

use crate::support::{Aspis, Directory, Launch, Origin, run};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

fn origin() -> Origin {
    Origin::fixed(&[("Cache-Control", "max-age=600")], b"ok")
}

fn launch(origin: &Origin, folders: &[&str]) -> Launch {
    let launch = Launch::before(&origin.url()).with("--cores", "2");
    folders.iter().fold(launch, |launch, folder| launch.with("--disk", folder))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[track_caller]
fn refused(launch: Launch, parts: &[&str]) {
    let output = launch.fail();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[track_caller]
fn store(arguments: &[&str], code: i32) -> String {
    let output = run(&[&["store"], arguments].concat());
    let text = text(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    text
}

/// Nothing becomes a store but an empty folder and a size, and what is one stays it.
#[test]
fn an_empty_folder_becomes_a_store_at_the_first_start() {
    let (origin, directory) = (origin(), Directory::new());
    let folder = directory.file("store");
    refused(launch(&origin, &[&folder]), &[&folder, "--disk-size"]);
    let aspis = launch(&origin, &[&folder]).with("--disk-size", "256MiB").start();
    aspis.wait_for_error("made store");
    let (status, page) = aspis.ask_admin_json("GET", "/v1/store", "");
    assert_eq!((status, page["size_bytes"].as_u64()), (200, Some(256 << 20)), "{page}");
    assert_eq!(page["folders"][0]["path"], folder.as_str());
    // One process at a time, commands included.
    refused(launch(&origin, &[&folder]), &[&folder, "another process uses this folder"]);
    for command in
        [&["stat", &folder][..], &["check", &folder], &["format", &folder, "--disk-size", "1GiB", "--force"]]
    {
        assert!(store(command, 1).contains("another process uses this folder"));
    }
    drop(aspis);
    let name = |aspis: Aspis| aspis.ask_admin_json("GET", "/v1/store", "").1["store"].to_string();
    let first = name(launch(&origin, &[&folder]).start());
    assert_eq!(name(launch(&origin, &[&folder]).start()), first);
    let plain = Launch::before(&origin.url()).start();
    assert_eq!(plain.ask_admin_json("GET", "/v1/store", "").0, 404);
}

#[test]
fn the_commands_make_verify_and_describe_a_store() {
    let (origin, directory) = (origin(), Directory::new());
    let [a, b] = ["a", "b"].map(|name| directory.file(name));
    assert!(store(&["format", &a], 2).contains("'--disk-size' is missing"));
    assert!(
        store(&["format", &a, "--disk-size", "1MiB"], 2).contains("invalid value '1MiB' for '--disk-size'")
    );
    assert!(store(&["stat", &a], 1).contains(&a), "it is not there, and is not made");
    let made = store(&["format", &a, &b, "--disk-size", "512MiB", "--cores", "2"], 0);
    for part in ["folders   2", "volumes   2 with 64 segment(s) of 4MiB each", "size      512MiB", "128 free"]
    {
        assert!(made.contains(part), "no {part:?} in {made}");
    }
    assert!(store(&["check", &b, &a], 0).ends_with("whole\n"));
    assert!(store(&["stat", &a], 1).contains("the store has 2 folder(s), and one is named"));
    drop(launch(&origin, &[&a, &b]).start());
    assert!(store(&["format", &a, &b, "--disk-size", "512MiB"], 1).contains("has a store already; --force"));
    let name = |text: &str| text.lines().find(|line| line.starts_with("store ")).expect("a name").to_owned();
    let again = store(&["format", &a, &b, "--disk-size", "256MiB", "--force", "--cores", "1"], 0);
    assert_ne!(name(&again), name(&made));
    drop(launch(&origin, &[&b, &a]).start());
}

#[test]
fn what_is_not_one_whole_store_stops_the_start_and_is_left_alone() {
    let (origin, directory) = (origin(), Directory::new());
    let [a, b, c] = ["a", "b", "c"].map(|name| directory.file(name));
    store(&["format", &a, &b, "--disk-size", "256MiB", "--cores", "2"], 0);
    store(&["format", &c, "--disk-size", "128MiB", "--cores", "1"], 0);
    let anew = "Nothing was changed. To begin with an empty store: aspis store format";
    refused(launch(&origin, &[&a]), &["the store has 2 folder(s)", anew]);
    refused(launch(&origin, &[&a, &c]), &["belongs to another store", anew]);
    let volume = format!("{b}/shard-0001.aspis");
    let aside = directory.file("aside");
    std::fs::rename(&volume, &aside).expect("our own folder");
    refused(launch(&origin, &[&a, &b]), &[&volume, "is missing", anew]);
    std::fs::rename(&aside, &volume).expect("our own folder");
    let file = File::options().read(true).write(true).open(&volume).expect("a volume");
    let mut sound = [0; 8192];
    file.read_exact_at(&mut sound, 0).expect("two superblocks");
    let mut changed = sound;
    (changed[50], changed[4096 + 50]) = (1, 1);
    file.write_all_at(&changed, 0).expect("our own file");
    refused(launch(&origin, &[&a, &b]), &[&volume, "is damaged", anew]);
    let mut read = [0; 8192];
    file.read_exact_at(&mut read, 0).expect("two superblocks");
    assert!(read == changed, "it was left as it was");
    // One of the two is enough.
    changed[4096..].copy_from_slice(&sound[4096..]);
    file.write_all_at(&changed, 0).expect("our own file");
    launch(&origin, &[&a, &b]).start().wait_for_error("one of its two superblocks");
    let label = format!("{a}/store.aspis");
    let told = std::fs::read_to_string(&label).expect("a label");
    std::fs::write(&label, told.replacen("version 1", "version 9", 1)).expect("our own file");
    refused(
        launch(&origin, &[&a, &b]),
        &[&label, "has format version 9, which this program does not know", anew],
    );
    let strange = directory.file("strange");
    std::fs::create_dir(&strange).expect("our own folder");
    std::fs::write(Path::new(&strange).join("letters"), "dear").expect("our own folder");
    refused(
        launch(&origin, &[&strange]).with("--disk-size", "256MiB"),
        &[&strange, "not empty: it has letters", "--force"],
    );
    assert_eq!(std::fs::read_dir(&strange).expect("our own folder").count(), 1);
}

/// `aspis check` says what a start would do, and does nothing of it.
#[test]
fn a_check_foresees_what_becomes_of_the_store() {
    let (origin, directory) = (origin(), Directory::new());
    let folder = directory.file("store");
    let url = origin.url();
    let check = |more: &[&str]| {
        let flags = ["check", "--origin", &url, "--cores", "2", "--memory", "64MiB", "--disk", &folder];
        let output = run(&[&flags[..], more].concat());
        (output.status.code(), text(&output))
    };
    let (code, told) = check(&[]);
    assert!(code == Some(1) && told.contains("FAIL  disk") && told.contains("--disk-size"), "{told}");
    let (code, told) = check(&["--disk-size", "256MiB"]);
    assert!(
        code == Some(0) && told.contains("ok    disk     a store of 256MiB in 2 volume(s) will be made"),
        "{told}"
    );
    assert!(!Path::new(&folder).exists());
    let aspis = launch(&origin, &[&folder]).with("--disk-size", "256MiB").start();
    let (code, told) = check(&[]);
    assert!(code == Some(1) && told.contains("another process uses this folder"), "{told}");
    drop(aspis);
    let (code, told) = check(&["--disk-size", "512MiB"]);
    assert!(code == Some(0) && told.contains("256MiB in 2 volume(s)"), "{told}");
    let (code, told) = check(&["--disk-mean-object", "1KiB", "--disk-size", "60GiB"]);
    assert!(code == Some(1) && told.contains("the index of the store takes"), "{told}");
    drop(launch(&origin, &[&folder]).start());
}

/// The demo has a disk tier that ends with it.
#[test]
fn a_demo_has_a_store_among_the_temporary_files_and_removes_it() {
    let directory = Directory::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_aspis"));
    command.args([
        "demo",
        "--cores",
        "1",
        "--memory",
        "64MiB",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ]);
    command.env("TMPDIR", directory.path());
    let mut aspis = Aspis::start(command);
    let (status, page) = aspis.ask_admin_json("GET", "/v1/store", "");
    assert_eq!((status, page["size_bytes"].as_u64()), (200, Some(128 << 20)), "{page}");
    let folder = page["folders"][0]["path"].as_str().expect("a path").to_owned();
    assert!(Path::new(&folder).starts_with(directory.path()) && Path::new(&folder).exists(), "{folder}");
    aspis.signal("TERM");
    assert_eq!(aspis.wait_for_exit().code(), Some(0));
    assert_eq!(std::fs::read_dir(directory.path()).expect("our own folder").count(), 0);
}

/// A size that no disk has, an index that no memory has: said before anything is made.
#[test]
fn what_there_is_no_room_for_is_refused() {
    let (origin, directory) = (origin(), Directory::new());
    let folder = directory.file("store");
    let large = launch(&origin, &[&folder]).with("--disk-size", "20TiB").with("--disk-mean-object", "16MiB");
    refused(large, &[&folder, "MiB are free", "--disk-size"]);
    let small = launch(&origin, &[&folder]).with("--disk-size", "1GiB").with("--disk-mean-object", "1KiB");
    refused(small.with("--memory", "16MiB"), &["index", "--disk-mean-object"]);
    assert_eq!(std::fs::read_dir(&folder).expect("it was made to look at").count(), 0);
}
