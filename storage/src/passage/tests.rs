//! Passages: every byte in order or lost at its true position, at any paces; what is alive stays bounded and is given back.

use super::*;
use proptest::prelude::*;
use std::sync::atomic::AtomicU64;

const CHUNK: usize = 1000;
const WINDOW: u64 = 10_000;

fn budget() -> Arc<Budget> {
    Budget::new(1 << 30)
}

/// What is charged for chunks of `len` bytes.
fn cost(len: usize) -> u64 {
    (len + size_of::<Chunk>()) as u64
}

/// The byte that belongs at a position: no period that chunks have.
fn byte_at(position: u64) -> u8 {
    (position % 251) as u8 ^ (position / 65_537) as u8
}

fn bytes(from: u64, len: usize) -> Vec<u8> {
    (from..from + len as u64).map(byte_at).collect()
}

fn append(writer: &mut PassageWriter, len: usize) {
    let from = writer.written();
    writer.append(bytes(from, len)).expect("the budget has room");
}

/// Steps, checks the bytes that a chunk brings, and returns where it ends.
fn read(reader: &mut PassageReader) -> Option<u64> {
    let Step::Chunk(chunk) = reader.step() else { return None };
    let piece = chunk.piece(reader.at());
    assert!(!piece.is_empty());
    for (offset, byte) in piece.iter().enumerate() {
        assert_eq!(*byte, byte_at(reader.at() + offset as u64), "at {} + {offset}", reader.at());
    }
    Some(chunk.end())
}

/// Reads as far as it goes.
fn read_all(reader: &mut PassageReader) -> Step {
    loop {
        match reader.step() {
            Step::Chunk(chunk) => {
                assert_eq!(
                    chunk.piece(reader.at()),
                    bytes(reader.at(), (chunk.end() - reader.at()) as usize)
                );
            }
            other => return other,
        }
    }
}

/// Readers move to other cores, and so does the fetch's end of it.
const _: () = {
    const fn crosses_threads<T: Send + Sync>() {}
    const fn moves_between_threads<T: Send>() {}
    crosses_threads::<Passage>();
    crosses_threads::<Chunk>();
    moves_between_threads::<PassageReader>();
    moves_between_threads::<PassageWriter>();
};

#[test]
fn readers_get_what_was_appended_and_how_it_ended() {
    for (is_whole, from) in [(true, 0), (true, 1500), (false, 2999), (false, 700)] {
        let budget = budget();
        let (mut writer, passage) = passage(&budget, WINDOW, 0);
        let mut reader = PassageReader::new(&passage, from);
        assert!(matches!(reader.step(), Step::Wait));
        for _ in 0..3 {
            append(&mut writer, CHUNK);
        }
        assert!(matches!(read_all(&mut reader), Step::Wait));
        assert_eq!((reader.at(), writer.written()), (3000, 3000));
        append(&mut writer, 500);
        if is_whole {
            writer.complete();
        } else {
            writer.fail();
        }
        assert_eq!(read(&mut reader), Some(3500));
        let end = reader.step();
        assert!(if is_whole { matches!(end, Step::End) } else { matches!(end, Step::Failed) }, "{end:?}");
        drop((reader, passage));
        assert_eq!(budget.used_total(), 0);
    }
}

#[test]
fn a_passage_begins_where_the_stored_part_ended() {
    let budget = budget();
    let (mut writer, passage) = passage(&budget, WINDOW, 5_000_000_000);
    append(&mut writer, CHUNK);
    let mut reader = PassageReader::new(&passage, 5_000_000_000);
    assert_eq!(read(&mut reader), Some(5_000_001_000));
    let mut before = PassageReader::new(&passage, 4_999_999_999);
    assert!(matches!(before.step(), Step::Lost { at: 4_999_999_999 }));
}

#[test]
fn a_dropped_writer_fails_the_stream() {
    let budget = budget();
    let (mut writer, passage) = passage(&budget, WINDOW, 0);
    append(&mut writer, CHUNK);
    drop(writer);
    let mut reader = PassageReader::new(&passage, 0);
    assert_eq!(read(&mut reader), Some(1000));
    assert!(matches!(reader.step(), Step::Failed));
}

#[test]
fn an_empty_stream_ends() {
    let (mut writer, passage) = passage(&budget(), WINDOW, 0);
    writer.append(Vec::new()).unwrap();
    let mut reader = PassageReader::new(&passage, 0);
    assert!(matches!(reader.step(), Step::Wait));
    writer.complete();
    assert!(matches!(reader.step(), Step::End));
}

#[test]
fn a_reader_less_than_the_window_behind_goes_on_and_one_further_behind_is_lost() {
    let budget = budget();
    let (mut writer, passage) = passage(&budget, WINDOW, 0);
    let mut fast = PassageReader::new(&passage, 0);
    let mut within = PassageReader::new(&passage, 0);
    let mut beyond = PassageReader::new(&passage, 0);
    assert_eq!(read_all(&mut beyond).at(), None);
    for round in 1..=20 {
        append(&mut writer, CHUNK);
        read_all(&mut fast);
        if round > 9 {
            // One more would be the tenth chunk behind: not less than the window.
            assert_eq!(read(&mut within), Some((round - 9) * CHUNK as u64));
        }
    }
    assert_eq!(beyond.step().at(), Some(0));
    assert_eq!(beyond.step().at(), Some(0), "once lost it stays so");
    drop(beyond);
    append(&mut writer, CHUNK);
    read_all(&mut fast);
    append(&mut writer, CHUNK);
    // It holds chunk 11, which was let go; what follows it is gone too.
    assert_eq!(within.step().at(), Some(11_000));
    assert_eq!((within.at(), within.is_lost), (11_000, true));
}

#[test]
fn a_lost_reader_pins_its_one_chunk_until_it_asks() {
    let budget = budget();
    let (mut writer, passage) = passage(&budget, 2 * CHUNK as u64, 0);
    let mut fast = PassageReader::new(&passage, 0);
    let mut slow = PassageReader::new(&passage, 0);
    append(&mut writer, CHUNK);
    read(&mut slow);
    for _ in 0..100 {
        read_all(&mut fast);
        append(&mut writer, CHUNK);
    }
    // One behind the fastest, as the next begins a whole window behind; the one that it has not read; and the slow one's.
    assert_eq!(budget.used(Purpose::Fills), 3 * cost(CHUNK));
    assert_eq!(slow.step().at(), Some(1000));
    assert_eq!(budget.used(Purpose::Fills), 2 * cost(CHUNK));
}

#[test]
fn the_window_outlives_the_writer_for_those_who_are_in_it() {
    let budget = budget();
    let (mut writer, passage) = passage(&budget, WINDOW, 0);
    let mut fast = PassageReader::new(&passage, 0);
    let mut slow = PassageReader::new(&passage, 0);
    for _ in 0..9 {
        append(&mut writer, CHUNK);
        read_all(&mut fast);
    }
    writer.complete();
    drop((fast, passage));
    assert!(matches!(read_all(&mut slow), Step::End));
    assert_eq!(slow.at(), 9000);
    drop(slow);
    assert_eq!(budget.used_total(), 0);
}

#[test]
fn the_writer_stops_at_the_lead_and_is_told_once_when_half_of_it_is_free() {
    let budget = budget();
    let (mut writer, passage) = passage(&budget, WINDOW, 0);
    let mut reader = PassageReader::new(&passage, 0);
    assert!(!writer.must_wait(), "there is room");
    while writer.has_room() {
        append(&mut writer, PASSAGE_CHUNK_LEN_MAX);
    }
    assert_eq!(writer.written(), PASSAGE_LEAD_LEN);
    assert!(!passage.take_room_wanted(), "nobody waits");
    assert!(writer.must_wait());
    let mut told = Vec::new();
    while let Some(end) = read(&mut reader) {
        // What was handed out counts when the next one is asked for.
        told.push((end - PASSAGE_CHUNK_LEN_MAX as u64, passage.take_room_wanted()));
        assert_eq!(writer.has_room(), end > PASSAGE_CHUNK_LEN_MAX as u64);
    }
    let quarter = PASSAGE_LEAD_LEN / 4;
    assert_eq!(told, [(0, false), (quarter, false), (2 * quarter, true), (3 * quarter, false)]);
}

#[test]
fn a_waiting_writer_is_told_when_its_last_reader_left() {
    let (mut writer, passage) = passage(&budget(), WINDOW, 0);
    let readers = [PassageReader::new(&passage, 0), PassageReader::new(&passage, 0)];
    while writer.has_room() {
        append(&mut writer, PASSAGE_CHUNK_LEN_MAX);
    }
    assert!(writer.must_wait());
    let [one, other] = readers;
    drop(one);
    assert!(!passage.take_room_wanted());
    assert_eq!(writer.readers(), 1);
    drop(other);
    assert!(passage.take_room_wanted());
    assert!(!writer.must_wait(), "nobody would tell");
    assert_eq!(writer.readers(), 0);
}

#[test]
fn the_fastest_reader_gets_on_without_any_memory_left() {
    let budget = Budget::new(100);
    let all = budget.reserve(Purpose::Connections, 100).unwrap();
    let (mut writer, passage) = passage(&budget, WINDOW, 0);
    let mut reader = PassageReader::new(&passage, 0);
    append(&mut writer, CHUNK);
    append(&mut writer, CHUNK);
    let refused = writer.append(bytes(2000, CHUNK)).unwrap_err();
    assert_eq!(budget.used(Purpose::Fills), 2 * cost(CHUNK), "what is there is charged, over the limit too");
    let mut waiting = Some(refused);
    while let Some(end) = read(&mut reader).filter(|end| *end < 50_000) {
        // The step behind a chunk says that it is sent.
        if end == writer.written() {
            assert!(matches!(reader.step(), Step::Wait));
            let next = waiting.take().unwrap_or_else(|| bytes(end, CHUNK));
            writer.append(next).unwrap();
        }
        assert!(budget.used(Purpose::Fills) <= 3 * cost(CHUNK));
    }
    assert_eq!(reader.at(), 49_000);
    drop((reader, passage));
    writer.complete();
    drop(all);
    assert_eq!(budget.used_total(), 0);
}

#[test]
fn short_memory_takes_the_window_before_it_refuses() {
    let budget = Budget::new(5 * cost(CHUNK));
    let (mut writer, passage) = passage(&budget, WINDOW, 0);
    let mut fast = PassageReader::new(&passage, 0);
    let mut slow = PassageReader::new(&passage, 0);
    for _ in 0..5 {
        append(&mut writer, CHUNK);
    }
    let refused = writer.append(bytes(5000, CHUNK)).unwrap_err();
    assert_eq!((refused.len(), writer.written()), (CHUNK, 5000), "nobody has read anything yet");
    for _ in 0..3 {
        read(&mut fast);
    }
    // Two chunks are sent, the third is with the reader.
    assert!(writer.append(refused).is_ok());
    append(&mut writer, CHUNK);
    assert!(writer.append(bytes(7000, CHUNK)).is_err());
    assert!(matches!(read_all(&mut fast), Step::Wait));
    assert_eq!(fast.at(), 7000, "the fastest is not lost");
    assert_eq!(slow.step().at(), Some(0));
}

#[test]
fn a_late_reader_begins_within_the_first_window_only() {
    let (mut writer, passage) = passage(&budget(), WINDOW, 0);
    let mut fast = PassageReader::new(&passage, 0);
    for _ in 0..5 {
        append(&mut writer, CHUNK);
        read_all(&mut fast);
    }
    let mut late = PassageReader::new(&passage, 3_100);
    assert_eq!((read(&mut late), late.at()), (Some(4000), 3_100));
    for _ in 0..10 {
        append(&mut writer, CHUNK);
        read_all(&mut fast);
    }
    assert_eq!(PassageReader::new(&passage, 12_000).step().at(), Some(12_000));
}

#[test]
fn readers_on_other_threads_see_every_byte() {
    const LEN: u64 = 8_000_000;
    let budget = budget();
    let (mut writer, passage) = passage(&budget, 100_000, 0);
    let read_len = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for number in 0..3 {
            let mut reader = PassageReader::new(&passage, number * 100);
            let (read_len, passage) = (&read_len, &passage);
            scope.spawn(move || {
                loop {
                    match reader.step() {
                        Step::Chunk(chunk) => {
                            for (offset, byte) in chunk.piece(reader.at()).iter().enumerate() {
                                assert_eq!(*byte, byte_at(reader.at() + offset as u64));
                            }
                            if number == 2 && reader.at() % 50_000 < 5000 {
                                std::thread::yield_now();
                            }
                        }
                        Step::Wait => std::thread::yield_now(),
                        Step::End => break assert_eq!(reader.at(), LEN),
                        Step::Lost { at } => break assert!(at < LEN && at == reader.at()),
                        Step::Failed => panic!("the writer completed"),
                    }
                    passage.take_room_wanted();
                }
                read_len.fetch_max(reader.at(), Ordering::Relaxed);
            });
        }
        while writer.written() < LEN {
            if writer.must_wait() {
                std::thread::yield_now();
                continue;
            }
            let len = 1 + writer.written() as usize * 31 % 9_001;
            let missing = (LEN - writer.written()) as usize;
            append(&mut writer, len.min(missing));
        }
        writer.complete();
    });
    assert_eq!(read_len.into_inner(), LEN, "the fastest is never lost");
    drop(passage);
    assert_eq!(budget.used_total(), 0);
}

impl Step {
    fn at(&self) -> Option<u64> {
        if let Step::Lost { at } = self { Some(*at) } else { None }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Steps: who (0 to 2 write) and how much; readers of any pace, of which some come later and leave early.
    #[test]
    fn any_paces_read_a_prefix_or_are_lost_where_they_are(
        steps in prop::collection::vec((0usize..8, 1usize..3000, 0u8..20), 1..400),
        window_len in 0u64..8_000,
        start in 0u64..10_000,
        is_whole in any::<bool>(),
    ) {
        let budget = budget();
        let (mut writer, passage) = passage(&budget, window_len, start);
        let mut readers: Vec<Option<PassageReader>> =
            (0..5).map(|number| (number < 3).then(|| PassageReader::new(&passage, start))).collect();
        let (mut fastest, mut lost, mut late, mut made) = (start, [false; 5], [false; 5], Vec::new());
        let mut kept_max = 0;
        for (who, len, whim) in steps {
            if let Some(number) = who.checked_sub(3) {
                if whim == 0 {
                    readers[number] = None;
                } else if whim == 1 && readers[number].is_none() {
                    readers[number] = Some(PassageReader::new(&passage, start + len as u64));
                    (lost[number], late[number]) = (false, true);
                }
                let Some(reader) = &mut readers[number] else { continue };
                let was_at = reader.at();
                match reader.step() {
                    Step::Chunk(chunk) => {
                        prop_assert!(chunk.start() <= reader.at() && reader.at() < chunk.end());
                        prop_assert!(reader.at() == was_at || reader.at() == chunk.start(), "a gap");
                        let piece = chunk.piece(reader.at());
                        prop_assert_eq!(piece, &bytes(reader.at(), piece.len())[..]);
                        prop_assert!(!lost[number]);
                    }
                    Step::Wait => prop_assert!(reader.at() >= writer.written()),
                    Step::Lost { at } => {
                        prop_assert_eq!(at, reader.at());
                        prop_assert!(at < fastest || late[number], "the fastest was lost");
                        lost[number] = true;
                    }
                    other => prop_assert!(false, "{other:?} before the end"),
                }
                // A reader that waits ahead of the stream is no faster than what it walked over.
                fastest = fastest.max(reader.at().min(writer.written()));
            } else {
                append(&mut writer, len);
                // Only appends let go; while the fastest reads on, the bound stays what it was then. A late reader begins inside a chunk.
                kept_max = window_len.max(1) + writer.written() - fastest + 2 * 3000;
                made.extend(writer.kept.back().map(Arc::downgrade));
            }
            let alive: Vec<usize> = made.iter().filter_map(Weak::upgrade).map(|chunk| chunk.bytes.len()).collect();
            prop_assert!(alive.iter().sum::<usize>() as u64 <= kept_max + 3000 * writer.readers() as u64);
            prop_assert_eq!(budget.used(Purpose::Fills), alive.into_iter().map(cost).sum::<u64>());
            prop_assert_eq!(writer.readers(), readers.iter().flatten().count());
        }
        let len = writer.written();
        if is_whole { writer.complete() } else { writer.fail() }
        for (number, reader) in readers.iter_mut().enumerate() {
            let Some(reader) = reader else { continue };
            match read_all(reader) {
                Step::End => prop_assert!(is_whole && reader.at() >= len),
                Step::Failed => prop_assert!(!is_whole && reader.at() >= len),
                Step::Lost { at } => prop_assert!(at < fastest || late[number]),
                other => prop_assert!(false, "{other:?} at the end"),
            }
        }
        drop((readers, passage));
        prop_assert_eq!(budget.used_total(), 0);
    }
}
