//! One HTTP request from its arrival to the head of its response: it waits for its reservation, runs, or is refused.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::Overloaded;
use super::admission::{Admission, STREAM_BUFFER, Waiting};
use super::admitted::Admitted;
use super::body::{RequestBody, ResponseBody, length};
use super::http::HttpLayer;
use super::reported::{POLLED_AGAIN, Reported};
use crate::clock::Stopwatch;
use crate::monitor::{Label, Outcome, RequestId};

/// A request that has arrived.
pub(super) struct Arrival<B> {
    pub(super) id: RequestId,
    pub(super) label: Label,
    pub(super) parts: Parts,
    pub(super) body: B,
    /// `None` without admission.
    pub(super) arrived: Option<Stopwatch>,
}

impl<B: Body> Arrival<B> {
    /// Returns the length of the body, if it is known.
    pub(super) fn length(&self) -> Option<u64> {
        length(&self.parts.headers, &self.body)
    }

    /// Calls the service.
    pub(super) fn start<S>(self, layer: &HttpLayer, service: &mut S, admitted: Option<Admitted>) -> State<S, B>
    where
        S: Service<Request<RequestBody<B>>>,
    {
        let Self { id, label, parts, body, .. } = self;
        let is_head = parts.method == Method::HEAD;
        let reported = Reported::start_bounded(&layer.monitor, id, label, layer.limit, admitted);
        let body = RequestBody::new(body, &reported);
        let future = reported.run(|| service.call(Request::from_parts(parts, body)));
        State::Running { future: Some(future), reported: Some(reported), is_head }
    }

    /// Counts the request as refused, and returns the response to it.
    pub(super) fn refuse(self, layer: &HttpLayer, overloaded: &Overloaded) -> Response<Bytes> {
        let body = self.length().unwrap_or(0);
        self.count_refused(layer);
        Admission::response(layer.admission.as_ref(), overloaded, body)
    }
}

impl<B> Arrival<B> {
    /// Drops the request, and counts it as refused.
    fn count_refused(self, layer: &HttpLayer) {
        let Self { id, label, parts, body, arrived } = self;
        drop((parts, body));
        let waited = arrived.map_or(Duration::ZERO, |arrived| arrived.elapsed());
        layer.monitor.count_refused(id, label, waited);
    }
}

/// A request that waits for its reservation, and then for its service.
pub(super) struct Queued<S, B> {
    /// `None` once it is admitted.
    waiting: Option<Waiting>,
    admitted: Option<Admitted>,
    arrival: Arrival<B>,
    /// It need not be ready, so that a request that waits keeps no place in it.
    service: S,
    layer: HttpLayer,
}

impl<S, B> Queued<S, B> {
    pub(super) const fn new(waiting: Waiting, arrival: Arrival<B>, service: S, layer: HttpLayer) -> Self {
        Self { waiting: Some(waiting), admitted: None, arrival, service, layer }
    }

    /// Returns the reservation once the service can be called, or the error of the service.
    #[expect(clippy::panic, reason = "a poll after the end is a fault of the caller, as for an async block")]
    fn poll<R>(&mut self, cx: &mut Context<'_>) -> Poll<Result<Result<Admitted, Overloaded>, S::Error>>
    where
        S: Service<R>,
    {
        if let Some(waiting) = &mut self.waiting {
            match ready!(waiting.poll(cx)) {
                Ok(admitted) => (self.waiting, self.admitted) = (None, Some(admitted)),
                Err(overloaded) => return Poll::Ready(Ok(Err(overloaded))),
            }
        }
        ready!(self.service.poll_ready(cx))?;
        let Some(admitted) = self.admitted.take() else { panic!("{POLLED_AGAIN}") };
        Poll::Ready(Ok(Ok(admitted)))
    }
}

pin_project! {
    /// The response of a reported HTTP service. The request goes on with the body of the response; dropped before that, it
    /// is reported as unfinished.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use plimsoll::{Monitor, integration::HttpResponseFuture};
    /// use tower::{Service, service_fn};
    ///
    /// let monitor = Monitor::install_from_env();
    /// let hello = async |_| Ok::<_, std::io::Error>(http::Response::new(String::from("hello")));
    /// let mut service = monitor.http().layer(service_fn(hello));
    /// let response: HttpResponseFuture<_, _> = service.call(http::Request::new(String::new()));
    /// drop(response); // reported as unfinished
    /// ```
    pub struct HttpResponseFuture<S, B>
    where
        S: Service<Request<RequestBody<B>>>,
    {
        #[pin]
        pub(super) state: State<S, B>,
    }
}

pin_project! {
    #[project = StateOf]
    pub(super) enum State<S, B>
    where
        S: Service<Request<RequestBody<B>>>,
    {
        // `None` once it is called or refused.
        // In a box, so that the futures of other requests are small.
        Queued { queued: Option<Box<Queued<S, B>>> },
        Running {
            // `None` once it has ended.
            #[pin]
            future: Option<S::Future>,
            // `None` once the response is ready: the request goes on with its body.
            reported: Option<Reported>,
            is_head: bool,
        },
        // `None` once it was given out.
        Refused { response: Option<Response<Bytes>> },
    }

    impl<S, B> PinnedDrop for State<S, B>
    where
        S: Service<Request<RequestBody<B>>>,
    {
        fn drop(this: Pin<&mut Self>) {
            match this.project() {
                StateOf::Running { mut future, reported: Some(reported), .. } => reported.run(|| future.set(None)),
                StateOf::Queued { queued } => {
                    // Its client is gone.
                    if let Some(queued) = queued.take() {
                        let Queued { arrival, layer, .. } = *queued;
                        arrival.count_refused(&layer);
                    }
                }
                _ => (),
            }
        }
    }
}

impl<S, B, R> Future for HttpResponseFuture<S, B>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>>,
    B: Body,
    R: Body,
{
    type Output = Result<Response<ResponseBody<R>>, S::Error>;

    /// # Panics
    ///
    /// Panics if it is polled after its end.
    #[expect(clippy::panic, reason = "a poll after the end is a fault of the caller, as for an async block")]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateOf::Queued { queued } => {
                    let Some(request) = queued else { panic!("{POLLED_AGAIN}") };
                    let ready = ready!(request.poll(cx));
                    let Some(queued) = queued.take() else { panic!("{POLLED_AGAIN}") };
                    let Queued { arrival, mut service, layer, .. } = *queued;
                    let next = match ready {
                        Ok(Ok(admitted)) => arrival.start(&layer, &mut service, Some(admitted)),
                        Ok(Err(overloaded)) => State::Refused { response: Some(arrival.refuse(&layer, &overloaded)) },
                        Err(error) => return Poll::Ready(Err(error)),
                    };
                    state.set(next);
                }
                StateOf::Refused { response } => {
                    let Some(response) = response.take() else { panic!("{POLLED_AGAIN}") };
                    return Poll::Ready(Ok(response.map(ResponseBody::of_answer)));
                }
                StateOf::Running { future, reported, is_head } => {
                    return poll_running(future, reported, *is_head, cx);
                }
            }
        }
    }
}

/// Polls the service's future, and ends it if the request takes too much memory.
#[expect(clippy::panic, reason = "a poll after the end is a fault of the caller, as for an async block")]
fn poll_running<F, R, E>(
    mut future: Pin<&mut Option<F>>,
    request: &mut Option<Reported>,
    is_head: bool,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<ResponseBody<R>>, E>>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    let Some(reported) = request.as_ref() else { panic!("{POLLED_AGAIN}") };
    // Looked at once before the poll: without a poll there is no waker, so the answer must not be `Pending`.
    let mut checked = reported.check();
    if checked.is_ok() {
        match reported.poll(future.as_mut(), cx) {
            Poll::Ready(result) => {
                let Some(reported) = request.take() else { panic!("{POLLED_AGAIN}") };
                return Poll::Ready(respond(result, reported, is_head));
            }
            // It may wait for long, and hold the memory as long.
            Poll::Pending => checked = reported.check(),
        }
    }
    let Err(overloaded) = checked else { return Poll::Pending };
    reported.run(|| future.set(None));
    let response = end(reported, &overloaded);
    *request = None;
    Poll::Ready(Ok(response))
}

/// Lets the body of the response end the request.
fn respond<R, E>(
    result: Result<Response<R>, E>,
    reported: Reported,
    is_head: bool,
) -> Result<Response<ResponseBody<R>>, E>
where
    R: Body,
{
    let refused_frame = reported.admitted().and_then(Admitted::refused_frame).cloned();
    let is_error = match &result {
        Ok(response) => response.status().is_client_error() || response.status().is_server_error(),
        Err(_) => true,
    };
    let checked = match (&result, refused_frame) {
        // The handler failed because its body did.
        (_, Some(overloaded)) if is_error => Err(overloaded),
        (Ok(response), _) => {
            let upcoming = length(response.headers(), response.body()).unwrap_or(STREAM_BUFFER);
            reported.respond(upcoming, is_error)
        }
        (Err(_), _) => {
            if let Some(admitted) = reported.admitted() {
                admitted.note_error();
            }
            Ok(())
        }
    };
    if let Err(overloaded) = checked {
        reported.run(|| drop(result));
        return Ok(end(&reported, &overloaded));
    }
    match result {
        Ok(response) => Ok(ResponseBody::of(response, reported, is_head)),
        Err(error) => {
            reported.set_outcome(Outcome::Finished);
            Err(error)
        }
    }
}

/// Returns the response to a request that is ended.
fn end<R>(reported: &Reported, overloaded: &Overloaded) -> Response<ResponseBody<R>> {
    reported.set_outcome(Outcome::Overloaded);
    let admitted = reported.admitted();
    let body = admitted.map_or(0, Admitted::body);
    Admission::response(admitted.map(Admitted::admission), overloaded, body).map(ResponseBody::of_answer)
}

impl<S, B> fmt::Debug for HttpResponseFuture<S, B>
where
    S: Service<Request<RequestBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Queued { .. } => "Queued",
            State::Running { .. } => "Running",
            State::Refused { .. } => "Refused",
        };
        f.debug_struct("HttpResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}
