//! Leaks of tasks.

use tokio::task::{JoinSet, yield_now};

use super::{retain, runtime};
use crate::Leak;

pub(super) const LEAKS: [Leak; 4] =
    crate::leaks!("spawn" in "spawned.rs": spawn_buffers, spawn_sessions, spawn_after_yield, spawn_joined);

fn spawn_buffers(bytes: usize) {
    let task = async move {
        let buffers: Vec<Vec<u8>> = (0..bytes / 1100).map(|_| vec![2; 1100]).collect();
        retain(buffers);
    };
    let _ = runtime().block_on(async { tokio::spawn(task).await });
}

/// A session of a client.
struct Session {
    _name: String,
    _buffer: Box<[u8; 512]>,
}

fn spawn_sessions(bytes: usize) {
    async fn open(number: usize) -> Session {
        yield_now().await;
        Session { _name: number.to_string(), _buffer: Box::new([1; 512]) }
    }
    let task = async move {
        let mut sessions = Vec::new();
        for number in 0..bytes / 600 {
            sessions.push(open(number).await);
        }
        retain(sessions);
    };
    let _ = runtime().block_on(async { tokio::spawn(task).await });
}

fn spawn_after_yield(bytes: usize) {
    let task = async move {
        for _ in 0..16 {
            yield_now().await;
            retain(vec![7_u8; bytes / 16]);
        }
    };
    let _ = runtime().block_on(async { tokio::spawn(task).await });
}

fn spawn_joined(bytes: usize) {
    let tasks = async move {
        let mut set = JoinSet::new();
        for part in 0..8_u8 {
            set.spawn(async move { (0..bytes / 8 / 256).map(|_| Box::new([part; 256])).collect::<Vec<_>>() });
        }
        while let Some(Ok(part)) = set.join_next().await {
            retain(part);
        }
    };
    runtime().block_on(tasks);
}
