//! The bodies of a reported request and of its response, which count for the request.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::reported::{BodyCharge, Reported};
use crate::monitor::{Outcome, RequestScope};

pin_project! {
    /// The body of a reported request. What it hands in counts for the request from then on.
    ///
    /// A frame counts with its length. If it is a part of a larger buffer, as the frames of hyper are, the rest of that
    /// buffer is not counted, which can be a third of the body.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::{Request, Response};
    /// use http_body_util::{BodyExt, Full};
    /// use plimsoll::{Monitor, integration::RequestBody};
    /// use tower::service_fn;
    ///
    /// # fn layer(monitor: &Monitor) {
    /// let count = service_fn(async |request: Request<RequestBody<Full<bytes::Bytes>>>| {
    ///     let body = request.into_body().collect().await?.to_bytes();
    ///     Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Response::new(body.len().to_string()))
    /// });
    /// let reported = monitor.http().layer(count);
    /// # }
    /// ```
    #[derive(Debug)]
    pub struct RequestBody<B> {
        #[pin]
        inner: B,
        scope: RequestScope,
        // `None` without admission.
        charge: Option<BodyCharge>,
        // A frame was refused.
        has_failed: bool,
    }
}

impl<B> RequestBody<B> {
    pub(super) fn new(inner: B, reported: &Reported) -> Self {
        Self { inner, scope: reported.scope(), charge: reported.body_charge(), has_failed: false }
    }

    /// Returns the body. Its further frames do not count, and are not reserved.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::integration::RequestBody;
    ///
    /// fn text(body: RequestBody<String>) -> String {
    ///     body.into_inner()
    /// }
    /// ```
    pub fn into_inner(self) -> B {
        self.inner
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = B::Data;
    type Error = Box<dyn Error + Send + Sync>;

    /// # Errors
    ///
    /// Those of the body, and [`Overloaded`](super::Overloaded) if the memory of a frame cannot be
    /// [reserved](super::Admission). After that the body has ended.
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<B::Data, Self::Error> {
        let this = self.project();
        if *this.has_failed {
            return Poll::Ready(None);
        }
        let polled = this.scope.receive(|| this.inner.poll_frame(cx), data_len);
        let len = data_len(&polled);
        match this.charge.as_ref().map_or(Ok(()), |charge| if len > 0 { charge.charge(len) } else { Ok(()) }) {
            Ok(()) => polled.map_err(Into::into),
            Err(overloaded) => {
                *this.has_failed = true;
                Poll::Ready(Some(Err(overloaded.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.has_failed || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Bytes of the data that a poll has returned.
fn data_len<D: Buf, E>(polled: &Poll<Option<Result<Frame<D>, E>>>) -> u64 {
    match polled {
        Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, |data| data.remaining() as u64),
        _ => 0,
    }
}

/// Shorter frames do not count any more once they are handed out: what keeps a longer one in the account takes an
/// allocation.
const SHORT_FRAME: usize = 2048;

/// A frame of a response, which counts for the request until it is dropped.
struct CountedFrame {
    data: Bytes,
    reported: Reported,
}

impl CountedFrame {
    fn count(data: Bytes, reported: &Reported) -> Bytes {
        if data.len() < SHORT_FRAME {
            reported.hand_over(data.len());
            return data;
        }
        Bytes::from_owner(Self { data, reported: reported.clone() })
    }
}

impl AsRef<[u8]> for CountedFrame {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for CountedFrame {
    fn drop(&mut self) {
        self.reported.hand_over(self.data.len());
    }
}

pin_project! {
    /// The body of a reported response. The request ends when the body and its frames are dropped: a server drops a frame
    /// after it was written.
    ///
    /// Frames below 2 KiB do not count any more once they are handed out.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::{Request, Response};
    /// use plimsoll::{Monitor, integration::ResponseBody};
    /// use tower::{ServiceExt, service_fn};
    ///
    /// # async fn ask(monitor: &Monitor) -> std::io::Result<()> {
    /// let hello = service_fn(async |_| Ok::<_, std::io::Error>(Response::new(String::from("hello"))));
    /// let response = monitor.http().layer(hello).oneshot(Request::new(String::new())).await?;
    /// let body: ResponseBody<String> = response.into_body(); // the request ends when it is dropped
    /// # Ok(())
    /// # }
    /// ```
    pub struct ResponseBody<B> {
        // `None` once it has ended.
        #[pin]
        inner: Option<B>,
        // `None` once it has ended.
        reported: Option<Reported>,
        // Bytes of data to come; `None` if the length of the body is not known.
        left: Option<u64>,
        // A frame was handed out.
        has_begun: bool,
        // The body of the response to a request that was refused or ended.
        answer: Bytes,
    }

    impl<B> PinnedDrop for ResponseBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if let Some(reported) = this.reported.take() {
                reported.run(|| this.inner.set(None));
            }
        }
    }
}

impl<B: Body> ResponseBody<B> {
    /// Lets the body of a response end the request. `is_head`: the server drops the body, because the request asked for the
    /// head only.
    pub(super) fn of(response: Response<B>, reported: Reported, is_head: bool) -> Response<Self> {
        let (parts, inner) = response.into_parts();
        let left = length(&parts.headers, &inner);
        if is_head || left == Some(0) || inner.is_end_stream() {
            reported.set_outcome(Outcome::Finished);
        }
        let body = Self { inner: Some(inner), reported: Some(reported), left, has_begun: false, answer: Bytes::new() };
        Response::from_parts(parts, body)
    }
}

impl<B> ResponseBody<B> {
    /// The body of the response to a request that was refused or ended.
    pub(super) const fn of_answer(answer: Bytes) -> Self {
        Self { inner: None, reported: None, left: None, has_begun: false, answer }
    }
}

/// Returns the length of a body, if it is known.
pub(super) fn length<B: Body>(headers: &HeaderMap, body: &B) -> Option<u64> {
    let announced = || headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    body.size_hint().exact().or_else(announced)
}

/// The result of a poll of a body.
type Polled<D, E> = Poll<Option<Result<Frame<D>, E>>>;

/// Polls the body, and drops it at its end. Returns the outcome if it has ended.
fn poll_to_end<B: Body>(
    mut inner: Pin<&mut Option<B>>,
    cx: &mut Context<'_>,
) -> (Polled<Bytes, B::Error>, Option<Outcome>) {
    let Some(mut body) = inner.as_mut().as_pin_mut() else { return (Poll::Ready(None), None) };
    let polled = body.as_mut().poll_frame(cx);
    let outcome = match &polled {
        Poll::Pending => None,
        Poll::Ready(None) => Some(Outcome::Finished),
        Poll::Ready(Some(Ok(_))) => body.is_end_stream().then_some(Outcome::Finished),
        Poll::Ready(Some(Err(_))) => Some(Outcome::Unfinished),
    };
    // A copy only if the data is not `Bytes`.
    let polled = polled.map_ok(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())));
    if outcome.is_some() {
        inner.set(None);
    }
    (polled, outcome)
}

impl<B> Body for ResponseBody<B>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    /// # Errors
    ///
    /// Those of the body, and [`Overloaded`](super::Overloaded) if the request holds more than its limit, or more than could
    /// be reserved.
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<Bytes, Self::Error> {
        let mut this = self.project();
        let Some(reported) = this.reported.as_ref() else {
            let answer = std::mem::take(this.answer);
            return Poll::Ready((!answer.is_empty()).then(|| Ok(Frame::data(answer))));
        };
        // Not before the first frame: a response that is ready is given out. Looked at once before the poll, because without
        // a poll there is no waker.
        let mut overloaded = if *this.has_begun { reported.check().err() } else { None };
        if overloaded.is_none() {
            let (polled, outcome) = reported.run(|| poll_to_end(this.inner.as_mut(), cx));
            reported.note_peak();
            if let Poll::Ready(Some(Ok(frame))) = &polled {
                *this.has_begun = true;
                let len = frame.data_ref().map_or(0, |data| data.len() as u64);
                *this.left = this.left.map(|left| left.saturating_sub(len));
                if *this.left == Some(0) {
                    // All bytes of the announced length are out, and a server does not poll for more.
                    reported.set_outcome(Outcome::Finished);
                }
            }
            if polled.is_ready() {
                let polled = polled.map_err(Into::into);
                let polled = polled.map_ok(|frame| frame.map_data(|data| CountedFrame::count(data, reported)));
                if let Some(left) = *this.left {
                    reported.shrink(left);
                }
                if let Some(outcome) = outcome {
                    reported.set_outcome(outcome);
                    *this.reported = None;
                }
                return polled;
            }
            // It may wait for long, and hold the memory as long.
            overloaded = reported.check().err();
            reported.shrink(this.left.unwrap_or(0));
        }
        let Some(overloaded) = overloaded else { return Poll::Pending };
        reported.run(|| this.inner.set(None));
        reported.set_outcome(Outcome::Overloaded);
        *this.reported = None;
        Poll::Ready(Some(Err(overloaded.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().map_or(self.answer.is_empty(), B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(self.answer.len() as u64), B::size_hint)
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").field("has_ended", &self.inner.is_none()).finish_non_exhaustive()
    }
}
