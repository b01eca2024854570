//! Programs that do not compile: the compiler's message names the remedy.

use std::path::Path;

use plimsoll_newcomer::{cargo, output, text};

/// Returns the compiler's messages for the program `name`, which does not compile.
fn messages(name: &str) -> String {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is inside of the target directory");
    let mut check = cargo("check", "mistakes", target);
    let output = output(check.args(["--quiet", "--features", "mistakes", "--bin", name]));
    let stderr = text(&output.stderr);
    assert!(!output.status.success(), "{name} compiles");
    stderr
}

#[test]
fn report_layer_on_axum_message_names_the_http_layer() {
    let messages = messages("report_layer_on_axum");
    assert!(messages.contains("`ReportLayer::new` cannot find the request id of"), "{messages}");
    assert!(messages.contains("monitor.http()"), "{messages}");
}

#[test]
fn cache_of_foreign_values_message_names_the_weigher() {
    let messages = messages("cache_of_foreign_values");
    assert!(messages.contains("the heap size of `Value` is not known"), "{messages}");
    assert!(messages.contains("max_bytes_weighed"), "{messages}");
}
