//! Services with the layers of the README, under a Runtime API and under a client.

#[path = "../../support/runtime_api.rs"]
mod runtime_api;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use plimsoll_newcomer::{build, cargo, command, output, program, text};
use runtime_api::{Call, Function, RuntimeApi};

/// A service that does not answer fails its test after this time.
const PATIENCE: Duration = Duration::from_mins(1);

fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the directory is inside of the target directory")
}

/// Runs the function over one event; returns the body that it posted and its line of report.
fn invoke(mut function: Command, event: &str) -> (String, String) {
    let api = RuntimeApi::serve([event.to_owned()]);
    let child = api.environment(&mut function, 128).stderr(Stdio::piped()).spawn();
    let mut function = Function(child.expect("the function starts"));
    let report = BufReader::new(function.0.stderr.take().expect("it is a pipe"));
    assert_eq!(api.calls.recv_timeout(PATIENCE), Ok(Call::Started("request-0".to_owned())));
    let posted = api.calls.recv_timeout(PATIENCE).expect("the function posts an answer");
    let Call::Posted { path, body } = posted else { panic!("{posted:?}") };
    assert_eq!(path, "/2018-06-01/runtime/invocation/request-0/response", "{body}");
    let report = report.lines().map_while(Result::ok).find(|line| line.starts_with("plimsoll"));
    (body, report.expect("the function writes a report"))
}

#[test]
fn lambda_event_is_answered_and_reported() {
    let function = build("lambda", &program("lambda"), &[], target());
    let (answer, report) = invoke(command(&function, &[]), "\"four\"");
    assert_eq!(answer, "4");
    assert!(report.starts_with("plimsoll request-0 heap "), "{report}");
    assert!(report.contains(" of 116 MiB ("), "{report}");
}

#[test]
fn lambda_http_event_is_answered_and_reported_with_its_path() {
    let function = build("web", &program("lambda_function"), &["--bin", "lambda_function"], target());
    let event = r#"{
        "version": "2.0", "routeKey": "$default", "rawPath": "/orders/7", "rawQueryString": "",
        "headers": {"host": "example.com", "content-type": "text/plain"},
        "requestContext": {
            "accountId": "0", "apiId": "0", "domainName": "example.com", "domainPrefix": "example", "requestId": "0",
            "http": {
                "method": "POST", "path": "/orders/7", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "test"
            },
            "routeKey": "$default", "stage": "$default", "time": "29/Nov/2026:05:40:08 +0000", "timeEpoch": 1795930808000
        },
        "body": "four", "isBase64Encoded": false
    }"#;
    let (answer, report) = invoke(command(&function, &[]), event);
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("the answer is JSON");
    assert_eq!((&answer["statusCode"], &answer["body"]), (&200.into(), &"4 bytes".into()), "{answer}");
    assert!(report.starts_with("plimsoll request-0 /orders/7 heap "), "{report}");
}

#[test]
fn axum_request_is_answered_and_reported_with_its_route() {
    let service = build("web", &program("axum_service"), &["--bin", "axum_service"], target());
    let mut service = command(&service, &[("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")]);
    let child = service.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut service = Function(child.expect("the service starts"));
    let mut address = String::new();
    BufReader::new(service.0.stdout.take().expect("it is a pipe")).read_line(&mut address).expect("it is text");
    let mut client = TcpStream::connect(address.trim()).expect("the service listens");
    client.set_read_timeout(Some(PATIENCE)).expect("the time is not zero");
    let request = "GET /orders/7 HTTP/1.1\r\nhost: test\r\nx-request-id: 4f1c9a\r\nconnection: close\r\n\r\n";
    client.write_all(request.as_bytes()).expect("the service reads");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("the service answers");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("an order"), "{answer}");
    let stderr = BufReader::new(service.0.stderr.take().expect("it is a pipe"));
    let report = stderr.lines().next().expect("the service writes a report").expect("it is text");
    assert!(report.starts_with("plimsoll 4f1c9a /orders/{id} heap "), "{report}");
}

#[test]
fn s3_body_unit_test_reads_to_the_end() {
    let output = output(cargo("test", "s3_body", target()).args(["--quiet", "--lib"]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("1 passed"), "{}", text(&output.stdout));
}
