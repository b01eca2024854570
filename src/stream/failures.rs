//! Which records of a batch failed, so that the rest need not be tried again.

use std::fmt::{self, Write};

use crate::size::ByteSize;

/// Notes records that failed and goes on with the others: what a queue wants to hear at the end of a batch.
///
/// An id names the record to whoever sent it: a message id of SQS, an offset, a key. Ids are kept as they are given; of a
/// reason, the first 200 bytes. So that a batch in which everything fails cannot fill the memory, ids and reasons share
/// a bound. **What does not fit makes the whole batch fail**: nothing that failed is taken for done.
///
/// # Memory
///
/// At most the bound given, in bytes of heap, and the doubling of one list.
///
/// ```
/// use plimsoll::ByteSize;
/// use plimsoll::stream::BatchFailures;
///
/// let mut failures = BatchFailures::new(ByteSize::kib(64));
/// for (id, body) in [("m1", "1"), ("m2", "one"), ("m3", "3")] {
///     failures.note(id, &body.parse::<u32>());
/// }
/// assert_eq!(failures.to_sqs().as_deref(), Some(r#"{"batchItemFailures":[{"itemIdentifier":"m2"}]}"#));
/// assert_eq!(failures.to_string(), "1 of 3 failed: m2: invalid digit found in string");
/// ```
#[derive(Clone, Debug)]
pub struct BatchFailures {
    failed: Vec<(Box<str>, Box<str>)>,
    /// Bytes in them.
    held: usize,
    max: usize,
    /// Records noted, failed or not.
    records: u64,
    /// Failures for which there was no room.
    untold: u64,
}

/// Bytes kept of a reason.
const REASON: usize = 200;

impl BatchFailures {
    /// Begins a batch, whose failures take so much memory at most; with 0 the first failure fails the whole batch.
    pub const fn new(max: ByteSize) -> Self {
        Self { failed: Vec::new(), held: 0, max: max.as_usize(), records: 0, untold: 0 }
    }

    /// Notes what came of a record. Allocates nothing where it went well.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, stream::BatchFailures};
    /// let mut failures = BatchFailures::new(ByteSize::kib(64));
    /// failures.note("m1", &Ok::<_, std::io::Error>(()));
    /// failures.note("m2", &Err::<(), _>("no such order"));
    /// assert_eq!((failures.len(), failures.is_empty()), (1, false));
    /// assert_eq!(failures.iter().next(), Some(("m2", "no such order")));
    /// ```
    pub fn note<T, E: fmt::Display>(&mut self, id: &str, outcome: &Result<T, E>) {
        self.records += 1;
        let Err(error) = outcome else { return };
        let mut reason = Short(String::new());
        // It ends with an error where the reason is longer than is kept.
        let _shortened = write!(reason, "{error}");
        let bytes = id.len() + reason.0.len() + size_of::<(Box<str>, Box<str>)>();
        if self.max - self.held < bytes {
            self.untold += 1;
            return;
        }
        self.held += bytes;
        self.failed.push((id.into(), reason.0.into()));
    }

    /// Gives the id and the reason of each failure that there was room for, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.failed.iter().map(|(id, reason)| (&**id, &**reason))
    }

    /// Tells how many records failed, those that there was no room for included.
    pub fn len(&self) -> u64 {
        self.failed.len() as u64 + self.untold
    }

    /// Tells whether no record failed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells whether there was room for all failures. If not, the whole batch is to be sent again.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, stream::BatchFailures};
    /// let mut failures = BatchFailures::new(ByteSize::ZERO); // room for none
    /// failures.note("m1", &Err::<(), _>("no such order"));
    /// assert!(!failures.is_complete());
    /// assert_eq!(failures.to_sqs(), None); // the whole batch comes again
    /// ```
    pub const fn is_complete(&self) -> bool {
        self.untold == 0
    }

    /// Gives the answer that SQS, Kinesis and `DynamoDB` expect of a function with `ReportBatchItemFailures`: the ids to
    /// send again, as JSON. `None` if not all are known: then fail the invocation, and the whole batch comes again.
    ///
    /// (AWS Lambda, "Implementing partial batch responses": an empty list is success, a list that does not read is a
    /// failure of the whole batch.)
    pub fn to_sqs(&self) -> Option<String> {
        if !self.is_complete() {
            return None;
        }
        let mut json = String::from(r#"{"batchItemFailures":["#);
        for (index, (id, _)) in self.iter().enumerate() {
            json.push_str(if index == 0 { r#"{"itemIdentifier":""# } else { r#",{"itemIdentifier":""# });
            escape(id, &mut json);
            json.push_str(r#""}"#);
        }
        json.push_str("]}");
        Some(json)
    }
}

impl fmt::Display for BatchFailures {
    /// One line: how many of how many, and the first three with their reasons.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} failed", self.len(), self.records)?;
        for (index, (id, reason)) in self.iter().take(3).enumerate() {
            let mark = if index == 0 { ':' } else { ';' };
            write!(f, "{mark} {}: {}", id.escape_debug(), reason.escape_debug())?;
        }
        if self.len() > 3 { f.write_str("; ..") } else { Ok(()) }
    }
}

/// A text that takes the first bytes written to it.
struct Short(String);

impl Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = REASON.saturating_sub(self.0.len());
        let fits = text.get(..text.floor_char_boundary(room)).unwrap_or_default();
        self.0.push_str(fits);
        if fits.len() == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Appends a text as the inside of a JSON string.
fn escape(text: &str, json: &mut String) {
    for letter in text.chars() {
        match letter {
            '"' | '\\' => json.extend(['\\', letter]),
            '\0'..='\x1f' => {
                // Writing to a string cannot fail.
                let _written = write!(json, "\\u{:04x}", u32::from(letter));
            }
            letter => json.push(letter),
        }
    }
}
