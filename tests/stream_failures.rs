//! What a batch says of its failures.

use plimsoll::ByteSize;
use plimsoll::stream::BatchFailures;
use proptest::prelude::*;
use serde_json::{Value, json};

fn note(failures: &mut BatchFailures, id: &str, reason: Option<&str>) {
    failures.note(id, &reason.map_or(Ok(()), Err));
}

#[test]
fn a_batch_without_failures_answers_an_empty_list() {
    let mut failures = BatchFailures::new(ByteSize::ZERO);
    note(&mut failures, "m1", None);
    assert!(failures.is_empty() && failures.is_complete());
    assert_eq!(failures.to_sqs().unwrap(), r#"{"batchItemFailures":[]}"#);
    assert_eq!(failures.to_string(), "0 of 1 failed");
}

#[test]
fn a_failure_without_room_fails_the_whole_batch() {
    let mut failures = BatchFailures::new(ByteSize::bytes(100));
    note(&mut failures, "m1", Some("bad"));
    assert!(failures.is_complete());
    note(&mut failures, &"m".repeat(100), Some("bad"));
    note(&mut failures, "m3", Some(""));
    assert_eq!((failures.len(), failures.is_complete(), failures.to_sqs()), (3, false, None));
    assert_eq!(failures.iter().collect::<Vec<_>>(), [("m1", "bad"), ("m3", "")]);
}

#[test]
fn a_long_reason_is_cut_between_characters_and_a_line_stays_one() {
    let mut failures = BatchFailures::new(ByteSize::kib(64));
    note(&mut failures, "m1", Some(&"\u{e9}".repeat(150)));
    note(&mut failures, "m\n2", Some("a\nb"));
    let reasons: Vec<usize> = failures.iter().map(|(_, reason)| reason.len()).collect();
    assert_eq!(reasons, [200, 3]);
    assert!(failures.to_string().ends_with(r"; m\n2: a\nb"), "{failures}");
}

proptest! {
    #[test]
    fn any_id_reads_back_from_the_answer(ids in proptest::collection::vec(any::<String>(), 0..5)) {
        let mut failures = BatchFailures::new(ByteSize::mib(1));
        for id in &ids {
            note(&mut failures, id, Some("bad"));
        }
        let answer: Value = serde_json::from_str(&failures.to_sqs().unwrap()).unwrap();
        let items: Vec<Value> = ids.iter().map(|id| json!({ "itemIdentifier": id })).collect();
        prop_assert_eq!(answer, json!({ "batchItemFailures": items }));
    }
}
