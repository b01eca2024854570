//! Short texts that come from elsewhere, each beside a twin: the policy of reports, request ids, Lambda's variables.

use std::ffi::OsString;

use plimsoll::monitor::{ReportPolicy, RequestId};
use plimsoll::{ByteSize, EnvError, LambdaEnv};
use proptest::prelude::*;

/// The twin writes each policy that there is, and looks for the text.
fn twin(text: &str) -> Option<String> {
    let text = text.trim().to_lowercase();
    let number = text.strip_prefix("every:").map(|n| n.trim_start_matches('0'));
    let is_number = |n: &str| n.len() <= 3 && !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit());
    match number {
        Some(n) if is_number(n) => Some(format!("Every({n})")),
        _ => [("each", "Each"), ("on-change", "OnChange"), ("off", "Off")]
            .into_iter()
            .find(|(name, _)| *name == text)
            .map(|(_, policy)| policy.into()),
    }
}

proptest! {
    #[test]
    fn a_policy_is_what_the_twin_reads(text in "[ \\n]?(each|OFF|off|on-change|On-Change|every:0{0,12}[0-9]{0,3}|every:[ -9]{0,3}|[a-z_:-]{0,9})[ \\t]?") {
        match text.parse::<ReportPolicy>() {
            Ok(policy) => {
                prop_assert_eq!(Some(format!("{policy:?}")), twin(&text));
                prop_assert_eq!(policy.to_string().parse(), Ok(policy), "what is printed is read");
            }
            Err(error) => {
                prop_assert_eq!(twin(&text), None, "{}", text);
                prop_assert!(error.to_string().len() < 200);
            }
        }
    }

    #[test]
    fn an_error_of_a_policy_is_one_short_line(text: String) {
        if let Err(error) = text.repeat(20).parse::<ReportPolicy>() {
            let error = error.to_string();
            prop_assert!(error.len() < 200 && error.is_ascii() && !error.contains('\n'), "{}", error);
        }
    }

    #[test]
    fn an_id_keeps_what_the_twin_keeps(text in "(\\PC|[\u{0}-\u{7f}]|[a-f0-9/-]{0,30}){0,40}") {
        let allowed = |letter: &char| matches!(letter, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | ':' | '-' | '/');
        let expected: String = text.chars().filter(allowed).take(64).collect();
        let id = RequestId::new(&text);
        prop_assert_eq!(id.as_str(), &expected);
        prop_assert_eq!(id.to_string(), if expected.is_empty() { "-" } else { &expected });
        prop_assert_eq!(RequestId::new(id.as_str()), id, "what is clean stays as it is");
    }

    #[test]
    fn a_memory_size_is_what_its_digits_say(text in "[0-9]{0,6}|0{0,40}[1-9][0-9]{2,4}|[ +-]?[0-9]{2,5}[ .a-z]?|[0-9]{19,30}|\\PC{0,9}") {
        let of = |name: &str| (name == "AWS_LAMBDA_FUNCTION_MEMORY_SIZE").then(|| OsString::from(&text));
        // The model adds up digit by digit. No text here has 7 to 18 digits.
        let digits = text.trim_start_matches('0');
        let is_number = digits.len() <= 6 && digits.bytes().all(|byte| byte.is_ascii_digit());
        let value = || digits.bytes().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
        let size = is_number.then(value).filter(|mib| *mib >= 128);
        match LambdaEnv::from_lookup(of) {
            Ok(env) => prop_assert_eq!(Some(env.memory_size()), size.map(ByteSize::mib)),
            Err(EnvError::Empty { .. }) => prop_assert!(text.is_empty()),
            Err(error) => {
                prop_assert_eq!(size, None, "{}: {}", text, error);
                let error = error.to_string();
                prop_assert!(error.len() < 200 && error.is_ascii(), "{}", error);
            }
        }
    }
}
