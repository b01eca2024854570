//! The table of requests in flight: readers see whole entries, and no request is lost or left.

use crate::heap::in_flight::{InFlightTable, Request};

/// One entry, with texts of 8 bytes.
type Table = InFlightTable<1, 1>;
use loom::sync::Arc;
use loom::thread;

fn model(preemptions: usize, case: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(case);
}

fn text(request: &Request<1>) -> (String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(request.id.bytes().collect()), text(request.label.bytes().collect()))
}

#[test]
fn a_reader_sees_whole_entries_of_reused_places() {
    model(2, || {
        let table = Arc::new(Table::new());
        let mut first = table.start(b"first", b"/1", 1, 0);
        let writer = thread::spawn({
            let table = Arc::clone(&table);
            move || {
                table.end(&mut first);
                let mut second = table.start(b"second", b"/2", 2, 0);
                table.set_label(&mut second, b"/3");
                second
            }
        });
        for request in table.oldest::<2>().iter().flatten() {
            let (id, label) = text(request);
            let whole = match id.as_str() {
                "first" => label == "/1" && request.started_ms == 1,
                "second" => (label == "/2" || label == "/3") && request.started_ms == 2,
                _ => false,
            };
            assert!(whole, "{id} {label} {}", request.started_ms);
        }
        let mut second = writer.join().unwrap();
        assert_eq!(
            table.oldest::<2>().iter().flatten().map(text).collect::<Vec<_>>(),
            [("second".into(), "/3".into())]
        );
        table.end(&mut second);
        assert_eq!((table.count(), table.oldest::<1>()), (0, [None]));
    });
}

#[test]
fn two_threads_never_share_an_entry_and_the_rest_is_counted() {
    model(2, || {
        let table = Arc::new(Table::new());
        let other = thread::spawn({
            let table = Arc::clone(&table);
            move || {
                let mut ticket = table.start(b"a", b"", 1, 0);
                let count = table.count();
                table.end(&mut ticket);
                count
            }
        });
        let mut ticket = table.start(b"b", b"", 1, 0);
        let counted = table.count();
        assert!((1..=2).contains(&counted), "{counted}");
        table.end(&mut ticket);
        table.end(&mut ticket);
        assert!((1..=2).contains(&other.join().unwrap()));
        assert_eq!((table.count(), table.oldest::<1>()), (0, [None]));
    });
}

#[test]
fn a_ticket_of_before_a_clear_has_no_effect() {
    model(2, || {
        let table = Table::new();
        let (mut listed, mut unlisted) = (table.start(b"a", b"", 1, 0), table.start(b"b", b"", 1, 0));
        assert_eq!(table.count(), 2);
        table.clear();
        let mut after = table.start(b"c", b"", 2, 0);
        table.set_label(&mut listed, b"/a");
        table.end(&mut listed);
        table.end(&mut unlisted);
        assert_eq!(table.oldest::<2>().iter().flatten().map(text).collect::<Vec<_>>(), [("c".into(), String::new())]);
        assert_eq!(table.count(), 1);
        table.end(&mut after);
        assert_eq!(table.count(), 0);
    });
}
