//! The flags of the commands beside serving: `aspis invalidate` and `aspis explain`, which ask a running server, and `aspis store`.
//!
//! A table of its own, because some have the name of a server's setting and mean the other end of it. Made into flags, help and reference as
//! the table of settings is; the values are judged by the command or by the server that is asked.

use super::{Kind, PLAIN, Setting};

const INVALIDATE: &[&str] = &["invalidate"];
const BOTH: &[&str] = &["invalidate", "explain"];

/// Every flag of these commands, in the order of their help.
pub static REQUESTS: &[Setting] = &[
    Setting {
        flag: "tag",
        value_name: "TAG",
        default_note: "none",
        repeat: true,
        kind: Kind::Text,
        commands: INVALIDATE,
        summary: "What the origin marked with this tag; may be repeated",
        detail: "The origin names tags in Surrogate-Key or xkey, separated by spaces, or in Cache-Tag or Edge-Cache-Tag, separated by commas. Upper and \
                 lower case are the same.",
        ..PLAIN
    },
    Setting {
        flag: "host",
        value_name: "HOST",
        default_note: "every host",
        repeat: true,
        kind: Kind::Text,
        commands: INVALIDATE,
        summary: "Only on this host; without paths and tags all of it; may be repeated",
        detail: "As viewers name it in the Host field, with a port that is not the scheme's own: `www.example.com`, `localhost:8080`.",
        ..PLAIN
    },
    Setting {
        flag: "all",
        default_note: "off",
        commands: INVALIDATE,
        summary: "Everything",
        detail: "Of all hosts, or of those given with --host.",
        ..PLAIN
    },
    Setting {
        flag: "soft",
        default_note: "off",
        commands: INVALIDATE,
        summary: "Make it stale instead of gone",
        detail: "The next request validates it, and it may still be served where stale-while-revalidate or a failing origin allows that.",
        ..PLAIN
    },
    Setting {
        flag: "wait",
        default_note: "off",
        commands: INVALIDATE,
        summary: "Return when every core has applied it",
        detail: "From then on no viewer gets an answer whose fetch began before the invalidation was accepted. Waits 60 s at most, then exits with 1.",
        ..PLAIN
    },
    Setting {
        flag: "caller-reference",
        value_name: "TEXT",
        default_note: "none: each call is a new invalidation",
        kind: Kind::Text,
        commands: INVALIDATE,
        summary: "Calls with the same text and items are one invalidation",
        detail: "For scripts that try again: a repeated call gets the earlier invalidation. The same text with other items is refused.",
        ..PLAIN
    },
    Setting {
        flag: "admin",
        value_name: "ADDR",
        default: Some("127.0.0.1:9080"),
        kind: Kind::Admin,
        commands: BOTH,
        summary: "The admin address of the server: ADDRESS:PORT or unix:PATH",
        detail: "What the server prints as `admin listening on ADDR`.",
        ..PLAIN
    },
    Setting {
        flag: "admin-token",
        value_name: "FILE",
        default_note: "none",
        kind: Kind::Path,
        commands: BOTH,
        summary: "Send the token in this file",
        detail: "The file that the server has for --admin-token. Needed where its admin address is neither on loopback nor a Unix socket.",
        ..PLAIN
    },
    Setting {
        flag: "force",
        default_note: "off",
        commands: &["store format"],
        summary: "Replace a store that is there, and take any file system",
        detail: "Deletes the volumes in the folders, and nothing else. On a file system that copies what is written again (btrfs, ZFS, bcachefs) space that \
                 was allocated does not keep writes from failing: with this flag it is used all the same.",
        ..PLAIN
    },
];
