//! `POST /events`: what programs on the board hand over for the relay. The answer comes when it is
//! on the disk, so a program that has it may forget the event.
//!
//! ```text
//! {"kind": "door", "data": {"open": true}, "id": "door-17"}      or an array of such objects
//! 200 {"epoch": "…", "first": 41, "next": 42}                    an array is written in one piece
//! ```
//! `data` is any JSON and is carried as it is. A program that names its events with `id` may send
//! one again whose answer it did not hear: a repeat is not written, and `first` equals `next` when
//! all of them were repeats. The last [`spool::SOURCES_KEPT`] names of all programs are remembered.

use std::time::Duration;

use brrbrr_proto::up::{Custom, MAX_RECORD_BYTES};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Request, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::answer::{Answer, respond};
use crate::spool::{self, Appended, MAX_PROGRAM_SOURCE_BYTES, SourceId, SpoolError};

/// How many posts may wait for the event loop, and as many again for the disk. There are not more
/// connections than that, and each has one request at a time.
pub const POSTS_MAX: usize = super::server::CONNECTIONS;
/// The longest body. It holds several records of the greatest length.
const BODY_BYTES: usize = 1024 * 1024;
/// How much of a longer body is read before the connection is given up.
const DRAINED_BYTES: usize = 16 * BODY_BYTES;
/// How many events may come in one array: one transaction of them delays nobody noticeably.
const EVENTS_MAX: usize = 1000;
/// The longest kind, in bytes.
const KIND_BYTES: usize = 128;
/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(5);

/// Events on their way to the spool, and who waits for them.
#[derive(Debug)]
pub struct Posted {
    /// The events, in order, with the names that make a repeat harmless.
    pub events: Vec<(Option<SourceId>, Custom)>,
    /// Told when they are durable, or why they are not.
    pub reply: oneshot::Sender<spool::Result<Appended>>,
}

/// Why events were not taken.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    #[error("the body must be application/json, not {0}")]
    MediaType(String),
    #[error("the body is longer than {BODY_BYTES} bytes, send fewer events at a time")]
    TooLong,
    #[error("the body did not arrive within {} s", BODY_LIMIT.as_secs())]
    TooSlow,
    #[error("the body cannot be read: {0}")]
    Broken(String),
    #[error("not an event or an array of events: {0}")]
    Malformed(serde_json::Error),
    #[error("the array is empty")]
    Empty,
    #[error("{0} events at a time, the limit is {EVENTS_MAX}")]
    TooMany(usize),
    #[error("event {0}: \"kind\" has {1} bytes, it needs 1 to {KIND_BYTES}")]
    Kind(usize, usize),
    #[error("event {0}: \"id\" has {1} bytes, it needs 1 to {MAX_PROGRAM_SOURCE_BYTES}")]
    Name(usize, usize),
    #[error("event {0}: \"data\" is not JSON that others can read: {1}")]
    Data(usize, serde_json::Error),
    #[error("too many events wait for the disk")]
    Busy,
    #[error("the gateway is stopping")]
    Stopping,
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

impl Refusal {
    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLong | Self::TooMany(_) | Self::Spool(SpoolError::RecordTooLong(_)) => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken(_)
            | Self::Malformed(_)
            | Self::Empty
            | Self::Kind(..)
            | Self::Name(..)
            | Self::Data(..) => StatusCode::BAD_REQUEST,
            Self::Busy | Self::Stopping | Self::Spool(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::MediaType(_) => "unsupported_media_type",
            Self::TooLong | Self::TooMany(_) | Self::Spool(SpoolError::RecordTooLong(_)) => {
                "body_too_large"
            }
            Self::TooSlow => "request_timeout",
            Self::Broken(_) => "broken_body",
            Self::Malformed(_) => "bad_json",
            Self::Empty | Self::Kind(..) | Self::Name(..) | Self::Data(..) => "invalid_field",
            Self::Busy => "busy",
            Self::Stopping => "stopping",
            Self::Spool(_) => "store_away",
        }
    }
}

/// Takes events and answers when they are durable.
pub(super) async fn post<B>(
    request: Request<B>,
    posts: &mpsc::Sender<Posted>,
) -> Result<Answer, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Appended { epoch, first, next } = take(request, posts).await?;
    let (epoch, first, next) = (epoch.to_string(), first.0, next.0);
    let body = serde_json::json!({"epoch": epoch, "first": first, "next": next});
    let body = body.to_string().into_bytes();
    Ok(respond(StatusCode::OK, "application/json", body))
}

async fn take<B>(request: Request<B>, posts: &mpsc::Sender<Posted>) -> Result<Appended, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    check_json(request.headers())?;
    let events = parse(&read(request.into_body()).await?)?;
    let (reply, answer) = oneshot::channel();
    posts
        .try_send(Posted { events, reply })
        .map_err(|error| match error {
            TrySendError::Full(_) => Refusal::Busy,
            TrySendError::Closed(_) => Refusal::Stopping,
        })?;
    Ok(answer.await.map_err(|_| Refusal::Stopping)??)
}

/// Refuses a body that says it is something else.
pub(super) fn check_json(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(CONTENT_TYPE) {
        Some(kind) if !is_json(kind) => {
            let kind = String::from_utf8_lossy(kind.as_bytes()).into_owned();
            Err(Refusal::MediaType(kind))
        }
        Some(_) | None => Ok(()),
    }
}

/// The whole of a body, where it is short and soon there.
pub(super) async fn read<B>(body: B) -> Result<Vec<u8>, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let whole = tokio::time::timeout(BODY_LIMIT, async move {
        let mut body = std::pin::pin!(body);
        let (mut kept, mut length) = (Vec::new(), 0_usize);
        // What is too long is read to its end all the same: a client that is still sending when the
        // connection ends does not hear why.
        while let Some(frame) = body.frame().await
            && length <= DRAINED_BYTES
        {
            let frame = frame.map_err(|error| Refusal::Broken(error.into().to_string()))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            length += data.len();
            if length <= BODY_BYTES {
                kept.extend_from_slice(&data);
            }
        }
        if length > BODY_BYTES {
            return Err(Refusal::TooLong);
        }
        Ok(kept)
    });
    whole.await.map_err(|_| Refusal::TooSlow)?
}

fn is_json(kind: &HeaderValue) -> bool {
    let kind = kind.to_str().unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Event<'a> {
    kind: String,
    #[serde(borrow)]
    data: &'a RawValue,
    id: Option<String>,
}

fn parse(body: &[u8]) -> Result<Vec<(Option<SourceId>, Custom)>, Refusal> {
    let is_array = body.trim_ascii_start().first() == Some(&b'[');
    let events: Vec<Event<'_>> = if is_array {
        serde_json::from_slice(body).map_err(Refusal::Malformed)?
    } else {
        vec![serde_json::from_slice(body).map_err(Refusal::Malformed)?]
    };
    if events.is_empty() {
        return Err(Refusal::Empty);
    }
    if events.len() > EVENTS_MAX {
        return Err(Refusal::TooMany(events.len()));
    }
    let numbered = (1..).zip(events);
    numbered.map(|(place, event)| check(place, event)).collect()
}

/// People count the events from 1, so `place` does.
fn check(place: usize, event: Event<'_>) -> Result<(Option<SourceId>, Custom), Refusal> {
    let Event { kind, data, id } = event;
    if kind.is_empty() || kind.len() > KIND_BYTES {
        return Err(Refusal::Kind(place, kind.len()));
    }
    if let Some(id) = &id
        && (id.is_empty() || id.len() > MAX_PROGRAM_SOURCE_BYTES)
    {
        return Err(Refusal::Name(place, id.len()));
    }
    if data.get().len() > MAX_RECORD_BYTES {
        return Err(SpoolError::RecordTooLong(data.get().len()).into());
    }
    // Passed over as text only, it could be nested too deep or hold half a surrogate pair.
    let read: Result<serde_json::Value, _> = serde_json::from_str(data.get());
    read.map_err(|error| Refusal::Data(place, error))?;
    let source = id.as_deref().map(SourceId::of_program);
    let json = data.get().to_owned();
    Ok((source, Custom { kind, json }))
}
