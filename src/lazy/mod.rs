//! Resources that are loaded when they are first asked for, know what they cost, and go when others need the memory.
//!
//! ```
//! use std::io;
//! use plimsoll::{ByteSize, LazyResource};
//! # struct Model;
//! # impl Model { fn open(_: &str) -> io::Result<Self> { Ok(Self) } fn score(&self, _: &str) -> u32 { 7 } }
//!
//! static MODEL: LazyResource<Model, io::Error> =
//!     LazyResource::new("model", || Model::open("model.bin")).expecting(ByteSize::mib(24)).idle_after(10);
//!
//! fn handle(event: &str) -> Result<u32, Box<dyn std::error::Error>> {
//!     let model = MODEL.get()?; // a pin: a plain deref while it is held
//!     Ok(model.score(event))
//! }
//! # assert_eq!(handle("x").unwrap(), 7);
//! ```
//!
//! # Not everything should be lazy
//!
//! A lazy load moves its time from the init phase to the first request that needs it, which then waits for all of it,
//! with the caller, in every new environment. Measured: with 100,000 words to load the first request takes 21.7 ms where
//! it is lazy and 1.4 us where `main` has prefetched them (`cargo bench --bench lazy -- first_request`, on a whole CPU). A
//! function of 128 MB has 7 % of one: by that share the caller would wait some 300 ms.
//!
//! What every request needs is better [prefetched](LazyResource::prefetch) in `main`; lazy is right for what few events
//! ask for. The init phase is billed as requests are, but it is reported to have the whole CPU at any memory size, where a
//! request has its size's share; it must end within 10 s; with provisioned concurrency it is over before a request comes.
//! What is prefetched takes time and memory in each environment, also in those that nobody asks for it.
//!
//! [`LoadCost`] tells how long that first request waits, and the report what was never used: a resource with many uses and
//! a long load is one to prefetch, one never used is one to leave lazy, or out.
//!
//! # Values that grow old
//!
//! [`refresh_after`](LazyResource::refresh_after) sets the age at which a value is loaded again. While an old value is
//! there, callers do not wait for a refresh, and a refresh that fails or hangs does not fail them:
//!
//! | age of the value | `get` returns | load |
//! |---|---|---|
//! | below `refresh_after` | the value | none |
//! | above it | the value, marked [stale](Pinned::is_stale) | one refresh at a time, after the back-off |
//! | above [`stale_at_most`](LazyResource::stale_at_most) | the value of the next load, or its error | all callers wait for it |
//!
//! A refresh is run by a caller that finds the value stale: on its thread by [`LazyResource`], poll by poll by
//! [`AsyncLazyResource`]. To run it elsewhere, call [`refresh`](LazyResource::refresh) on a thread or task of your own, or
//! set [`AsyncLazyResource::refresh_on`].
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//! use plimsoll::AsyncLazyResource;
//!
//! static TOKEN: AsyncLazyResource<String, Infallible> =
//!     AsyncLazyResource::new("token", || Box::pin(async { Ok("secret".to_owned()) }))
//!         .refresh_after(Duration::from_secs(300))
//!         .stale_at_most(Duration::from_secs(900)) // then it has expired
//!         .refresh_on(|refresh| {
//!             tokio::spawn(refresh);
//!         });
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! # assert_eq!(*TOKEN.get().await?, "secret");
//! # Ok::<(), plimsoll::LazyError<Infallible>>(())
//! # }).unwrap();
//! ```
//!
//! # Loads that fail
//!
//! One load runs at a time. An error is stored, and returned to callers without a value until the
//! [back-off](LazyResource::retry_after) is over. A load that panics, that is cancelled because all its callers were
//! dropped, or that hangs as a refresh, is a failed attempt too. [`failure`](LazyResource::failure) returns the
//! [cause](FailureCause).
//!
//! # Deadlocks
//!
//! A load that asks for its own resource gets [`LazyError::Reentrant`], and so does one of the blocking loads that wait for
//! each other in a ring. Async loads that wait for each other on different tasks are not detected.
//!
//! A monitor that is told of a resource, by [`MonitorBuilder::resource`](crate::monitor::MonitorBuilder::resource), charges
//! an account for it, unloads it under pressure and reports what was never used.

mod asynchronous;
mod backoff;
mod core;
mod error;
mod face;
mod generation;
mod load;
mod resource;
mod state;
mod status;

pub use asynchronous::{AsyncLazyResource, BoxedLoad, BoxedRefresh};
pub use error::{FailureCause, LazyError, LoadFailure, Site};
pub use generation::{LoadCost, Pinned};
pub use resource::LazyResource;
pub use status::{Resource, ResourceState, ResourceStatus};
