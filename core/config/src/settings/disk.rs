//! The disk tier: where it lies, how large it is, and what it may cost.

use super::{FORMATS, KIB, Kind, MIB, PLAIN, Setting, TIB, TIMEOUT_MAX};

/// The least size that a store can be brought down to: one volume of 16 segments of the smallest length.
const STORE_LEN_MIN: u64 = 32 * MIB;

/// The rows behind those of the machine.
pub(super) const ROWS: &[Setting] = &[
    Setting {
        flag: "disk",
        value_name: "DIR",
        default_note: "none: what is stored is in memory only",
        repeat: true,
        kind: Kind::Path,
        summary: "Keep stored responses in this folder too; one for each disk",
        detail: "What memory has no room for, and everything after a restart or a crash, is served from there (docs/disk.md). An empty folder, or one that \
                 is not there, is made a store at the first start, all of it allocated at once; after that only `aspis store format` does so, and a folder \
                 with anything else in it is refused. Several folders are one store, each with an equal part of it: name all of them at each start. Costs \
                 about 9.5 bytes of --memory for each response on disk, see --disk-mean-object.",
        ..PLAIN
    },
    Setting {
        flag: "disk-size",
        value_name: "SIZE",
        default_note: "what the store has; needed where a store is made",
        kind: Kind::Size { min: STORE_LEN_MIN, max: 20 * TIB },
        commands: FORMATS,
        summary: "The size of the store, all folders of --disk together",
        detail: "At most 90 % of the space that is free for it. A start with another size makes the store larger or smaller and keeps what lies in the part \
                 that stays. Each core needs a volume of at least 128 MiB of it. Rounded down to whole segments of 2 to 16 MiB; 2 MiB for each volume \
                 comes on top.",
        ..PLAIN
    },
    Setting {
        flag: "disk-write-budget",
        value_name: "RATE",
        default_note: "as much as the disk takes",
        kind: Kind::Size { min: 64 * KIB, max: TIB },
        summary: "Write to the store at most so many bytes a second",
        detail: "The sum over all folders, such as `20MiB`. Near it only what was asked for more than once is written; above it nothing is. Protects the disk's \
                 endurance: a disk for 1 PB of writes lasts 5 years at 6 MiB a second. Costs hits: what was not written is fetched again when memory \
                 has dropped it.",
        ..PLAIN
    },
    Setting {
        flag: "disk-flush-timeout",
        value_name: "D",
        default: Some("20s"),
        kind: Kind::Duration { min_ms: 0, max_ms: TIMEOUT_MAX },
        summary: "How long the end may take to write to disk what only memory has",
        detail: "After SIGTERM, when the running requests have ended, what is in memory and may still be served or validated is written to the store, what was \
                 used first, so that the next start is warm; --disk-write-budget does not hold it up. The end takes longer by as much as that needs, \
                 at most this: together with --drain-timeout it has to stay below the service manager's stop timeout. 0 writes only what is under way, \
                 where the disk's endurance counts for more than misses after a restart.",
        ..PLAIN
    },
    Setting {
        flag: "disk-mapped",
        value_name: "SIZE",
        default_note: "half of the memory that --memory leaves of the machine's",
        kind: Kind::Size { min: 0, max: 16 * TIB },
        summary: "Send so much of the store from the page cache",
        detail: "Responses of 32 KiB to 1 MiB that are read from disk again and again, and that --memory has no room for, are kept in the kernel's page cache and \
                 sent from there, verified once, as long as the kernel keeps their pages. That memory is the kernel's: it is not part of --memory, and \
                 taken from it by whoever needs it. 0 copies everything into --memory. Needs Linux 6.5 and a file system with direct I/O; without them \
                 it is as with 0.",
        ..PLAIN
    },
    Setting {
        flag: "disk-mean-object",
        value_name: "SIZE",
        default: Some("16KiB"),
        kind: Kind::Size { min: 256, max: 64 * MIB },
        summary: "How large a response on disk is on average, for the index",
        detail: "The index has room for --disk-size divided by this, at 9.5 bytes each of --memory: 610 MiB for 1 TiB by default. Where there are more \
                 and smaller ones, the least used go before the disk is full; where there are fewer, memory is wasted.",
        ..PLAIN
    },
];
