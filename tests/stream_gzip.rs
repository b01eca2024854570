//! gzip inputs that are whole, cut off, damaged, and larger than they look.

#![cfg(feature = "gzip")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test stops at the first surprise"
)]

#[path = "support/stream.rs"]
mod support;

use std::io::{self, Read, Write};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use plimsoll::ByteSize;
use plimsoll::clock::ManualClock;
use plimsoll::stream::{ChunkReader, GzipError, GzipReader, LineReader, StreamError};
use support::{Pieces, Random, cases};

fn member(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// All that it gives, and what it fails with. Errors of the input itself are passed over.
fn read<R: Read>(mut reader: GzipReader<R>, random: &mut Random) -> (Vec<u8>, Option<GzipError>) {
    let (mut all, mut buffer) = (Vec::new(), vec![0; 1 + random.below(5000)]);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return (all, None),
            Ok(read) => all.extend(&buffer[..read]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => {
                let error = error.get_ref().unwrap().downcast_ref::<GzipError>().unwrap().clone();
                let again = reader.read(&mut buffer).unwrap_err();
                assert_eq!(again.get_ref().unwrap().downcast_ref(), Some(&error), "it stays broken");
                return (all, Some(error));
            }
        }
    }
}

fn content(random: &mut Random) -> Vec<u8> {
    (0..random.below(3000)).map(|_| b'a' + random.below(4) as u8).collect()
}

#[test]
fn all_members_come_out_whatever_the_pieces() {
    for seed in 0..if cfg!(miri) { 5 } else { 2_000 } {
        let random = &mut Random::new(seed);
        let contents: Vec<Vec<u8>> = (0..=random.below(4)).map(|_| content(random)).collect();
        let input: Vec<u8> = contents.iter().flat_map(|content| member(content)).collect();
        let reader = GzipReader::new(Pieces::new(&input, seed), ByteSize::kib(64));
        assert_eq!(read(reader, random), (contents.concat(), None), "seed {seed}");
    }
}

#[test]
fn wherever_the_input_is_cut_off_it_is_said() {
    let contents = [&b"first line\n"[..], b"second\n"];
    let members = contents.map(member);
    let input = members.concat();
    for cut in 0..input.len() {
        let reader = GzipReader::new(&input[..cut], ByteSize::kib(64));
        let (all, error) = read(reader, &mut Random::new(cut as u64));
        if cut == members[0].len() {
            assert_eq!((all.as_slice(), error), (contents[0], None), "whole members are whole");
            continue;
        }
        assert!(contents.concat().starts_with(&all));
        let Some(GzipError::Truncated { input, output, .. }) = error else { panic!("cut at {cut}: {error:?}") };
        assert_eq!((input, output), (cut as u64, all.len() as u64), "cut at {cut}");
    }
}

#[test]
fn a_damaged_input_is_never_taken_for_a_whole_one() {
    let whole = b"some text, then the same text, some text".repeat(30);
    let good = member(&whole);
    for at in (0..good.len()).filter(|at| !(3..10).contains(at)) {
        for bit in 0..8 {
            let mut input = good.clone();
            input[at] ^= 1 << bit;
            let (all, error) = read(GzipReader::new(&input[..], ByteSize::kib(64)), &mut Random::new(at as u64));
            assert!(error.is_some(), "bit {bit} of byte {at}: {} bytes came out", all.len());
        }
    }
    let (all, error) = read(
        GzipReader::new(&[good, b"garbage behind it".to_vec()].concat()[..], ByteSize::kib(64)),
        &mut Random::new(1),
    );
    assert_eq!(all, whole);
    assert!(matches!(error, Some(GzipError::Corrupt { output: 1200, .. })), "{error:?}");
}

/// The twin is flate2's own reader of many members, which sees the same bytes.
#[test]
fn of_any_bytes_comes_out_what_flate2_gives_too() {
    let (mut whole, mut broken) = (0_u32, 0_u32);
    for seed in 0..cases(1_000) {
        let random = &mut Random::new(seed);
        let mut input: Vec<u8> = (0..=random.below(2)).flat_map(|_| member(&content(random))).collect();
        match random.below(4) {
            0 => input = (0..random.below(60)).map(|_| random.below(256) as u8).collect(),
            1 => input.truncate(4 + random.below(20)),
            _ => {}
        }
        for _ in 0..random.below(4) {
            let at = random.below(input.len().max(1));
            let byte = random.below(256) as u8;
            match random.below(3) {
                0 => input.insert(at, byte),
                1 if at < input.len() => input[at] = byte,
                _ => input.truncate(at),
            }
        }
        let mut expected = Vec::new();
        let twin = MultiGzDecoder::new(&input[..]).read_to_end(&mut expected);
        let (all, error) = read(GzipReader::new(Pieces::new(&input, seed), ByteSize::mib(1)), random);
        match twin {
            Ok(_) if !input.is_empty() => assert_eq!((all, error), (expected, None), "seed {seed}"),
            Ok(_) | Err(_) => {
                assert!(all.starts_with(&expected) || expected.starts_with(&all), "seed {seed}");
                assert!(error.is_some(), "seed {seed}: {input:?}");
                broken += 1;
                continue;
            }
        }
        whole += 1;
    }
    assert!(whole > 0 && broken > 0, "both were tried: {whole} whole, {broken} broken");
}

#[test]
fn a_bomb_stops_at_the_bound_and_an_output_of_just_that_size_does_not() {
    let bomb = member(&vec![0; 10_000_000]);
    assert!(bomb.len() < 10_000);
    for max in [0, 1, 4096, 1_000_000, 9_999_999] {
        let (all, error) = read(GzipReader::new(&bomb[..], ByteSize::bytes(max)), &mut Random::new(max));
        assert_eq!(all.len() as u64, max);
        let Some(GzipError::TooLarge { limit, .. }) = error else { panic!("{error:?}") };
        assert_eq!(limit, ByteSize::bytes(max));
    }
    let (all, error) = read(GzipReader::new(&bomb[..], ByteSize::bytes(10_000_000)), &mut Random::new(1));
    assert_eq!((all.len(), error), (10_000_000, None));
    let (all, error) = read(GzipReader::new(&member(b"")[..], ByteSize::ZERO), &mut Random::new(1));
    assert_eq!((all.len(), error), (0, None));
}

/// A member that is followed by something without output, again and again; each read takes a second.
struct Empty<'a> {
    clock: &'a ManualClock,
    start: &'a [u8],
    again: &'a [u8],
    at: usize,
}

impl Read for Empty<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.clock.advance(Duration::from_secs(1));
        let bytes = self.start.iter().chain(self.again.iter().cycle()).skip(self.at);
        let read = buffer.iter_mut().zip(bytes).map(|(place, byte)| *place = *byte).count();
        self.at = self.start.len() + (self.at + read - self.start.len()) % self.again.len();
        Ok(read)
    }
}

#[test]
fn the_deadline_stops_what_goes_on_without_output() {
    let (line, nothing) = (member(b"line\n"), member(b""));
    // A header, and blocks of no bytes that are not the last.
    let blocks = [&member(b"")[..10], &[0, 0, 0, 0xff, 0xff]].concat();
    for (start, again) in [(line.clone(), &nothing[..]), ([line, blocks].concat(), &[0, 0, 0, 0xff, 0xff])] {
        let manual = ManualClock::new();
        let began = manual.clock().now();
        let deadline = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_060);
        let input = || {
            let input = Empty { clock: &manual, start: &start, again, at: 0 };
            GzipReader::new(input, ByteSize::kib(64))
        };
        let builder = LineReader::builder(ByteSize::kib(1)).deadline(deadline).clock(manual.clock());
        let mut lines = builder.build(input()).unwrap();
        assert_eq!(*lines.next_record().unwrap().unwrap(), *b"line");
        let error = lines.next_record().unwrap_err();
        assert!(matches!(error, StreamError::Deadline { resume_at: 5, number: 2, .. }), "{error}");
        let passed = manual.clock().now() - began;
        assert!((60_000..=61_000).contains(&passed), "{passed} ms");

        let deadline = deadline + Duration::from_mins(1);
        let builder = ChunkReader::builder(ByteSize::kib(1)).deadline(deadline).clock(manual.clock());
        let error = builder.build(input()).unwrap().next_chunk().map(drop).unwrap_err();
        assert!(matches!(error, StreamError::Deadline { resume_at: 0, number: 1, .. }), "{error}");
    }
}

#[test]
fn lines_come_out_of_it_and_its_errors_say_where() {
    let input = [member(b"one\ntw"), member(b"o\nthree")].concat();
    let mut lines = LineReader::builder(ByteSize::kib(1)).build(GzipReader::new(&input[..], ByteSize::kib(1))).unwrap();
    let mut all = Vec::new();
    while let Some(line) = lines.next_record().unwrap() {
        all.push(line.to_vec());
    }
    assert_eq!(all, [&b"one"[..], b"two", b"three"]);
    assert_eq!((lines.get_ref().input_offset(), lines.get_ref().output_offset()), (input.len() as u64, 13));

    let mut lines =
        LineReader::builder(ByteSize::kib(1)).build(GzipReader::new(&input[..], ByteSize::bytes(5))).unwrap();
    assert_eq!(*lines.next_record().unwrap().unwrap(), *b"one");
    let error = lines.next_record().unwrap_err();
    assert!(matches!(error, StreamError::Read { offset: 5, number: 2, .. }), "{error}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.starts_with("the gzip input decompresses to more than 5 B"), "{source}");
}
