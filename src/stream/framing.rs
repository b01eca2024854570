//! How records are told apart: lines, any delimiter, or a length in front.

use std::fmt;

use memchr::memmem::Finder;

use super::ends::Ends;
use super::simd;

/// What tells where a record ends: [`Lines`], [`Delimiter`] or [`LengthPrefix`]. Sealed.
///
/// # Examples
///
/// ```
/// use plimsoll::ByteSize;
/// use plimsoll::stream::{Framing, RecordReader};
///
/// fn count<F: Framing>(framing: F, input: &[u8]) -> Result<u64, Box<dyn std::error::Error>> {
///     let mut records = RecordReader::framed(framing, ByteSize::kib(64)).build(input)?;
///     while records.next_record()?.is_some() {}
///     Ok(records.stats().records)
/// }
/// assert_eq!(count(plimsoll::stream::Delimiter::byte(b';'), b"a;b;c")?, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Framing: sealed::Framing {}

impl<F: sealed::Framing> Framing for F {}

/// Lines end with LF or CRLF, neither of which is part of the record; the last one may end with the input.
///
/// A CR that no LF follows is content. Nothing follows an LF at the end of the input, not even an empty line. Bytes are
/// not checked to be UTF-8.
///
/// # Examples
///
/// ```
/// use plimsoll::ByteSize;
/// use plimsoll::stream::{LineReader, Lines, StreamBuilder};
///
/// fn settings() -> StreamBuilder<Lines> {
///     LineReader::builder(ByteSize::kib(64))
/// }
/// let mut lines = settings().build(&b"one\r\ntwo"[..])?;
/// assert_eq!(lines.next_record()?.as_deref(), Some(&b"one"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines;

/// Records end with a delimiter, which is not part of them; the last one may end with the input.
///
/// The input is searched from the left, so of delimiters that overlap the first counts. As with lines, nothing follows
/// a delimiter at the end of the input.
///
/// # Examples
///
/// ```
/// use plimsoll::ByteSize;
/// use plimsoll::stream::{Delimiter, RecordReader};
///
/// let boundary = Delimiter::string(b"--part--").ok_or("between 1 and MAX_LEN bytes")?;
/// let mut parts = RecordReader::framed(boundary, ByteSize::kib(64)).build(&b"a--part--b"[..])?;
/// assert_eq!(parts.next_record()?.as_deref(), Some(&b"a"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Delimiter {
    finder: Finder<'static>,
    /// The last bytes of the record begun in earlier inputs, in which a delimiter may have begun: one fewer than it has.
    recent: Recent,
}

/// Records say how long they are: a `u32` in front of each counts the bytes behind it. It is not part of the record.
///
/// Offsets are those of the length, from which reading can be resumed.
///
/// # Examples
///
/// ```
/// use plimsoll::ByteSize;
/// use plimsoll::stream::{LengthPrefix, RecordReader};
///
/// let input = b"\0\0\0\x02hi\0\0\0\x03you";
/// let mut messages = RecordReader::framed(LengthPrefix::big_endian(), ByteSize::kib(64)).build(&input[..])?;
/// assert_eq!(messages.next_record()?.as_deref(), Some(&b"hi"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct LengthPrefix {
    read: fn([u8; 4]) -> u32,
    /// As much of the length as came with earlier inputs.
    head: Recent,
}

impl Delimiter {
    /// The longest delimiter, in bytes. A MIME boundary has 74 at most.
    pub const MAX_LEN: usize = 128;

    /// Records end with this byte.
    ///
    /// ```
    /// use plimsoll::ByteSize;
    /// use plimsoll::stream::{Delimiter, RecordReader};
    ///
    /// let input: &[u8] = b"one\0two\0three";
    /// let mut records = RecordReader::framed(Delimiter::byte(0), ByteSize::kib(64)).build(input)?;
    /// while let Some(record) = records.next_record()? {
    ///     println!("{} at {}: {}", record.number(), record.offset(), record.escape_ascii());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn byte(byte: u8) -> Self {
        Self::of(&[byte])
    }

    /// Records end with these bytes; `None` if they are none, or more than [`MAX_LEN`](Self::MAX_LEN).
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::stream::Delimiter;
    /// assert!(Delimiter::string(b"\r\n\r\n").is_some());
    /// assert!(Delimiter::string(b"").is_none());
    /// ```
    pub fn string(bytes: &[u8]) -> Option<Self> {
        (1..=Self::MAX_LEN).contains(&bytes.len()).then(|| Self::of(bytes))
    }

    fn of(bytes: &[u8]) -> Self {
        Self { finder: Finder::new(bytes).into_owned(), recent: Recent::default() }
    }

    fn needle(&self) -> &[u8] {
        self.finder.needle()
    }
}

impl fmt::Debug for Delimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delimiter(\"{}\")", self.needle().escape_ascii())
    }
}

impl LengthPrefix {
    /// The length is in network byte order.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, stream::{LengthPrefix, RecordReader}};
    /// let mut one = RecordReader::framed(LengthPrefix::big_endian(), ByteSize::kib(4)).build(&b"\0\0\0\x01a"[..])?;
    /// assert_eq!(one.next_record()?.as_deref(), Some(&b"a"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn big_endian() -> Self {
        Self { read: u32::from_be_bytes, head: Recent::default() }
    }

    /// The length is in the byte order of most machines.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, stream::{LengthPrefix, RecordReader}};
    /// let mut one = RecordReader::framed(LengthPrefix::little_endian(), ByteSize::kib(4)).build(&b"\x01\0\0\0a"[..])?;
    /// assert_eq!(one.next_record()?.as_deref(), Some(&b"a"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn little_endian() -> Self {
        Self { read: u32::from_le_bytes, head: Recent::default() }
    }

    /// The length that these bytes begin with.
    fn length(&self, bytes: &[u8]) -> Option<usize> {
        Some((self.read)(*bytes.first_chunk()?) as usize)
    }
}

/// Where a record ends that began in an earlier input.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Close {
    /// How many bytes, at the end of what was seen of it before, belong to its delimiter.
    pub(super) back: usize,
    /// Where its content ends in this input.
    pub(super) end: usize,
    /// Where the next record begins.
    pub(super) next: usize,
}

/// A few bytes remembered.
#[derive(Clone, Debug)]
struct Recent {
    bytes: [u8; Delimiter::MAX_LEN],
    len: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self { bytes: [0; Delimiter::MAX_LEN], len: 0 }
    }
}

impl Recent {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Remembers the first of `more`, up to `cap` in all.
    fn fill(&mut self, more: &[u8], cap: usize) {
        if let Some(room) = self.bytes.get_mut(self.len..cap) {
            let taken = room.len().min(more.len());
            room.iter_mut().zip(more).for_each(|(place, byte)| *place = *byte);
            self.len += taken;
        }
    }

    /// Remembers the last `keep` bytes of what it has and `more`.
    fn slide(&mut self, more: &[u8], keep: usize) {
        let more = more.get(more.len().saturating_sub(keep)..).unwrap_or_default();
        let stays = self.len.min(keep.saturating_sub(more.len()));
        self.bytes.copy_within(self.len - stays..self.len, 0);
        self.len = stays;
        self.fill(more, keep);
    }
}

pub(super) mod sealed {
    use super::{Close, Ends};

    /// What the core asks of a framing. Those of the methods that have a default are for the open record only.
    pub trait Framing: std::fmt::Debug + Send {
        /// Bytes in front of the content.
        #[inline]
        fn head(&self) -> usize {
            0
        }

        /// Bytes behind the content.
        fn tail(&self) -> usize;

        /// How much longer than its content a record may look before its end is seen.
        fn slack(&self) -> usize;

        /// Stage one: finds ends of content in `input` from `from` on, a boundary of records or a place inside one. Tells
        /// how far it has looked: at least one byte further, unless the rest is one record not yet whole.
        #[expect(private_interfaces, reason = "sealed")]
        fn find(&self, input: &[u8], from: usize, ends: &mut Ends) -> usize;

        /// Finds in a new input the end of the record begun before, of which `seen` bytes were noted.
        #[expect(private_interfaces, reason = "sealed")]
        fn close(&self, input: &[u8], seen: u64) -> Option<Close>;

        /// Takes note of more bytes of the open record.
        fn note(&mut self, _more: &[u8]) {}

        /// Forgets the open record.
        fn forget(&mut self) {}

        /// The content's length, as far as the record itself has told.
        fn declared(&self) -> Option<u64> {
            None
        }

        /// Whether the end of the input may end a record.
        fn ends_with_input(&self) -> bool {
            true
        }

        /// The content as it is given out.
        #[inline]
        fn trimmed<'a>(&self, content: &'a [u8]) -> &'a [u8] {
            content
        }
    }
}

/// The part of `input` that stage one looks at in one go.
#[inline]
fn window(input: &[u8], from: usize, over: usize) -> &[u8] {
    let end = from.saturating_add(Ends::WINDOW + over).min(input.len());
    input.get(from..end).unwrap_or_default()
}

/// Stage one for a lone byte.
#[inline]
fn find_byte(byte: u8, input: &[u8], from: usize, ends: &mut Ends) -> usize {
    let mut looked = 0;
    // As many as there are blocks: then few of those to come have none.
    let dense = ends.len() > Ends::WINDOW / simd::BLOCK;
    ends.refill(|found| {
        let done = simd::positions(byte, window(input, from, 0), narrow(from), dense, found);
        looked = done.looked;
        done.found
    });
    from + looked
}

impl sealed::Framing for Lines {
    #[inline]
    fn tail(&self) -> usize {
        1
    }

    fn slack(&self) -> usize {
        1
    }

    #[expect(private_interfaces, reason = "sealed")]
    fn find(&self, input: &[u8], from: usize, ends: &mut Ends) -> usize {
        find_byte(b'\n', input, from, ends)
    }

    #[expect(private_interfaces, reason = "sealed")]
    fn close(&self, input: &[u8], _seen: u64) -> Option<Close> {
        memchr::memchr(b'\n', input).map(|end| Close { back: 0, end, next: end + 1 })
    }

    #[inline]
    fn trimmed<'a>(&self, content: &'a [u8]) -> &'a [u8] {
        content.strip_suffix(b"\r").unwrap_or(content)
    }
}

impl sealed::Framing for Delimiter {
    #[inline]
    fn tail(&self) -> usize {
        self.needle().len()
    }

    fn slack(&self) -> usize {
        self.needle().len() - 1
    }

    #[expect(private_interfaces, reason = "sealed")]
    fn find(&self, input: &[u8], from: usize, ends: &mut Ends) -> usize {
        let needle = self.needle();
        if let [byte] = *needle {
            return find_byte(byte, input, from, ends);
        }
        // A delimiter may begin in the window and end behind it.
        let window = window(input, from, needle.len() - 1);
        let mut looked = window.len().min(Ends::WINDOW);
        if from + window.len() == input.len() {
            looked = window.len();
        }
        ends.refill(|found| {
            let mut places = found.iter_mut();
            let mut count = 0;
            for at in self.finder.find_iter(window) {
                let Some(place) = places.next() else {
                    looked = at;
                    break;
                };
                *place = narrow(from + at);
                looked = looked.max(at + needle.len());
                count += 1;
            }
            count
        });
        from + looked
    }

    #[expect(private_interfaces, reason = "sealed")]
    fn close(&self, input: &[u8], _seen: u64) -> Option<Close> {
        let (needle, recent) = (self.needle(), self.recent.bytes());
        // First where a delimiter begins among the bytes seen before: nothing in this input is further left.
        let mut seam = [0; 2 * Delimiter::MAX_LEN];
        let head = input.get(..needle.len() - 1).unwrap_or(input);
        let bytes = recent.iter().chain(head);
        let len = seam.iter_mut().zip(bytes).map(|(place, byte)| *place = *byte).count();
        if let Some(at) = seam.get(..len).and_then(|seam| self.finder.find(seam))
            && at < recent.len()
        {
            let next = at + needle.len() - recent.len();
            return Some(Close { back: recent.len() - at, end: 0, next });
        }
        self.finder.find(input).map(|end| Close { back: 0, end, next: end + needle.len() })
    }

    fn note(&mut self, more: &[u8]) {
        let keep = self.needle().len() - 1;
        self.recent.slide(more, keep);
    }

    fn forget(&mut self) {
        self.recent.len = 0;
    }
}

impl sealed::Framing for LengthPrefix {
    #[inline]
    fn head(&self) -> usize {
        4
    }

    #[inline]
    fn tail(&self) -> usize {
        0
    }

    fn slack(&self) -> usize {
        0
    }

    #[expect(private_interfaces, reason = "sealed")]
    fn find(&self, input: &[u8], from: usize, ends: &mut Ends) -> usize {
        let mut at = from;
        ends.refill(|found| {
            let mut count = 0;
            for place in found {
                let whole = input.get(at..).and_then(|rest| {
                    let end = self.length(rest)?.checked_add(4)?;
                    (end <= rest.len()).then_some(at + end)
                });
                let Some(end) = whole else { break };
                *place = narrow(end);
                at = end;
                count += 1;
            }
            count
        });
        at
    }

    #[expect(private_interfaces, reason = "sealed")]
    fn close(&self, input: &[u8], seen: u64) -> Option<Close> {
        let mut head = self.head.clone();
        head.fill(input, 4);
        let whole = self.length(head.bytes())? as u64 + 4;
        let end = usize::try_from(whole.saturating_sub(seen)).ok().filter(|end| *end <= input.len())?;
        Some(Close { back: 0, end, next: end })
    }

    fn note(&mut self, more: &[u8]) {
        self.head.fill(more, 4);
    }

    fn forget(&mut self) {
        self.head.len = 0;
    }

    fn declared(&self) -> Option<u64> {
        self.length(self.head.bytes()).map(|length| length as u64)
    }

    fn ends_with_input(&self) -> bool {
        false
    }
}

/// A position in a piece, which 32 bits hold.
fn narrow(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
