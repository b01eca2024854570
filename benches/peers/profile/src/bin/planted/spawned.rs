//! Leaks of tasks.

use profile_workers::Leak;
use profile_workers::leaks::{retain, runtime};
use tokio::sync::mpsc;
use tokio::task::yield_now;

pub(super) const LEAKS: [Leak; 4] =
    profile_workers::leaks!("spawn" in "spawned.rs": spawn_fetch, spawn_channel, spawn_nested, spawn_method);

fn spawn_fetch(bytes: usize) {
    async fn page(number: usize) -> String {
        yield_now().await;
        format!("{number:02000}")
    }
    let task = async move {
        for number in 0..bytes / 2000 {
            retain(page(number).await);
        }
    };
    let _ = runtime().block_on(async { tokio::spawn(task).await });
}

fn spawn_channel(bytes: usize) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let task = async move {
        for number in 0..bytes / 256 {
            let _ = sender.send([number as u8; 256]);
        }
    };
    let _ = runtime().block_on(async { tokio::spawn(task).await });
    retain(receiver);
}

fn spawn_nested(bytes: usize) {
    let task = async move {
        let inner = async move {
            yield_now().await;
            (0..bytes / 300).map(|number| vec![number as u8; 300]).collect::<Vec<_>>()
        };
        if let Ok(blocks) = tokio::spawn(inner).await {
            retain(blocks);
        }
    };
    let _ = runtime().block_on(async { tokio::spawn(task).await });
}

fn spawn_method(bytes: usize) {
    struct Cache {
        lines: Vec<String>,
    }
    impl Cache {
        fn fill(&mut self, bytes: usize) {
            for number in 0..bytes / 130 {
                self.lines.push(format!("{number:0100}"));
            }
        }
    }
    let task = async move {
        let mut cache = Cache { lines: Vec::new() };
        cache.fill(bytes);
        yield_now().await;
        retain(cache.lines);
    };
    let _ = runtime().block_on(async { tokio::spawn(task).await });
}
