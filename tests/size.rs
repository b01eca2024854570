//! Sizes and their text, against a twin that computes with a slow and obvious decimal.
#![expect(clippy::unwrap_used, reason = "a test may")]

use plimsoll::{ByteDelta, ByteSize, ParseByteSizeError as Error};
use proptest::prelude::*;

fn parse(text: &str) -> Result<u64, Error> {
    text.parse().map(ByteSize::as_u64)
}

#[test]
fn the_unit_is_the_largest_that_leaves_a_whole_part() {
    for (bytes, text) in [
        (0, "0 B"),
        (512, "512 B"),
        (1_023, "1023 B"),
        (1_024, "1.0 KiB"),
        (1_536, "1.5 KiB"),
        (124_151_398, "118.4 MiB"),
        (134_217_728, "128.0 MiB"),
        (10_737_418_240, "10.0 GiB"),
        (1 << 50, "1024.0 TiB"),
        (u64::MAX, "16777216.0 TiB"),
    ] {
        assert_eq!(ByteSize::bytes(bytes).to_string(), text);
    }
}

#[test]
fn a_size_that_rounds_to_1024_takes_the_next_unit() {
    let nearly_1_mib = ByteSize::bytes((1 << 20) - 1);
    assert_eq!(nearly_1_mib.to_string(), "1.0 MiB");
    assert_eq!(format!("{nearly_1_mib:.3}"), "1023.999 KiB");
    assert_eq!(format!("{nearly_1_mib:.2}"), "1.00 MiB");
    assert_eq!(ByteSize::bytes(1_048_524).to_string(), "1023.9 KiB");
    assert_eq!(ByteSize::bytes(1_048_525).to_string(), "1.0 MiB");
    assert_eq!(ByteSize::bytes((1 << 30) - 1).to_string(), "1.0 GiB");
    assert_eq!(ByteSize::bytes((1 << 40) - 1).to_string(), "1.0 TiB");
}

#[test]
fn precision_width_fill_and_alignment_are_honoured() {
    let size = ByteSize::kib(1_536);
    assert_eq!(
        format!("{size:.0}|{size:.2}|{size:12}|{size:*<12}|{size:^10.2}"),
        "2 MiB|1.50 MiB|     1.5 MiB|1.5 MiB*****| 1.50 MiB "
    );
    assert_eq!(format!("{:>8}|{:.3}", ByteSize::bytes(7), ByteSize::bytes(7)), "     7 B|7 B");
    assert_eq!(format!("{:.40}", ByteSize::bytes(u64::MAX)), "16777215.999999999999090505 TiB");
}

#[test]
fn debug_is_exact_and_readable() {
    assert_eq!(format!("{:?} {:?}", ByteSize::bytes(5), ByteSize::kib(2)), "ByteSize(5 B) ByteSize(2048 B, 2.0 KiB)");
    assert_eq!(
        format!("{:?} {:?}", ByteDelta::bytes(-5), ByteDelta::bytes(2048)),
        "ByteDelta(-5 B) ByteDelta(+2048 B, +2.0 KiB)"
    );
}

#[test]
fn a_delta_always_shows_its_sign() {
    for (bytes, text) in [
        (0, "+0 B"),
        (1, "+1 B"),
        (-1, "-1 B"),
        (-1_258_291, "-1.2 MiB"),
        (i64::MAX, "+8388608.0 TiB"),
        (i64::MIN, "-8388608.0 TiB"),
    ] {
        assert_eq!(ByteDelta::bytes(bytes).to_string(), text);
    }
    assert_eq!(format!("{:>10}|{:<10.0}|", ByteDelta::bytes(-2048), ByteDelta::bytes(2048)), "  -2.0 KiB|+2 KiB    |");
}

#[test]
fn a_delta_is_clamped_and_otherwise_exact() {
    let (zero, one, max) = (ByteSize::ZERO, ByteSize::bytes(1), ByteSize::MAX);
    assert_eq!(ByteDelta::between(zero, one).as_i64(), 1);
    assert_eq!(ByteDelta::between(one, zero).as_i64(), -1);
    assert_eq!(ByteDelta::between(zero, max).as_i64(), i64::MAX);
    assert_eq!(ByteDelta::between(max, zero).as_i64(), i64::MIN);
    assert_eq!(ByteDelta::bytes(i64::MIN).magnitude(), ByteSize::bytes(1 << 63));
}

#[test]
fn units_are_told_apart_in_any_case() {
    for (text, bytes) in [
        ("1024", 1_024),
        ("  1024 \n", 1_024),
        ("7 b", 7),
        ("1kb", 1_000),
        ("1 kB", 1_000),
        ("1 KB", 1_000),
        ("64KiB", 65_536),
        ("128 MB", 128_000_000),
        ("128 MiB", 134_217_728),
        ("128 mib", 134_217_728),
        ("118.4 MiB", 124_151_398),
        ("1 GB", 1_000_000_000),
        ("1GiB", 1 << 30),
        ("2TB", 2_000_000_000_000),
        ("1 tib", 1 << 40),
        ("18446744073709551615", u64::MAX),
        ("16777215.99999999999909 TiB", u64::MAX),
    ] {
        assert_eq!(parse(text), Ok(bytes), "{text}");
    }
}

#[test]
fn exponents_are_exact_and_fractions_round_half_up() {
    for (text, bytes) in [
        ("7.9E7", 79_000_000),
        ("1.28e8", 128_000_000),
        ("1e+3", 1_000),
        ("1.5e-1 KiB", 154),
        ("0.4", 0),
        ("0.5", 1),
        ("0.49999999999999999999", 0),
        ("1.5", 2),
        ("1e-999", 0),
        ("99999999999999999999999999e-26 TiB", 1 << 40),
        ("0e999", 0),
        ("0.00000000000000000000001e23", 1),
        ("1844674407370955161.5e1", u64::MAX),
    ] {
        assert_eq!(parse(text), Ok(bytes), "{text}");
    }
}

#[test]
fn a_bare_k_m_g_or_t_names_both_readings() {
    for (text, decimal, binary) in
        [("64K", "kB", "KiB"), ("128 M", "MB", "MiB"), ("1g", "GB", "GiB"), ("1 T", "TB", "TiB")]
    {
        let error = parse(text).unwrap_err();
        assert!(matches!(error, Error::AmbiguousUnit { decimal: d, binary: b, .. } if d == decimal && b == binary));
    }
    assert_eq!(
        parse("128M").unwrap_err().to_string(),
        "the unit \"M\" is ambiguous: write MB (1000-based) or MiB (1024-based)"
    );
}

#[test]
fn what_is_no_size_says_why() {
    let is_no_number = |text| matches!(parse(text), Err(Error::NotANumber { .. }));
    for text in ["NaN", "inf", "MiB", ".5 MiB", "5.", "1. MiB", "1.2.3", "1_000", "1,000", "+1", "\u{ff11}"] {
        assert!(is_no_number(text), "{text}");
    }
    for text in ["12 parsecs", "1e", "1e5.5", "1 E5", "1 MiB/s", "1 µB", "1 MB 2", "0x10", "1\0"] {
        assert!(matches!(parse(text), Err(Error::UnknownUnit { .. })), "{text}");
    }
    for text in ["18446744073709551616", "18446744073709551615.5", "1e999", "1e99999999999999999999", "16777216 TiB"] {
        assert!(matches!(parse(text), Err(Error::TooLarge { .. })), "{text}");
    }
    for text in ["-1", "-0", "-1.5 MiB"] {
        assert!(matches!(parse(text), Err(Error::Negative { .. })), "{text}");
    }
    for text in ["", "   ", "\n\t"] {
        assert_eq!(parse(text), Err(Error::Empty));
    }
    for text in ["1".repeat(49), "1".repeat(27), format!("1.{}", "0".repeat(26)), " ".repeat(48) + &"é".repeat(1000)] {
        assert!(matches!(parse(&text), Err(Error::TooLong { .. })), "{text}");
    }
}

#[test]
fn hostile_text_is_quoted_in_ascii_and_cut() {
    let hostile = format!("1 {}", "\u{1b}[2J\"\u{202e}".repeat(8));
    let message = parse(&hostile).unwrap_err().to_string();
    assert!(message.is_ascii() && message.chars().all(|c| !c.is_ascii_control()), "{message}");
    assert!(message.contains(r#""1 \u{1b}[2J\"\u{202e}\u{1b}[2J\"..." is no size"#), "{message}");

    let longest = parse(&"x".repeat(1_000_000)).unwrap_err().to_string();
    assert!(longest.contains(&format!("\"{}...\"", "x".repeat(37))) && longest.len() < 140, "{longest}");
}

#[test]
fn arithmetic_stays_in_range_and_says_when_it_left() {
    const IS_CONST: Option<ByteSize> = ByteSize::mib(2).saturating_sub(ByteSize::kib(1)).checked_mul(3);
    assert_eq!(IS_CONST, Some(ByteSize::kib(6 * 1024 - 3)));

    let (one, max) = (ByteSize::bytes(1), ByteSize::MAX);
    assert_eq!((max.checked_add(one), max.saturating_add(one)), (None, max));
    assert_eq!((one.checked_sub(max), one.saturating_sub(max)), (None, ByteSize::ZERO));
    assert_eq!((max.checked_mul(2), max.saturating_mul(2)), (None, max));
    assert_eq!((ByteSize::kib(u64::MAX), ByteSize::gb(u64::MAX)), (max, max));
    assert_eq!((max.percent(100), max.percent(101), max.percent(0)), (max, max, ByteSize::ZERO));
    assert_eq!(
        (ByteSize::gb(1), ByteSize::mb(1_000), ByteSize::kb(1_000_000)),
        (ByteSize::bytes(1_000_000_000), ByteSize::gb(1), ByteSize::gb(1))
    );
    assert_eq!((ByteSize::gib(1), ByteSize::mib(1_024)), (ByteSize::bytes(1 << 30), ByteSize::gib(1)));
    assert!((ByteSize::kib(1_536).as_mib_f64() - 1.5).abs() < f64::EPSILON);
    assert_eq!(ByteSize::kib(1).as_usize(), 1_024);
}

/// Decimal long division, one digit after the other: `count x unit`, rounded half up after the comma.
fn twin(whole: u32, fraction: &str, exponent: u32, unit: u64) -> u128 {
    let mut digits = whole.to_string() + fraction;
    let mut comma = digits.len() - fraction.len() + exponent as usize;
    while digits.len() < comma {
        digits.push('0');
    }
    let tail = digits.split_off(comma.min(digits.len()));
    comma = tail.len();
    let whole: u128 = digits.parse::<u128>().unwrap() * u128::from(unit);
    let ten = 10_u128.pow(u32::try_from(comma).unwrap());
    let rest: u128 = if tail.is_empty() { 0 } else { tail.parse::<u128>().unwrap() * u128::from(unit) };
    whole + (2 * rest + ten) / (2 * ten)
}

const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("mib", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("tb", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

proptest! {
    #[test]
    fn parsing_agrees_with_long_division(
        whole: u32, fraction in "[0-9]{0,14}", exponent in 0_u32..8, unit in 0_usize..9,
    ) {
        let (name, factor) = UNITS[unit];
        let dot = if fraction.is_empty() { "" } else { "." };
        let text = format!("{whole}{dot}{fraction}e{exponent} {name}");
        let expected = twin(whole, &fraction, exponent, factor);
        prop_assert_eq!(parse(&text).ok(), u64::try_from(expected).ok(), "{}", text);
    }

    #[test]
    fn what_is_printed_reads_back_within_its_rounding(bits in 0_u32..64, noise: u64, places in 0_usize..20) {
        let bytes = noise >> bits;
        let printed = format!("{:.places$}", ByteSize::bytes(bytes));
        let (_, name) = printed.rsplit_once(' ').unwrap();
        let unit = if name == "B" { 0 } else { UNITS.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).unwrap().1 };
        let rounding = u128::from(unit) / (2 * 10_u128.pow(u32::try_from(places.min(18)).unwrap())) + 1;
        match parse(&printed) {
            Ok(read) => prop_assert!(u128::from(read.abs_diff(bytes)) <= rounding, "{} {}", bytes, printed),
            Err(error) => prop_assert!(u128::from(u64::MAX - bytes) <= rounding, "{} {} {}", bytes, printed, error),
        }
        prop_assert!(!printed.starts_with("1024") || unit == 1 << 40, "{}", printed);
    }

    #[test]
    fn no_text_panics(text in "\\PC*") {
        let told = parse(&text).map_err(|error| error.to_string());
        prop_assert!(told.is_ok() || told.is_err_and(|message| message.is_ascii() && message.len() < 160));
    }

    #[test]
    fn no_near_miss_panics(text in "[-+]?[0-9]{0,30}[.]?[0-9]{0,30}[eE]?[-+]?[0-9]{0,12} ?[kKmMgGtT]?[iI]?[bB]?") {
        let told = parse(&text).map_err(|error| error.to_string());
        prop_assert!(told.is_ok() || told.is_err_and(|message| message.is_ascii() && message.len() < 160));
    }

    #[test]
    fn a_share_is_rounded_down(bytes: u64, percent: u32) {
        let exact = u128::from(bytes) * u128::from(percent) / 100;
        prop_assert_eq!(ByteSize::bytes(bytes).percent(percent).as_u64(), u64::try_from(exact).unwrap_or(u64::MAX));
    }

    #[test]
    fn a_difference_leads_back(before: u64, after: u64) {
        let delta = ByteDelta::between(ByteSize::bytes(before), ByteSize::bytes(after));
        let exact = i128::from(after) - i128::from(before);
        prop_assert_eq!(i128::from(delta.as_i64()), exact.clamp(i128::from(i64::MIN), i128::from(i64::MAX)));
    }
}
