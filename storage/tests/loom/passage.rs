//! The passage: a writer that waits is always told, by a reader that made room or by the last one that left.

use super::*;
use aspis_storage::limits::PASSAGE_CHUNK_LEN_MAX;
use aspis_storage::passage::{PassageReader, PassageWriter, Step, passage};
use loom::sync::{Condvar, Mutex};

/// How the shard's cores tell each other: a message that is not lost.
struct Told {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Told {
    fn tell(&self) {
        *self.count.lock().unwrap() += 1;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut count = self.count.lock().unwrap();
        while *count == 0 {
            count = self.changed.wait(count).unwrap();
        }
        *count -= 1;
    }
}

/// Appends one chunk more than the lead holds, as soon as there is room. A writer that nobody tells waits for ever, which the
/// checker finds.
fn write(mut writer: PassageWriter, told: &Told) {
    while writer.must_wait() {
        told.wait();
    }
    if writer.readers() > 0 {
        writer.append(chunk()).expect("the budget has room");
    }
    writer.complete();
}

fn chunk() -> Vec<u8> {
    vec![0; PASSAGE_CHUNK_LEN_MAX]
}

/// Reads at most `chunk_count` chunks, and leaves.
fn read(mut reader: PassageReader, chunk_count: usize, told: &Told) {
    let passage = Arc::clone(reader.passage());
    let tell = || {
        if passage.take_room_wanted() {
            told.tell();
        }
    };
    for _ in 0..chunk_count {
        let Step::Chunk(_) = reader.step() else { break };
        tell();
    }
    // This takes what was read last as sent.
    reader.step();
    tell();
    drop(reader);
    tell();
}

/// One writer whose lead is full, and readers that read so many chunks each.
fn run(chunk_counts: &[usize]) {
    let budget = Budget::new(1 << 30);
    let (mut writer, passage) = passage(&budget, 1, 0);
    while writer.has_room() {
        writer.append(chunk()).expect("the budget has room");
    }
    let told = loom::sync::Arc::new(Told { count: Mutex::new(0), changed: Condvar::new() });
    let start = |chunk_count: &usize| {
        let (reader, told, chunk_count) = (PassageReader::new(&passage, 0), told.clone(), *chunk_count);
        loom::thread::spawn(move || read(reader, chunk_count, &told))
    };
    let threads: Vec<_> = chunk_counts.iter().map(start).collect();
    write(writer, &told);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_waiting_writer_is_told_when_there_is_room() {
    check(3, || run(&[4]));
    check(2, || run(&[2, 1]));
}

#[test]
fn a_waiting_writer_is_told_when_the_last_reader_left() {
    check(3, || run(&[0]));
    check(2, || run(&[0, 0]));
}
