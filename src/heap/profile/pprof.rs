//! Heap profiles in the format of pprof: a message `Profile` of `profile.proto`, compressed with gzip.
//!
//! The message is written field by field, so it is never in memory as a whole:
//!
//! ```text
//!   field  = key, value                       key = number << 3 | wire type, as a varint
//!   varint = 7 bits in each byte, lowest first, bit 7 set in all but the last: 300 = AC 02
//!   bytes, text, message, packed numbers = length as a varint, content          (wire type 2)
//! ```
//!
//! Fields may be in any order. Samples come first, and strings and mappings last, when all are known.

use std::collections::HashMap;
use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::HeapProfile;
use super::modules::{Modules, call_before};
#[cfg(feature = "symbols")]
use super::symbols::{CloseFiles, Symbol, resolve};
use crate::os;

// The numbers of the fields in `profile.proto`, by message.

mod profile {
    pub(super) const SAMPLE_TYPE: u64 = 1;
    pub(super) const SAMPLE: u64 = 2;
    pub(super) const MAPPING: u64 = 3;
    pub(super) const LOCATION: u64 = 4;
    #[cfg(feature = "symbols")]
    pub(super) const FUNCTION: u64 = 5;
    pub(super) const STRING_TABLE: u64 = 6;
    pub(super) const TIME_NANOS: u64 = 9;
    pub(super) const PERIOD_TYPE: u64 = 11;
    pub(super) const PERIOD: u64 = 12;
    pub(super) const DEFAULT_SAMPLE_TYPE: u64 = 14;
}

mod value_type {
    pub(super) const TYPE: u64 = 1;
    pub(super) const UNIT: u64 = 2;
}

mod sample {
    pub(super) const LOCATION_ID: u64 = 1;
    pub(super) const VALUE: u64 = 2;
}

mod mapping {
    pub(super) const ID: u64 = 1;
    pub(super) const MEMORY_START: u64 = 2;
    pub(super) const MEMORY_LIMIT: u64 = 3;
    pub(super) const FILE_OFFSET: u64 = 4;
    pub(super) const FILENAME: u64 = 5;
    pub(super) const BUILD_ID: u64 = 6;
    pub(super) const HAS_FUNCTIONS: u64 = 7;
    pub(super) const HAS_FILENAMES: u64 = 8;
    pub(super) const HAS_LINE_NUMBERS: u64 = 9;
    pub(super) const HAS_INLINE_FRAMES: u64 = 10;
}

mod location {
    pub(super) const ID: u64 = 1;
    pub(super) const MAPPING_ID: u64 = 2;
    pub(super) const ADDRESS: u64 = 3;
    #[cfg(feature = "symbols")]
    pub(super) const LINE: u64 = 4;
}

#[cfg(feature = "symbols")]
mod line {
    pub(super) const FUNCTION_ID: u64 = 1;
    pub(super) const LINE: u64 = 2;
}

#[cfg(feature = "symbols")]
mod function {
    pub(super) const ID: u64 = 1;
    pub(super) const NAME: u64 = 2;
    pub(super) const FILENAME: u64 = 4;
}

impl HeapProfile {
    /// Writes the profile in the format of pprof, compressed with gzip.
    ///
    /// `go tool pprof -http=: heap.pb.gz` shows it as a graph, a flame graph and a table. Services for continuous
    /// profiling, such as Pyroscope and Parca, take it too. Each site has two values, `inuse_objects` (count) and
    /// `inuse_space` (bytes); the period is the sampling interval in bytes.
    ///
    /// With the feature `symbols`, the profile has functions, files and lines, as far as the program has them. Without
    /// it, pprof reads them from the file of the program at the same path. Build ids identify the files.
    ///
    /// # Errors
    ///
    /// The error of `out`.
    ///
    /// # Performance
    ///
    /// In memory until the end: 40 bytes for each distinct address, of which there are at most 12,288, each name of a
    /// function or file once, and 0.3 MB for gzip. With the feature `symbols`, the files of the program are read as by
    /// `Site::symbols`, once for the whole profile.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::File;
    /// use std::io;
    /// use plimsoll::heap::profile::HeapProfile;
    ///
    /// fn save(profile: &HeapProfile) -> io::Result<()> {
    ///     profile.write_pprof(File::create("heap.pb.gz")?)
    /// }
    /// ```
    pub fn write_pprof(&self, out: impl Write) -> io::Result<()> {
        let mut encoder = Encoder::new(Modules::load(), out)?;
        for site in &self.sites {
            let stack: Vec<usize> = site.addresses().collect();
            encoder.sample(&stack, [site.blocks, site.bytes.as_u64()])?;
        }
        encoder.finish(self.interval.as_u64())
    }
}

/// A profile that is being written.
struct Encoder<W: Write> {
    out: GzEncoder<W>,
    modules: Modules,
    /// The details of the locations in each module, in the order of `modules`.
    known: Vec<Known>,
    /// The ids of the return addresses that are written as locations.
    locations: HashMap<usize, u64>,
    strings: Strings,
    #[cfg(feature = "symbols")]
    _files: CloseFiles,
    /// The ids of functions by the numbers of their name and file.
    #[cfg(feature = "symbols")]
    functions: HashMap<(u64, u64), u64>,
}

/// The details that the locations of a module have, or at least some of them. Readers look for missing details
/// themselves, in the file.
#[derive(Clone, Copy, Default)]
struct Known {
    functions: bool,
    lines: bool,
}

impl<W: Write> Encoder<W> {
    fn new(modules: Modules, out: W) -> io::Result<Self> {
        let known = vec![Known::default(); modules.all().len()];
        let mut encoder = Self {
            out: GzEncoder::new(out, Compression::default()),
            modules,
            known,
            locations: HashMap::new(),
            strings: Strings::new(),
            #[cfg(feature = "symbols")]
            _files: CloseFiles,
            #[cfg(feature = "symbols")]
            functions: HashMap::new(),
        };
        for (name, unit) in [("inuse_objects", "count"), ("inuse_space", "bytes")] {
            encoder.value_type(profile::SAMPLE_TYPE, name, unit)?;
        }
        Ok(encoder)
    }

    fn value_type(&mut self, number: u64, name: &str, unit: &str) -> io::Result<()> {
        let mut message = Message::default();
        message.number(value_type::TYPE, self.strings.id(name));
        message.number(value_type::UNIT, self.strings.id(unit));
        self.write(number, &message)
    }

    /// Writes a sample, and those of its locations that are new.
    fn sample(&mut self, stack: &[usize], values: [u64; 2]) -> io::Result<()> {
        let mut ids = Vec::with_capacity(stack.len());
        for &address in stack {
            ids.push(self.location(address)?);
        }
        let mut message = Message::default();
        message.packed(sample::LOCATION_ID, &ids);
        message.packed(sample::VALUE, &values);
        self.write(profile::SAMPLE, &message)
    }

    /// Returns the id of the location of a return address.
    fn location(&mut self, address: usize) -> io::Result<u64> {
        if let Some(&id) = self.locations.get(&address) {
            return Ok(id);
        }
        let id = self.locations.len() as u64 + 1;
        self.locations.insert(address, id);
        let mut message = Message::default();
        message.number(location::ID, id);
        let module = self.modules.find(address).map(|(index, _)| index);
        if let Some(index) = module {
            message.number(location::MAPPING_ID, index as u64 + 1);
        }
        message.number(location::ADDRESS, call_before(address) as u64);
        let (functions, lines) = self.lines(address, &mut message)?;
        if let Some(known) = module.and_then(|index| self.known.get_mut(index)) {
            known.functions |= functions;
            known.lines |= lines;
        }
        self.write(profile::LOCATION, &message)?;
        Ok(id)
    }

    /// Adds the functions of an address to its location, the innermost of the inlined ones first. Returns whether there
    /// are functions, and whether these have lines.
    #[cfg(feature = "symbols")]
    fn lines(&mut self, address: usize, location: &mut Message) -> io::Result<(bool, bool)> {
        let symbols = resolve(address);
        for symbol in &symbols {
            let mut line = Message::default();
            line.number(line::FUNCTION_ID, self.function(symbol)?);
            line.number(line::LINE, u64::from(symbol.line.unwrap_or(0)));
            location.message(location::LINE, &line);
        }
        Ok((!symbols.is_empty(), symbols.iter().any(|symbol| symbol.line.is_some())))
    }

    #[cfg(not(feature = "symbols"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "as with symbols")]
    fn lines(&mut self, _: usize, _: &mut Message) -> io::Result<(bool, bool)> {
        Ok((false, false))
    }

    /// Returns the id of a function, which is written if it is new.
    #[cfg(feature = "symbols")]
    fn function(&mut self, symbol: &Symbol) -> io::Result<u64> {
        let name = self.strings.id(&symbol.function);
        let file = self.strings.id(symbol.file.as_deref().unwrap_or_default());
        if let Some(&id) = self.functions.get(&(name, file)) {
            return Ok(id);
        }
        let id = self.functions.len() as u64 + 1;
        self.functions.insert((name, file), id);
        let mut message = Message::default();
        message.number(function::ID, id);
        message.number(function::NAME, name);
        // Without `system_name`. `go tool pprof` takes a name that is the same in both for one of C++ and cuts out the
        // part in `<>`.
        message.number(function::FILENAME, file);
        self.write(profile::FUNCTION, &message)?;
        Ok(id)
    }

    fn finish(mut self, interval: u64) -> io::Result<()> {
        for index in 0..self.modules.all().len() {
            self.mapping(index)?;
        }
        self.value_type(profile::PERIOD_TYPE, "space", "bytes")?;
        let mut last = Message::default();
        last.number(profile::PERIOD, interval);
        last.number(profile::TIME_NANOS, os::coarse_wall_ms().saturating_mul(1_000_000));
        last.number(profile::DEFAULT_SAMPLE_TYPE, self.strings.id("inuse_space"));
        self.out.write_all(&last.0)?;
        for text in self.strings.in_order() {
            let mut entry = Message::default();
            entry.bytes(profile::STRING_TABLE, text.as_bytes());
            self.out.write_all(&entry.0)?;
        }
        self.out.finish()?.flush()
    }

    fn mapping(&mut self, index: usize) -> io::Result<()> {
        let (Some(module), Some(known)) = (self.modules.all().get(index), self.known.get(index)) else {
            return Ok(());
        };
        let (has_functions, has_lines) = (known.functions, known.lines);
        let mut message = Message::default();
        message.number(mapping::ID, index as u64 + 1);
        message.number(mapping::MEMORY_START, module.start as u64);
        message.number(mapping::MEMORY_LIMIT, module.end as u64);
        message.number(mapping::FILE_OFFSET, module.file_offset);
        message.number(mapping::FILENAME, self.strings.id(&module.path));
        message.number(mapping::BUILD_ID, self.strings.id(&module.build_id));
        message.number(mapping::HAS_FUNCTIONS, u64::from(has_functions));
        message.number(mapping::HAS_FILENAMES, u64::from(has_lines));
        message.number(mapping::HAS_LINE_NUMBERS, u64::from(has_lines));
        message.number(mapping::HAS_INLINE_FRAMES, u64::from(has_lines));
        self.write(profile::MAPPING, &message)
    }

    /// Writes a message as the field `number` of the profile.
    fn write(&mut self, number: u64, message: &Message) -> io::Result<()> {
        let mut whole = Message::default();
        whole.message(number, message);
        self.out.write_all(&whole.0)
    }
}

/// Texts and their numbers. The number of the empty text is 0.
struct Strings(HashMap<String, u64>);

impl Strings {
    fn new() -> Self {
        Self(HashMap::from([(String::new(), 0)]))
    }

    fn id(&mut self, text: &str) -> u64 {
        if let Some(&id) = self.0.get(text) {
            return id;
        }
        let id = self.0.len() as u64;
        self.0.insert(text.to_owned(), id);
        id
    }

    fn in_order(&self) -> Vec<&str> {
        let mut texts: Vec<(u64, &str)> = self.0.iter().map(|(text, &id)| (id, text.as_str())).collect();
        texts.sort_unstable();
        texts.into_iter().map(|(_, text)| text).collect()
    }
}

/// The fields of an encoded message.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    /// Adds a number. Readers take a missing number as 0.
    fn number(&mut self, number: u64, value: u64) {
        if value != 0 {
            self.varint(number << 3);
            self.varint(value);
        }
    }

    fn bytes(&mut self, number: u64, value: &[u8]) {
        self.varint(number << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn message(&mut self, number: u64, message: &Self) {
        self.bytes(number, &message.0);
    }

    fn packed(&mut self, number: u64, values: &[u64]) {
        let mut content = Self::default();
        for &value in values {
            content.varint(value);
        }
        self.message(number, &content);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push((value & 0x7f) as u8);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::modules::tests::two_modules;
    use super::*;

    /// The messages of `profile.proto`, for another implementation of the encoding.
    mod proto {
        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Profile {
            #[prost(message, repeated, tag = "1")]
            pub(super) sample_type: Vec<ValueType>,
            #[prost(message, repeated, tag = "2")]
            pub(super) sample: Vec<Sample>,
            #[prost(message, repeated, tag = "3")]
            pub(super) mapping: Vec<Mapping>,
            #[prost(message, repeated, tag = "4")]
            pub(super) location: Vec<Location>,
            #[prost(message, repeated, tag = "5")]
            pub(super) function: Vec<Function>,
            #[prost(string, repeated, tag = "6")]
            pub(super) string_table: Vec<String>,
            #[prost(int64, tag = "9")]
            pub(super) time_nanos: i64,
            #[prost(message, optional, tag = "11")]
            pub(super) period_type: Option<ValueType>,
            #[prost(int64, tag = "12")]
            pub(super) period: i64,
            #[prost(int64, tag = "14")]
            pub(super) default_sample_type: i64,
        }

        #[derive(Clone, Copy, PartialEq, prost::Message)]
        pub(super) struct ValueType {
            #[prost(int64, tag = "1")]
            pub(super) r#type: i64,
            #[prost(int64, tag = "2")]
            pub(super) unit: i64,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Sample {
            #[prost(uint64, repeated, tag = "1")]
            pub(super) location_id: Vec<u64>,
            #[prost(int64, repeated, tag = "2")]
            pub(super) value: Vec<i64>,
        }

        #[expect(clippy::struct_excessive_bools, reason = "as in profile.proto")]
        #[derive(Clone, Copy, PartialEq, prost::Message)]
        pub(super) struct Mapping {
            #[prost(uint64, tag = "1")]
            pub(super) id: u64,
            #[prost(uint64, tag = "2")]
            pub(super) memory_start: u64,
            #[prost(uint64, tag = "3")]
            pub(super) memory_limit: u64,
            #[prost(uint64, tag = "4")]
            pub(super) file_offset: u64,
            #[prost(int64, tag = "5")]
            pub(super) filename: i64,
            #[prost(int64, tag = "6")]
            pub(super) build_id: i64,
            #[prost(bool, tag = "7")]
            pub(super) has_functions: bool,
            #[prost(bool, tag = "8")]
            pub(super) has_filenames: bool,
            #[prost(bool, tag = "9")]
            pub(super) has_line_numbers: bool,
            #[prost(bool, tag = "10")]
            pub(super) has_inline_frames: bool,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Location {
            #[prost(uint64, tag = "1")]
            pub(super) id: u64,
            #[prost(uint64, tag = "2")]
            pub(super) mapping_id: u64,
            #[prost(uint64, tag = "3")]
            pub(super) address: u64,
            #[prost(message, repeated, tag = "4")]
            pub(super) line: Vec<Line>,
        }

        #[derive(Clone, Copy, PartialEq, prost::Message)]
        pub(super) struct Line {
            #[prost(uint64, tag = "1")]
            pub(super) function_id: u64,
            #[prost(int64, tag = "2")]
            pub(super) line: i64,
        }

        #[derive(Clone, Copy, PartialEq, prost::Message)]
        pub(super) struct Function {
            #[prost(uint64, tag = "1")]
            pub(super) id: u64,
            #[prost(int64, tag = "2")]
            pub(super) name: i64,
            #[prost(int64, tag = "3")]
            pub(super) system_name: i64,
            #[prost(int64, tag = "4")]
            pub(super) filename: i64,
        }
    }

    fn decode(bytes: &[u8]) -> proto::Profile {
        let mut message = Vec::new();
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut message).unwrap();
        prost::Message::decode(&message[..]).unwrap()
    }

    /// Writes a profile, with a set of modules.
    fn written(modules: Modules, stacks: &[(&[usize], u64, u64)]) -> proto::Profile {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(modules, &mut out).unwrap();
        for (stack, bytes, blocks) in stacks {
            encoder.sample(stack, [*blocks, *bytes]).unwrap();
        }
        encoder.finish(512 << 10).unwrap();
        decode(&out)
    }

    fn text(profile: &proto::Profile, id: i64) -> &str {
        &profile.string_table[usize::try_from(id).unwrap()]
    }

    #[test]
    fn write_pprof_has_types_period_and_time() {
        let mut out = Vec::new();
        HeapProfile::for_test(&[(&[0x31, 0x21], 300, 2)]).write_pprof(&mut out).unwrap();
        let profile = decode(&out);
        let types = |value: &proto::ValueType| (text(&profile, value.r#type), text(&profile, value.unit));
        let sample_types: Vec<_> = profile.sample_type.iter().map(types).collect();
        assert_eq!(sample_types, [("inuse_objects", "count"), ("inuse_space", "bytes")]);
        assert_eq!(profile.period_type.as_ref().map(types), Some(("space", "bytes")));
        assert_eq!(profile.period, 512 << 10);
        assert_eq!(text(&profile, profile.default_sample_type), "inuse_space");
        assert_eq!(profile.string_table[0], "");
        assert!(profile.time_nanos > 1_577_836_800_000_000_000, "after 2020");
        assert_eq!(profile.sample.len(), 1);
        assert_eq!(profile.sample[0].value, [2, 300]);
        assert_eq!(profile.location[0].address, 0x30);
    }

    #[test]
    fn write_pprof_shares_locations_between_samples() {
        let stacks: [(&[usize], u64, u64); 2] = [(&[0x10_1234, 0x20_1001, 0x5], 1 << 40, 3), (&[0x20_1001], 1, 1)];
        let profile = written(two_modules(), &stacks);
        let samples: Vec<_> = profile.sample.iter().map(|s| (s.location_id.clone(), s.value.clone())).collect();
        assert_eq!(samples, [(vec![1, 2, 3], vec![3, 1 << 40]), (vec![2], vec![1, 1])]);
        let locations: Vec<_> = profile.location.iter().map(|l| (l.id, l.mapping_id, l.address)).collect();
        assert_eq!(locations, [(1, 1, 0x10_1233), (2, 2, 0x20_1000), (3, 0, 4)]);
    }

    #[test]
    fn write_pprof_describes_the_loaded_files() {
        let profile = written(two_modules(), &[(&[0x10_1234], 1, 1)]);
        let mapping = profile.mapping[1];
        assert_eq!((mapping.id, mapping.memory_start, mapping.memory_limit), (2, 0x20_1000, 0x20_2000));
        assert_eq!((mapping.file_offset, mapping.has_functions, mapping.has_line_numbers), (0x1000, false, false));
        assert_eq!(text(&profile, mapping.filename), "/lib/lib c.so");
        assert_eq!(text(&profile, mapping.build_id), "c0ffee");
        assert!(!mapping.has_filenames && !mapping.has_inline_frames);
        assert!(!profile.mapping[0].has_functions);
    }

    #[test]
    fn write_pprof_of_an_empty_profile_is_a_profile() {
        let profile = written(two_modules(), &[]);
        assert_eq!((profile.sample.len(), profile.location.len(), profile.mapping.len()), (0, 0, 2));
        assert!(!profile.mapping[0].has_functions);
    }

    #[test]
    fn varint_has_seven_bits_in_each_byte() {
        for (value, bytes) in [(0, &[0][..]), (127, &[127]), (128, &[0x80, 1]), (300, &[0xAC, 2])] {
            let mut message = Message::default();
            message.varint(value);
            assert_eq!(message.0, bytes);
        }
        let mut message = Message::default();
        message.varint(u64::MAX);
        assert_eq!(message.0, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
    }

    #[cfg(all(target_os = "linux", feature = "symbols", not(miri)))]
    #[test]
    fn write_pprof_with_symbols_has_functions_and_lines() {
        use super::super::modules::tests::executable;
        use super::super::symbols::tests::stack_of_named_caller;

        let stack = stack_of_named_caller();
        let profile = written(executable(), &[(&stack, 4096, 1)]);
        let innermost = &profile.location[0];
        let functions: Vec<_> = innermost
            .line
            .iter()
            .map(|line| {
                let function = profile.function.iter().find(|function| function.id == line.function_id).unwrap();
                assert_eq!(function.system_name, 0);
                (text(&profile, function.name), text(&profile, function.filename), line.line)
            })
            .collect();
        let (name, file, line) = functions[0];
        assert!(name.contains("stack_of_named_caller"), "{functions:?}");
        // The tests are also built without debug information.
        assert_eq!(file.ends_with("symbols.rs"), line > 0, "{functions:?}");
        assert!(profile.mapping[0].has_functions);
        assert_eq!(profile.mapping[0].has_line_numbers, profile.mapping[0].has_inline_frames);
    }
}
