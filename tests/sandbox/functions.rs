//! The functions that are put in the cage: each a whole `lambda_runtime` program, run as a process of its own.

use std::collections::HashMap;
use std::sync::Mutex;

use lambda_runtime::{Error, LambdaEvent, Runtime, service_fn};
use plimsoll::{ByteSize, Monitor, ReportLayer, board, heap};
use serde_json::{Value, json};

use crate::survivor;

/// Serves the Runtime API as the function of this name; does not return but with an error.
pub(crate) fn serve(name: &str) -> Result<(), Error> {
    if name == "survivor" {
        end_with_parent();
        return survivor::survive();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match name {
            "naive" => Runtime::new(service_fn(naive)).run().await,
            "naive-survivor" => Runtime::new(service_fn(survivor::naive)).run().await,
            "leak" => {
                let monitor = Monitor::install_from_env();
                Runtime::new(service_fn(leak)).layer(ReportLayer::new(&monitor)).run().await
            }
            "refused" => {
                let monitor = Monitor::install_from_env();
                heap::set_limit(ByteSize::mib(60))?;
                Runtime::new(service_fn(refused)).layer(ReportLayer::new(&monitor)).run().await
            }
            other => Err(format!("no function {other}").into()),
        }
    })
}

/// Ends the process with the test that began it: at a panic that test lets go of nothing, and this loop asks for ever.
fn end_with_parent() {
    let parent = std::os::unix::process::parent_id();
    std::thread::spawn(move || {
        while std::os::unix::process::parent_id() == parent {
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        std::process::exit(1);
    });
}

/// The example's handler as anyone would write it who need not care for memory: the whole object, every word for ever.
async fn naive(event: LambdaEvent<Value>) -> Result<Value, Error> {
    static COUNTS: Mutex<Option<HashMap<String, u64>>> = Mutex::new(None);
    let content = std::fs::read(event.payload["path"].as_str().ok_or("no path")?)?;
    let text = String::from_utf8_lossy(&content);
    let mut counts = COUNTS.lock().map_err(|error| error.to_string())?;
    let counts = counts.get_or_insert_default();
    for word in text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()) {
        *counts.entry(word.to_lowercase()).or_insert(0) += 1;
    }
    Ok(json!({ "distinct": counts.len() }))
}

/// Keeps `leak_kb` for ever, in pieces of 64 KiB at most, and says so on the board.
async fn leak(event: LambdaEvent<Value>) -> Result<Value, Error> {
    static SESSIONS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    let mut left = usize::try_from(event.payload["leak_kb"].as_u64().ok_or("no leak_kb")? << 10)?;
    while left > 0 {
        let piece = left.min(64 << 10);
        left -= piece;
        SESSIONS.lock().map_err(|error| error.to_string())?.push(vec![1; piece]);
        board::holder("sessions").add(ByteSize::bytes(piece as u64));
    }
    Ok(Value::Null)
}

/// Copes with a refusal of 100 MiB, and dies of one of 80 MiB.
async fn refused(_: LambdaEvent<Value>) -> Result<usize, Error> {
    if Vec::<u8>::new().try_reserve(100 << 20).is_ok() {
        return Err("100 MiB were granted under a limit of 60".into());
    }
    let doomed = vec![1_u8; std::hint::black_box(80 << 20)];
    Ok(doomed.len())
}
