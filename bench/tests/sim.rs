//! Some hundred seeds of the simulator, on every run of the tests; the rest with `aspis-bench sim`.

use std::process::Command;

#[test]
fn hundreds_of_seeds_are_played_without_a_fault() {
    let run = Command::new(env!("CARGO_BIN_EXE_aspis-bench")).args(["sim", "--seeds", "400"]).output();
    let run = run.expect("the program of this package starts");
    let text = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{text}{}", String::from_utf8_lossy(&run.stderr));
    // A run that never meets a situation proves nothing about it.
    let missed: Vec<&str> = text.lines().filter(|line| line.trim_start().starts_with("0 ")).collect();
    assert!(missed.is_empty(), "never seen: {missed:?}");
}

#[test]
fn a_seed_repeats_its_run() {
    let play = || {
        let run =
            Command::new(env!("CARGO_BIN_EXE_aspis-bench")).args(["sim", "--seed", "7", "--trace"]).output();
        let text = String::from_utf8(run.expect("the program of this package starts").stdout);
        let text = text.expect("a trace is text");
        text.lines().filter(|line| !line.contains("without a fault")).map(str::to_owned).collect::<Vec<_>>()
    };
    let first = play();
    assert!(first.len() > 50, "{first:?}");
    assert_eq!(first, play());
}
