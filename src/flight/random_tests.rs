//! One thread does what it likes with a flight, beside a twin so short that it cannot be wrong.

use std::panic::{self, AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;

use super::{Number, got, load};

/// What the twin knows of a flight that one thread uses: no more than its state.
#[derive(Clone, Debug, PartialEq)]
enum Twin {
    Idle,
    Failed(String),
    Ready(u32),
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Load { value: u32, retry: bool },
    Fail { retry: bool },
    Panic { retry: bool },
    AskItself { retry: bool },
    Reset,
    TakeIf(u32),
}

fn op() -> impl Strategy<Value = Op> {
    let retry = any::<bool>;
    prop_oneof![
        (0..3_u32, retry()).prop_map(|(value, retry)| Op::Load { value, retry }),
        retry().prop_map(|retry| Op::Fail { retry }),
        retry().prop_map(|retry| Op::Panic { retry }),
        retry().prop_map(|retry| Op::AskItself { retry }),
        Just(Op::Reset),
        (0..3_u32).prop_map(Op::TakeIf),
    ]
}

proptest! {
    #[test]
    fn any_order_of_loads_leaves_what_the_twin_says(ops in prop::collection::vec(op(), 1..60)) {
        let (flight, mut twin) = (Number::new(), Twin::Idle);
        for (at, op) in (0..).zip(ops) {
            let (retry, loaded) = match op {
                Op::Load { value, retry } => (retry, Some(Ok(value))),
                Op::Fail { retry } => (retry, Some(Err(format!("failure {at}")))),
                Op::AskItself { retry } => (retry, Some(Err("re-entrant".into()))),
                Op::Panic { retry } => (retry, None),
                Op::Reset => {
                    prop_assert_eq!(flight.reset(), twin != Twin::Idle);
                    twin = Twin::Idle;
                    continue;
                }
                Op::TakeIf(value) => {
                    let meant = twin == Twin::Ready(value);
                    prop_assert_eq!(flight.take_if(|kept| *kept == value), meant.then_some(value));
                    twin = if meant { Twin::Idle } else { twin };
                    continue;
                }
            };
            let runs = match &twin {
                Twin::Idle => true,
                Twin::Failed(_) => retry,
                Twin::Ready(_) => false,
            };
            let mut ran = false;
            let told = catch_unwind(AssertUnwindSafe(|| {
                got(flight.get_or_load(|_| retry, || at, || {
                    ran = true;
                    if let Op::AskItself { .. } = op {
                        return Err(load(&flight, || Ok(9)).unwrap_err());
                    }
                    loaded.clone().unwrap_or_else(|| panic::resume_unwind(Box::new("of the loader")))
                }))
            }));
            prop_assert_eq!(ran, runs);
            if runs {
                twin = match loaded {
                    Some(Ok(value)) => Twin::Ready(value),
                    Some(Err(error)) => Twin::Failed(format!("{error} at {at}")),
                    None => Twin::Idle,
                };
            }
            let expected = match &twin {
                Twin::Idle => None,
                Twin::Failed(error) => Some(Err(error.clone())),
                Twin::Ready(value) => Some(Ok(*value)),
            };
            prop_assert_eq!(told.ok(), expected);
            let failed = flight.failure().map(|failure| format!("{} at {}", failure.error, failure.at));
            prop_assert_eq!(failed, if let Twin::Failed(error) = &twin { Some(error.clone()) } else { None });
            prop_assert!(!flight.is_running() && flight.waiting() == 0);
        }
    }
}
