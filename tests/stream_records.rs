//! Records out of a `Read`, against a twin that sees the whole input.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "support/stream.rs"]
mod support;

use plimsoll::stream::{Delimiter, Framing, LengthPrefix, Lines, RecordReader, RecordStats};
use support::{Case, Cut, Pieces, Said, bytes, said};

const CASES: u64 = if cfg!(miri) { 200 } else { 24_000 };

/// All that the reader says, told by `next`.
fn read<F: Framing>(framing: F, case: &Case, seed: u64) -> (Vec<Said>, RecordStats) {
    let builder = RecordReader::framed(framing, bytes(case.max)).oversize(case.oversize).chunk(bytes(case.chunk));
    let mut reader = builder.build(Pieces::new(&case.input, seed)).unwrap();
    let mut all = Vec::new();
    loop {
        let before = reader.offset();
        match reader.next_record() {
            Ok(Some(record)) => {
                assert!(record.offset() >= before, "{} before {before}", record.offset());
                all.push(Said::from(record));
            }
            Ok(None) => break,
            Err(error) => all.extend(said(&error)),
        }
    }
    assert!(reader.next_record().unwrap().is_none(), "the end stays the end");
    assert_eq!(reader.offset(), case.input.len() as u64);
    (all, reader.stats())
}

#[test]
fn every_framing_says_what_the_twin_says_whatever_the_pieces() {
    for seed in 0..CASES {
        let case = Case::random(seed);
        let found = match &case.cut {
            Cut::Lines => read(Lines, &case, seed),
            Cut::Delimiter(delimiter) => read(Delimiter::string(delimiter).unwrap(), &case, seed),
            Cut::Length { big: true } => read(LengthPrefix::big_endian(), &case, seed),
            Cut::Length { big: false } => read(LengthPrefix::little_endian(), &case, seed),
        };
        let twin = case.twin();
        assert!(found == twin, "seed {seed}, {case:?}\nfound {found:?}\ntwin {twin:?}");
    }
}
