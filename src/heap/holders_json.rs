//! [`Holders`] as members of a JSON object: for records of a bounded length, and for `serde`.
//!
//! ```json
//! {"heap":109051904,"unattributed":10485760,"sums":{"gauges":94371840,"sites":4194304,"reserved":4194304},
//!  "sites":[{"bytes":44040192,"share":40.4,"blocks":168,"function":"app::remember","location":"src/main.rs:12",
//!            "address":"0x1a2b3b","stack":["0x1a2b3b","0x1a0f71"]}],
//!  "build_id":"9f86d081","gauges":{"sessions":94371840},"reserved":{"thumbnails":4194304}}
//! ```

use std::fmt;

use crate::board::Shown;
#[cfg(feature = "profile")]
use crate::os;
use crate::os::Line;
use crate::size::ByteSize;

use super::holders::{HeapSite, Holders};

/// The entries of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// The most sites.
    pub(crate) sites: usize,
    /// The most addresses of the stack of a site.
    pub(crate) frames: usize,
    /// The same for a site of which the function is known.
    pub(crate) named_frames: usize,
}

impl<const N: usize> Holders<N> {
    /// Adds the members `unattributed`, `sums`, `sites`, `build_id`, `gauges` and `reserved`, each after a comma. Sizes are in
    /// bytes.
    ///
    /// If the line is full, members and entries that do not fit are left out whole. One byte stays free for the end of
    /// the object.
    pub(crate) fn put_json<const LEN: usize>(&self, line: &mut Line<LEN>, extent: Extent) {
        if let Some(unattributed) = self.unattributed {
            line.put_whole(1, |line| _ = line.put(format_args!(r#","unattributed":{}"#, unattributed.as_u64())));
        }
        let [gauges, sites, reserved] = [self.gauges, self.sites, self.reserved].map(ByteSize::as_u64);
        line.put_whole(1, |line| {
            line.put(format_args!(r#","sums":{{"gauges":{gauges},"sites":{sites},"reserved":{reserved}}}"#));
        });
        if self.is_profiled {
            let sites = self.largest_sites().take(extent.sites);
            put_group(line, "sites", '[', ']', sites, |line, site| {
                let frames = if site.function.is_some() { extent.named_frames } else { extent.frames };
                line.put(format_args!("{}", SiteJson { site, frames }));
            });
        }
        if let Some(id) = build_id().filter(|_| self.largest_sites().next().is_some()) {
            line.put_whole(1, |line| _ = line.put(format_args!(r#","build_id":"{id}""#)));
        }
        for (name, entries) in [("gauges", &self.top_gauges), ("reserved", &self.top_accounts)] {
            put_group(line, name, '{', '}', entries.iter().flatten(), put_entry);
        }
    }
}

fn put_entry<const LEN: usize>(line: &mut Line<LEN>, (name, bytes): &(Shown, ByteSize)) {
    line.put(format_args!(r#""{name}":{}"#, bytes.as_u64()));
}

/// Adds a member that is an array or an object, with as many of the entries as fit.
fn put_group<const LEN: usize, T>(
    line: &mut Line<LEN>,
    name: &str,
    open: char,
    close: char,
    entries: impl Iterator<Item = T>,
    mut put: impl FnMut(&mut Line<LEN>, T),
) {
    line.put_whole(1, |line| {
        line.put(format_args!(r#","{name}":{open}"#));
        let mut comma = "";
        for entry in entries {
            // The end of this member, and of the object.
            let fits = line.put_whole(2, |line| {
                line.put(format_args!("{comma}"));
                put(line, entry);
            });
            if fits {
                comma = ",";
            }
        }
        line.put(format_args!("{close}"));
    });
}

/// A site as a JSON object, with the addresses of up to `frames` calls.
#[derive(Debug)]
pub(crate) struct SiteJson<'a> {
    pub(crate) site: &'a HeapSite,
    pub(crate) frames: usize,
}

impl fmt::Display for SiteJson<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HeapSite { bytes, blocks, function, location, .. } = self.site;
        let tenths = self.site.share_in_tenths();
        write!(f, r#"{{"bytes":{},"share":{}.{},"blocks":{blocks}"#, bytes.as_u64(), tenths / 10, tenths % 10)?;
        // Both are without characters that need an escape.
        if let Some(function) = function {
            write!(f, r#","function":"{function}""#)?;
        }
        if let Some(location) = location {
            write!(f, r#","location":"{location}""#)?;
        }
        if let Some(address) = self.site.addresses().next() {
            write!(f, r#","address":"{address:#x}""#)?;
        }
        if self.frames > 0 {
            f.write_str(r#","stack":["#)?;
            for (index, address) in self.site.addresses().take(self.frames).enumerate() {
                write!(f, r#"{}"{address:#x}""#, if index == 0 { "" } else { "," })?;
            }
            f.write_str("]")?;
        }
        f.write_str("}")
    }
}

impl HeapSite {
    /// Returns the share in tenths of a percent, rounded. Floats are not printed: their tables are large.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
    pub(crate) fn share_in_tenths(&self) -> u32 {
        (self.share * 1000.0 + 0.5) as u32
    }
}

/// Returns the build id of the executable: it selects the file that addresses belong to. Does not allocate.
#[cfg(feature = "profile")]
pub(crate) fn build_id() -> Option<impl fmt::Display> {
    let id = os::executable_build_id();
    (!id.as_str().is_empty()).then(|| fmt::from_fn(move |f| f.write_str(id.as_str())))
}

#[cfg(not(feature = "profile"))]
pub(crate) const fn build_id() -> Option<&'static str> {
    None
}

#[cfg(feature = "serde")]
mod serde {
    use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};

    use super::{HeapSite, Holders, Shown, build_id};
    use crate::size::ByteSize;

    /// Sizes are in bytes, shares in percent. A figure that is not known has no member.
    ///
    /// ```json
    /// {"heap":109051904,"unattributed":10485760,"rss":117014528,"kept":2097152,"rest":5865472,
    ///  "sums":{"gauges":94371840,"sites":4194304,"reserved":4194304},
    ///  "sites":[{"bytes":44040192,"share":40.4,"blocks":168,"function":"app::remember","location":"src/main.rs:12",
    ///            "stack":["0x1a2b3b","0x1a0f71"]}],
    ///  "gauges":{"sessions":94371840},"reserved":{"thumbnails":4194304},"build_id":"9f86d081"}
    /// ```
    ///
    /// `sites` and `build_id` are there if the profile runs. The addresses of `stack` are relative to the executable,
    /// innermost first.
    impl<const N: usize> Serialize for Holders<N> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(None)?;
            for (name, size) in
                [("heap", self.heap), ("unattributed", self.unattributed), ("rss", self.rss), ("kept", self.kept)]
            {
                if let Some(size) = size {
                    map.serialize_entry(name, &size.as_u64())?;
                }
            }
            if let Some(rest) = self.rest {
                map.serialize_entry("rest", &rest.as_i64())?;
            }
            map.serialize_entry("sums", &Sums { gauges: self.gauges, sites: self.sites, reserved: self.reserved })?;
            if self.is_profiled {
                map.serialize_entry("sites", &Sites(self))?;
                if let Some(id) = build_id() {
                    map.serialize_entry("build_id", &Printed(id))?;
                }
            }
            map.serialize_entry("gauges", &Entries(&self.top_gauges))?;
            map.serialize_entry("reserved", &Entries(&self.top_accounts))?;
            map.end()
        }
    }

    struct Sums {
        gauges: ByteSize,
        sites: ByteSize,
        reserved: ByteSize,
    }

    impl Serialize for Sums {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut sums = serializer.serialize_struct("Sums", 3)?;
            sums.serialize_field("gauges", &self.gauges.as_u64())?;
            sums.serialize_field("sites", &self.sites.as_u64())?;
            sums.serialize_field("reserved", &self.reserved.as_u64())?;
            sums.end()
        }
    }

    struct Entries<'a>(&'a [Option<(Shown, ByteSize)>]);

    impl Serialize for Entries<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let entries = self.0.iter().flatten();
            serializer.collect_map(entries.map(|(name, bytes)| (Printed(name), bytes.as_u64())))
        }
    }

    struct Printed<T>(T);

    impl<T: std::fmt::Display> Serialize for Printed<T> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(&self.0)
        }
    }

    struct Sites<'a, const N: usize>(&'a Holders<N>);

    impl<const N: usize> Serialize for Sites<'_, N> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(self.0.largest_sites())
        }
    }

    /// As an entry of `sites` of [`Holders`].
    impl Serialize for HeapSite {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(None)?;
            map.serialize_entry("bytes", &self.bytes.as_u64())?;
            map.serialize_entry("share", &(f64::from(self.share_in_tenths()) / 10.0))?;
            map.serialize_entry("blocks", &self.blocks)?;
            for (name, text) in [("function", self.function), ("location", self.location)] {
                if let Some(text) = text {
                    map.serialize_entry(name, text)?;
                }
            }
            map.serialize_entry("stack", &Stack(self))?;
            map.end()
        }
    }

    struct Stack<'a>(&'a HeapSite);

    impl Serialize for Stack<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(self.0.addresses().map(|address| Printed(format_args!("{address:#x}").to_string())))
        }
    }
}

#[cfg(all(test, feature = "profile"))]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::heap::profile::HeapProfile;

    const STACK: [usize; 12] = [0x7fff_1234_5678; 12];

    fn sites() -> [Option<HeapSite>; 5] {
        let profile = HeapProfile::for_test(&[(&STACK, 6000, 3), (&STACK[..2], 2500, 2), (&STACK[..1], 1500, 1)]);
        let mut sites = profile.sites.into_iter();
        std::array::from_fn(|_| sites.next().map(HeapSite::new))
    }

    #[test]
    fn site_json_has_share_and_the_first_frames() {
        let mut site = sites()[0].unwrap();
        let json = |site: &HeapSite, frames| -> Value {
            serde_json::from_str(&SiteJson { site, frames }.to_string()).unwrap()
        };
        let stack = vec![Value::from("0x7fff12345677"); 8];
        let whole = json!({"bytes": 6000, "share": 60.0, "blocks": 3, "address": stack[0], "stack": stack});
        assert_eq!(json(&site, 8), whole);
        assert_eq!(site.to_string(), ["0x7fff12345677"; 8].join(" "));
        (site.function, site.location) = (Some("app::leak"), Some("src/main.rs:12"));
        let named = json!({
            "bytes": 6000, "share": 60.0, "blocks": 3, "function": "app::leak", "location": "src/main.rs:12",
            "address": "0x7fff12345677"
        });
        assert_eq!(json(&site, 0), named);
        assert_eq!(site.to_string(), "app::leak (src/main.rs:12)");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn serialize_has_the_documented_shape() {
        let mut holders = Holders::<5>::EMPTY;
        holders.fill(Some(ByteSize::bytes(10_000)));
        holders.rss = Some(ByteSize::bytes(30_000));
        (holders.is_profiled, holders.top_sites, holders.sites) = (true, sites(), ByteSize::bytes(9000));
        let value = serde_json::to_value(holders).unwrap();
        let names: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = ["gauges", "heap", "reserved", "rss", "sites", "sums", "unattributed"];
        assert_eq!(names, expected, "kept, rest and the build id are not known");
        assert_eq!(value["sites"].as_array().map(Vec::len), Some(3));
        assert_eq!(value["sites"][0]["share"], 60.0);
        assert_eq!(value["sites"][2]["stack"], json!(["0x7fff12345677"]));
        assert_eq!((&value["rss"], &value["sums"]["sites"]), (&30_000.into(), &9000.into()));
    }
}
