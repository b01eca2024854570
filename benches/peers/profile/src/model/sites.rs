//! The forty sites.

use std::any::Any;

use super::{Mark, SITES, styles};
use crate::Random;

/// The blocks of one call of a site. Any thread may free them.
pub(crate) type Held = Box<dyn Any + Send>;

/// A function that allocates about `bytes` bytes.
pub(crate) type Site = fn(usize, &mut Random) -> Held;

/// The prefix of the names of all sites. Two digits follow.
const PREFIX: &str = "::site_";

macro_rules! sites {
    ($($name:ident = $index:literal, $style:ident;)*) => {
        $(
            #[inline(never)]
            fn $name(bytes: usize, random: &mut Random) -> Held {
                let _mark = Mark::new($index);
                styles::$style(bytes, random)
            }
        )*

        /// The sites in the order of their indexes.
        pub(crate) const ALL: [Site; SITES] = [$($name),*];
    };
}

sites! {
    site_00 = 0, buffers; site_01 = 1, pushed; site_02 = 2, boxes; site_03 = 3, strings; site_04 = 4, maps;
    site_05 = 5, large; site_06 = 6, nodes; site_07 = 7, nested; site_08 = 8, regrown; site_09 = 9, trees;
    site_10 = 10, buffers; site_11 = 11, pushed; site_12 = 12, boxes; site_13 = 13, strings; site_14 = 14, maps;
    site_15 = 15, large; site_16 = 16, nodes; site_17 = 17, nested; site_18 = 18, regrown; site_19 = 19, trees;
    site_20 = 20, buffers; site_21 = 21, pushed; site_22 = 22, boxes; site_23 = 23, strings; site_24 = 24, maps;
    site_25 = 25, large; site_26 = 26, nodes; site_27 = 27, nested; site_28 = 28, regrown; site_29 = 29, trees;
    site_30 = 30, buffers; site_31 = 31, pushed; site_32 = 32, boxes; site_33 = 33, strings; site_34 = 34, maps;
    site_35 = 35, large; site_36 = 36, nodes; site_37 = 37, nested; site_38 = 38, regrown; site_39 = 39, trees;
}

/// Returns the index of the site that `function` is, or is an item of.
pub(crate) fn index(function: &str) -> Option<usize> {
    let (_, rest) = function.split_once(PREFIX)?;
    rest.get(..2)?.parse().ok().filter(|index| *index < SITES)
}

#[cfg(test)]
mod tests {
    use super::index;

    #[test]
    fn index_site_returns_its_number() {
        assert_eq!(index("profile_workers::model::sites::site_07"), Some(7));
        assert_eq!(index("profile_workers::model::sites::site_39::{{closure}}"), Some(39));
    }

    #[test]
    fn index_other_function_returns_none() {
        assert_eq!(index("profile_workers::model::styles::maps"), None);
        assert_eq!(index("profile_workers::model::sites::site_40"), None);
    }
}
