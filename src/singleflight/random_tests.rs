//! Random operations on one shared future, compared with a model.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Poll;

use proptest::prelude::*;

use super::{Remote, SharedFuture, Task, Waiter, must_panic};
use crate::singleflight::Joined;

#[derive(Clone, Copy, Debug)]
enum Op {
    /// Adds a waiter and polls it.
    Join,
    /// Polls the waiter of this index.
    Poll(usize),
    /// Drops the waiter of this index.
    Leave(usize),
    Wake,
    End(u32),
    /// Makes the next poll panic, and wakes.
    Panic,
    PollIfWoken,
    Abandon,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => Just(Op::Join),
        6 => (0..8_usize).prop_map(Op::Poll),
        3 => (0..8_usize).prop_map(Op::Leave),
        4 => Just(Op::Wake),
        2 => (0..9_u32).prop_map(Op::End),
        1 => Just(Op::Panic),
        2 => Just(Op::PollIfWoken),
        1 => Just(Op::Abandon),
    ]
}

/// The state of the future and the outcome of its next poll.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Model {
    Running { next: Next, woken: bool },
    Complete(u32),
    Abandoned,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Next {
    Pends,
    Returns(u32),
    Panics,
}

impl Model {
    /// Polls the future if it was woken. Returns `true` if that panicked.
    fn poll(&mut self) -> bool {
        let Self::Running { next, woken: true } = *self else { return false };
        *self = match next {
            Next::Pends => Self::Running { next, woken: false },
            Next::Returns(output) => Self::Complete(output),
            Next::Panics => Self::Abandoned,
        };
        next == Next::Panics
    }

    /// Prepares the next poll for a wake-up by `op`.
    fn wake(&mut self, op: Op, remote: &Remote) {
        let Self::Running { next, woken } = self else { return };
        *woken = true;
        match op {
            Op::End(output) if *next == Next::Pends => {
                *next = Next::Returns(output);
                *remote.0.output.lock().unwrap() = Some(output);
            }
            Op::Panic => {
                *next = Next::Panics;
                remote.0.panics.store(true, SeqCst);
            }
            _ => {}
        }
    }

    fn joined(self) -> Poll<Joined<u32>> {
        match self {
            Self::Running { .. } => Poll::Pending,
            Self::Complete(output) => Poll::Ready(Joined::Complete(output)),
            Self::Abandoned => Poll::Ready(Joined::Abandoned),
        }
    }
}

struct Member {
    task: Task,
    waiter: Waiter<u32>,
    is_starter: bool,
}

/// Runs `ops`. After each of them, some task that waits has been woken if there is a reason to poll.
fn run(detached: bool, ops: Vec<Op>) -> Result<(), TestCaseError> {
    let (remote, task) = (Remote::default(), Task::default());
    let mut starter = SharedFuture::begin(task.waker());
    let shared = Arc::clone(starter.shared());
    let mut members = Vec::new();
    let mut model = Model::Running { next: Next::Pends, woken: false };
    if detached {
        starter.detach(|| remote.future());
        prop_assert!(!shared.poll_if_woken());
    } else {
        starter.start(|| remote.future());
        members.push(Member { task, waiter: starter, is_starter: true });
    }
    for op in ops {
        match op {
            Op::Join => {
                let mut member = Member { task: Task::default(), waiter: shared.waiter(), is_starter: false };
                model.poll();
                let joined = member.task.poll(&mut member.waiter);
                prop_assert_eq!(&joined, &model.joined());
                if joined.is_pending() {
                    members.push(member);
                }
            }
            Op::Poll(index) => {
                let Some(member) = members.get_mut(index) else { continue };
                member.task.woken();
                if model.poll() && member.is_starter {
                    must_panic(|| member.task.poll(&mut member.waiter));
                }
                prop_assert_eq!(member.task.poll(&mut member.waiter), model.joined());
            }
            Op::Leave(index) => {
                if index < members.len() {
                    drop(members.remove(index));
                }
                if members.is_empty() && !detached && matches!(model, Model::Running { .. }) {
                    model = Model::Abandoned;
                }
            }
            Op::Wake | Op::End(_) | Op::Panic => {
                model.wake(op, &remote);
                remote.wake();
            }
            Op::PollIfWoken => {
                model.poll();
                prop_assert_eq!(shared.poll_if_woken(), !matches!(model, Model::Running { .. }));
            }
            Op::Abandon => {
                shared.abandon();
                model = if let Model::Running { .. } = model { Model::Abandoned } else { model };
            }
        }
        let running = matches!(model, Model::Running { .. });
        prop_assert_eq!(shared.waiting(), if running { members.len() } else { 0 });
        prop_assert_eq!(remote.drops(), usize::from(!running));
        prop_assert_eq!(shared.output().map_or(Poll::Pending, Poll::Ready), model.joined());
        if matches!(model, Model::Running { woken: true, .. }) && !members.is_empty() {
            let awake = members.iter().any(|member| member.task.0.0.load(SeqCst) > 0);
            prop_assert!(awake, "the wake-up is lost");
        }
        if !running {
            // Each of them is woken, and gets the outcome.
            for mut member in members.drain(..) {
                prop_assert_eq!(member.task.poll(&mut member.waiter), model.joined());
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn random_operations_do_what_the_model_does(detached in any::<bool>(), ops in prop::collection::vec(op(), 1..60)) {
        run(detached, ops)?;
    }
}
