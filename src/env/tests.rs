//! The variables, each in its good and bad forms.

use super::*;

/// Lambda's variables with `changed` laid over them; `None` unsets.
fn env<'a>(changed: &'a [(&'a str, Option<&'a str>)]) -> impl Fn(&str) -> Option<OsString> + 'a {
    move |name| match changed.iter().find(|(changed, _)| *changed == name) {
        Some((_, value)) => value.map(OsString::from),
        None => (name == MEMORY_SIZE).then(|| "128".into()),
    }
}

fn memory(value: &str) -> Result<ByteSize, EnvError> {
    LambdaEnv::from_lookup(env(&[(MEMORY_SIZE, Some(value))])).map(|env| env.memory_size())
}

#[test]
fn what_is_missing_has_its_documented_default() -> Result<(), EnvError> {
    let env = LambdaEnv::from_lookup(env(&[]))?;
    assert_eq!(env.memory_size(), ByteSize::mib(128));
    assert_eq!((env.function_name(), env.function_version()), (None, None));
    assert_eq!(env.initialization_type(), InitializationType::OnDemand);
    assert_eq!(env.max_concurrency().get(), 1);
    Ok(())
}

#[test]
fn everything_set_is_told() -> Result<(), EnvError> {
    let env = LambdaEnv::from_lookup(env(&[
        (MEMORY_SIZE, Some("4096")),
        (FUNCTION_NAME, Some("_")),
        (FUNCTION_VERSION, Some("$LATEST")),
        (INITIALIZATION_TYPE, Some("snap-start")),
        (MAX_CONCURRENCY, Some("1")),
    ]))?;
    assert_eq!(env.memory_size(), ByteSize::gib(4));
    assert_eq!((env.function_name(), env.function_version()), (Some("_"), Some("$LATEST")));
    assert_eq!(env.initialization_type(), InitializationType::SnapStart);
    Ok(())
}

#[test]
fn memory_sizes_are_accepted_to_the_ends_of_lambdas_range() {
    for (text, mib) in [("128", 128), ("1769", 1_769), ("10240", 10_240), ("00000128", 128)] {
        assert_eq!(memory(text).unwrap(), ByteSize::mib(mib));
    }
    for text in ["0", "127", "4294967424", "99999999999999999999999999"] {
        assert!(matches!(memory(text), Err(EnvError::OutOfRange { min: 128, max: 10_240, .. })), "{text}");
    }
    for text in ["+128", "-128", " 128", "128 ", "128MB", "1e3", "128.0", "0x80", "\u{661}\u{662}\u{668}", "NaN"] {
        assert!(matches!(memory(text), Err(EnvError::NotANumber { min: 128, max: 10_240, .. })), "{text}");
    }
}

#[test]
fn memory_size_above_lambdas_range_is_used_as_it_is() {
    for (text, mib) in [("10241", 10_241), ("32768", 32_768), ("4294967295", 4_294_967_295)] {
        assert_eq!(memory(text).unwrap(), ByteSize::mib(mib));
        let limit = MemoryLimit::detect_in(Path::new("/"), env(&[(MEMORY_SIZE, Some(text))])).unwrap();
        assert_eq!(limit.size(), ByteSize::mib(mib));
    }
}

#[test]
fn managed_instances_may_be_larger() {
    let managed = [(INITIALIZATION_TYPE, "lambda-managed-instances"), (MAX_CONCURRENCY, "2")];
    for (name, value) in managed {
        let size = |mib| LambdaEnv::from_lookup(env(&[(name, Some(value)), (MEMORY_SIZE, Some(mib))]));
        assert_eq!(size("32768").unwrap().memory_size(), ByteSize::gib(32));
        assert!(matches!(size("127"), Err(EnvError::OutOfRange { max: 32_768, .. })));
    }
    let ordinary = LambdaEnv::from_lookup(env(&[(MAX_CONCURRENCY, Some("1")), (MEMORY_SIZE, Some("127"))]));
    assert!(matches!(ordinary, Err(EnvError::OutOfRange { max: 10_240, .. })));
}

#[test]
fn initialization_types_are_known_or_other() {
    for (text, expected) in [
        ("on-demand", InitializationType::OnDemand),
        ("provisioned-concurrency", InitializationType::ProvisionedConcurrency),
        ("snap-start", InitializationType::SnapStart),
        ("lambda-managed-instances", InitializationType::ManagedInstances),
        ("On-Demand", InitializationType::Other),
        ("of the year 2030", InitializationType::Other),
    ] {
        let env = LambdaEnv::from_lookup(env(&[(INITIALIZATION_TYPE, Some(text))])).unwrap();
        assert_eq!(env.initialization_type(), expected);
    }
}

#[test]
fn concurrency_is_a_number_from_1_to_1600() {
    let read =
        |text| LambdaEnv::from_lookup(env(&[(MAX_CONCURRENCY, Some(text))])).map(|env| env.max_concurrency().get());
    assert_eq!((read("1").unwrap(), read("8").unwrap(), read("1600").unwrap()), (1, 8, 1_600));
    assert_eq!(read("0001600").unwrap(), 1_600);
}

#[test]
fn max_concurrency_not_understood_counts_as_1() {
    for text in ["", "0", "1601", "99999999999", "eight", "+8", "8 "] {
        let changed = [(MAX_CONCURRENCY, Some(text))];
        let lambda = LambdaEnv::from_lookup(env(&changed)).unwrap();
        assert_eq!((lambda.max_concurrency().get(), lambda.memory_size()), (1, ByteSize::mib(128)), "{text}");
        let limit = MemoryLimit::detect_in(Path::new("/"), env(&changed)).unwrap();
        assert_eq!(limit.size(), ByteSize::mib(128));
    }
}

#[test]
fn each_variable_that_is_empty_or_no_text_is_an_error_by_name() {
    for variable in [MEMORY_SIZE, FUNCTION_NAME, FUNCTION_VERSION, INITIALIZATION_TYPE] {
        let empty = LambdaEnv::from_lookup(env(&[(variable, Some(""))]));
        assert!(matches!(empty, Err(EnvError::Empty { name }) if name == variable), "{variable}");
    }
    let missing = LambdaEnv::from_lookup(env(&[(MEMORY_SIZE, None)]));
    assert!(matches!(missing, Err(EnvError::Missing { name: MEMORY_SIZE })));
}

#[cfg(unix)]
#[test]
fn bytes_that_are_no_text_are_an_error_by_name() {
    use std::os::unix::ffi::OsStringExt;

    for variable in [MEMORY_SIZE, FUNCTION_NAME, FUNCTION_VERSION, INITIALIZATION_TYPE] {
        let others = env(&[]);
        let lookup = |name: &str| {
            if name == variable { Some(OsString::from_vec(vec![b'1', 0xff, 0x1b])) } else { others(name) }
        };
        let error = LambdaEnv::from_lookup(lookup).unwrap_err();
        assert_eq!(error.to_string(), format!("{variable} is \"1\\u{{fffd}}\\u{{1b}}\", which is not unicode"));
    }
}

#[test]
fn messages_name_variable_value_range_and_unit() {
    assert_eq!(
        memory("64").unwrap_err().to_string(),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE is 64: expected 128 to 10240 MB of 1,048,576 bytes"
    );
    let hostile = memory(&"\u{1b}[2J\n".repeat(1_000)).unwrap_err().to_string();
    assert!(hostile.is_ascii() && !hostile.contains(['\n', '\u{1b}']) && hostile.len() < 160, "{hostile}");
}

proptest::proptest! {
    #[test]
    fn no_value_panics(name in 0_usize..5, value in "\\PC*|[0-9]{0,12}") {
        let names = [MEMORY_SIZE, FUNCTION_NAME, FUNCTION_VERSION, INITIALIZATION_TYPE, MAX_CONCURRENCY];
        let read = LambdaEnv::from_lookup(env(&[(names[name], Some(&value))]));
        assert!(read.is_ok() || read.is_err_and(|error| error.to_string().len() < 160));
    }
}
