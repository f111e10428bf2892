use super::*;
use aspis_config::settings::SETTINGS;

fn invoke(line: &str) -> Result<Invocation, String> {
    parse(line.split_whitespace().map(OsString::from))
}

fn printed(line: &str) -> String {
    match invoke(line) {
        Ok(Invocation::Print(text)) => text,
        other => panic!("{line} should print, not {other:?}"),
    }
}

#[test]
fn the_command_line_is_sound() {
    command().debug_assert();
}

#[test]
fn flags_go_into_the_raw_settings_in_their_order() {
    let Ok(Invocation::Serve(raw)) =
        invoke("aspis serve --origin http://a --listen :1 --listen=[::1]:2 --proxy-protocol --access-log -")
    else {
        panic!("a sound command line is accepted");
    };
    assert_eq!(raw.values("origin").collect::<Vec<_>>(), ["http://a"]);
    assert_eq!(raw.values("listen").collect::<Vec<_>>(), [":1", "[::1]:2"]);
    assert_eq!(raw.values("proxy-protocol").collect::<Vec<_>>(), ["true"]);
    assert_eq!(raw.values("access-log").collect::<Vec<_>>(), ["-"]);
    assert!(!raw.contains("memory"), "defaults belong to the check");
}

#[test]
fn every_setting_is_a_flag_of_its_subcommands_and_in_their_help() {
    for setting in SETTINGS {
        for &name in setting.commands {
            let command = command();
            let found = name.split(' ').try_fold(&command, |within, word| within.find_subcommand(word));
            let subcommand = found.expect("the table names subcommands that exist");
            assert!(
                subcommand.get_arguments().any(|arg| arg.get_long() == Some(setting.flag)),
                "{}",
                setting.flag
            );
        }
    }
    let help = printed("aspis serve --help");
    for setting in settings_of("serve") {
        assert!(help.contains(&format!("--{}", setting.flag)), "{}", setting.flag);
    }
    for (first, heading) in GROUPS {
        assert!(
            SETTINGS.iter().any(|setting| setting.flag == *first),
            "group {heading} begins at an unknown flag"
        );
        assert!(help.contains(&format!("{heading}:\n")), "{heading}");
    }
    assert!(help.contains("Exit codes: 0 done"), "{help}");
}

#[test]
fn the_top_help_teaches_by_example() {
    let help = printed("aspis --help");
    for word in ["aspis demo", "aspis serve --origin", "aspis check", "curl -sI", "completions"] {
        assert!(help.contains(word), "{word} is missing:\n{help}");
    }
}

#[test]
fn the_commands_that_ask_a_server_are_read() {
    let Ok(Invocation::Invalidate(raw, paths)) = invoke(
        "aspis invalidate /a /b/* --tag t --tag u --host h --soft --wait --caller-reference r --admin unix:/s",
    ) else {
        panic!("a sound command line is accepted");
    };
    assert_eq!(paths, ["/a", "/b/*"]);
    assert_eq!(raw.values("tag").collect::<Vec<_>>(), ["t", "u"]);
    assert!(raw.contains("soft") && raw.contains("wait") && !raw.contains("all"));
    assert_eq!(raw.values("admin").collect::<Vec<_>>(), ["unix:/s"]);
    let Ok(Invocation::Explain(raw, url)) = invoke("aspis explain http://a/b --admin-token f") else {
        panic!("a sound command line is accepted");
    };
    assert_eq!((url.as_str(), raw.values("admin-token").next()), ("http://a/b", Some("f")));
    let help = printed("aspis invalidate --help");
    for setting in settings_of("invalidate") {
        assert!(help.contains(&format!("--{}", setting.flag)), "{}", setting.flag);
    }
    assert!(help.contains("[PATH]...") && help.contains("aspis invalidate /index.html"), "{help}");
}

#[test]
fn the_commands_for_a_store_take_its_folders() {
    let Ok(Invocation::Store(StoreCommand::Format, raw, folders)) =
        invoke("aspis store format /a /b --disk-size 1TiB --cores 4 --force")
    else {
        panic!("a sound command line is accepted");
    };
    assert_eq!(folders, ["/a", "/b"]);
    assert_eq!(raw.values("disk-size").chain(raw.values("cores")).collect::<Vec<_>>(), ["1TiB", "4"]);
    assert!(raw.contains("force"));
    for (name, command) in [("check", StoreCommand::Check), ("stat", StoreCommand::Stat)] {
        let expected = Invocation::Store(command, Raw::new(), vec!["/a".to_owned()]);
        assert_eq!(invoke(&format!("aspis store {name} /a")), Ok(expected));
        let text = invoke(&format!("aspis store {name}")).expect_err("a folder is needed");
        assert!(text.contains("<DIR>..."), "{text}");
    }
    let text = invoke("aspis store wipe /a").expect_err("no such command");
    assert!(text.contains("'wipe'") && text.contains("Accepted: format, check, stat."), "{text}");
    let text = invoke("aspis store format /a --size 1").expect_err("no such flag");
    assert!(
        text.contains("'--size' with value '1'") && text.contains("Accepted: --cores, --disk-size, --force."),
        "{text}"
    );
    assert!(printed("aspis store --help").contains("aspis store check /data/1/aspis"));
}

#[test]
fn an_unknown_flag_is_named_with_its_value_and_what_is_accepted() {
    let text = invoke("aspis serve --lisen :80").expect_err("no such flag");
    assert!(
        text.starts_with("error: unknown flag '--lisen' with value ':80'; did you mean '--listen'?\n"),
        "{text}"
    );
    assert!(text.contains("Accepted: --origin, --listen,"), "{text}");
    let text = invoke("aspis serve --nonsense=7").expect_err("no such flag");
    assert!(text.contains("unknown flag '--nonsense' with value '7'"), "{text}");
    let text = invoke("aspis demo --origin http://a").expect_err("the demo has its own origin");
    assert!(text.contains("unknown flag '--origin' with value 'http://a'"), "{text}");
    assert!(!text.contains("Accepted: --origin"), "{text}");
    let text = invoke("aspis serve stray").expect_err("no values without flags");
    assert!(text.contains("unexpected value 'stray'"), "{text}");
}

#[test]
fn an_unknown_or_missing_subcommand_lists_the_known_ones() {
    let text = invoke("aspis sevre").expect_err("no such subcommand");
    assert!(
        text.contains("'sevre'")
            && text.contains("Accepted: serve, demo, check, invalidate, explain, store, version"),
        "{text}"
    );
    let text = invoke("aspis").expect_err("a subcommand is needed");
    assert!(text.contains("a subcommand is missing") && text.contains("serve"), "{text}");
}

#[test]
fn a_flag_without_its_value_or_given_twice_is_named() {
    let text = invoke("aspis serve --memory").expect_err("a value is missing");
    assert!(text.contains("--memory <SIZE>"), "{text}");
    let text = invoke("aspis serve --name a --name b").expect_err("one name only");
    assert!(text.contains("--name <NAME>"), "{text}");
}

#[test]
fn version_flags_and_completions_print() {
    assert_eq!(printed("aspis version"), format!("aspis {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(printed("aspis --version"), printed("aspis version"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            printed(&format!("aspis completions {shell}")).contains("--origin-ca")
                || printed(&format!("aspis completions {shell}")).contains("origin-ca"),
            "{shell}"
        );
    }
    assert!(invoke("aspis completions cobol").is_err());
}

#[test]
fn the_reference_page_is_what_the_table_renders() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/flags.md");
    let on_disk = std::fs::read_to_string(page).expect("docs/flags.md is there");
    let rendered = printed("aspis flags --markdown");
    assert!(
        on_disk == rendered,
        "docs/flags.md is not what the table renders; run `cargo run -- flags --markdown > docs/flags.md`"
    );
}
