//! The disk tier's decisions: what lies where in a volume, what is read and written next, what is kept; nothing here does I/O.
//!
//! - [`mod@format`] has the superblock, the segment table and the header of a segment; [`footer`] has what ends a segment, and
//!   [`length_class`] the lengths that a footer and an index can tell apart.
//! - [`record`] turns stored responses into bytes and back.
//! - [`index`] has eight bytes for each record, which lead to it, and [`admission`] says what is worth writing.
//! - [`stored`] says which records a stored response is written as, and makes a response of what was read; [`part_list`] leads to the parts
//!   of a representation.
//! - [`recovery`] rebuilds what is known about a volume from what lies in it, and [`check`](mod@check) says whether that is whole.
//! - [`shrink`] says what stays when a volume is made smaller.
//! - [`volume`] puts them together: where a record lies, what is appended and written; [`reclaim`] makes room, and [`trial`] tries again
//!   what was given up.
//!
//! Fed by the driver of each shard and by the offline commands, which own the files. Invariants: little endian throughout; no bytes
//! that came from a disk make any of this panic, and no length is believed before the check that covers it.

pub mod admission;
mod bytes;
pub mod check;
pub mod footer;
pub mod format;
pub mod index;
pub mod length_class;
mod open;
pub mod part_list;
pub mod reclaim;
pub mod record;
pub mod recovery;
#[cfg(test)]
mod sample;
mod segments;
pub mod shrink;
pub mod stored;
pub mod trial;
pub mod volume;
