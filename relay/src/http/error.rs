//! Every answer that is not a success, as `{"error": {"code", "message"}}` but for the two texts that
//! voice capsules know by heart.

use std::time::Duration;

use brrbrr_proto::api::BadField;
use brrbrr_proto::id::RobotId;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use thiserror::Error;
use tracing::warn;
use warp::reply::Response;

use crate::catalog::CatalogError;
use crate::guide::commands::NoGoal;
use crate::journal::JournalError;
use crate::live::LiveError;

/// What voice capsules read out when a code is wrong.
const WRONG_CODE: &str = "인증번호를 확인해주세요";
/// What a caller is asked to wait where nothing better is known.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a request was not done.
#[derive(Debug, Error)]
pub(super) enum HttpError {
    #[error("the auth code is wrong")]
    WrongCode,
    #[error("the header authCode with the robot's code is missing")]
    MissingCode,
    #[error("too many wrong codes; wait before the next one")]
    TooManyGuesses(Duration),
    #[error("There is no query param")]
    NoQuery,
    #[error("{field}: {reason}")]
    Invalid {
        field: &'static str,
        reason: &'static str,
    },
    #[error(transparent)]
    BadField(#[from] BadField),
    #[error("the body is no JSON: {0}")]
    BadJson(String),
    #[error("the body breaks off or is malformed")]
    BrokenBody,
    #[error("there is no {0}")]
    Missing(String),
    #[error("there is no such route")]
    NoRoute,
    #[error("the route does not take this method")]
    Method,
    #[error("there is already {0}")]
    Conflict(String),
    #[error("a cancellation cannot be cancelled")]
    NotCancellable,
    #[error("{0}")]
    OtherFloor(NoGoal),
    #[error(
        "robot {0} has too many unfinished commands; cancel some or wait until they have ended"
    )]
    Full(RobotId),
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the body must be application/json")]
    NotJson,
    #[error("this needs an admin token: Authorization: Bearer TOKEN")]
    Unauthorized,
    #[error(
        "this needs the robot's code in the header authCode, or an admin token: \
         Authorization: Bearer TOKEN"
    )]
    Stranger,
    #[error("the auth code is another robot's")]
    OtherRobot,
    #[error("pages of this origin may not connect")]
    Origin,
    #[error("the request did not arrive in time")]
    Slow,
    #[error("a store is away; try again")]
    Away,
    #[error("the answer took too long; what was asked may still be done")]
    Late,
    #[error("too many requests at once; try again")]
    Busy,
    #[error("every auth code is in use; remove robots that are gone")]
    NoCodeLeft,
    #[error("something failed here; it has been logged")]
    Internal,
}

impl HttpError {
    const fn status(&self) -> StatusCode {
        match self {
            Self::WrongCode
            | Self::MissingCode
            | Self::NoQuery
            | Self::Invalid { .. }
            | Self::BadField(_)
            | Self::BadJson(_)
            | Self::BrokenBody => StatusCode::BAD_REQUEST,
            Self::Unauthorized | Self::Stranger => StatusCode::UNAUTHORIZED,
            Self::Origin | Self::OtherRobot => StatusCode::FORBIDDEN,
            Self::Missing(_) | Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict(_) | Self::OtherFloor(_) | Self::NotCancellable => StatusCode::CONFLICT,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooManyGuesses(_) | Self::Full(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Away | Self::Late | Self::Busy | Self::NoCodeLeft => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    const fn code(&self) -> &'static str {
        match self {
            Self::WrongCode => "wrong_code",
            Self::MissingCode => "missing_code",
            Self::TooManyGuesses(_) => "too_many_guesses",
            Self::NoQuery => "no_query",
            Self::Invalid { .. } | Self::BadField(_) => "invalid_field",
            Self::BadJson(_) => "bad_json",
            Self::BrokenBody => "broken_body",
            Self::Missing(_) => "not_found",
            Self::NoRoute => "no_route",
            Self::Method => "method_not_allowed",
            Self::Conflict(_) => "conflict",
            Self::NotCancellable => "not_cancellable",
            Self::OtherFloor(_) => "other_floor",
            Self::Full(_) => "too_many_commands",
            Self::TooLarge { .. } => "body_too_large",
            Self::NotJson => "unsupported_media_type",
            Self::Unauthorized | Self::Stranger => "unauthorized",
            Self::OtherRobot => "other_robot",
            Self::Origin => "origin_not_allowed",
            Self::Slow => "request_timeout",
            Self::Away => "store_away",
            Self::Late => "answer_timeout",
            Self::Busy => "busy",
            Self::NoCodeLeft => "no_code_left",
            Self::Internal => "internal",
        }
    }

    const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyGuesses(wait) => Some(*wait),
            Self::Away | Self::Late | Self::Busy | Self::NoCodeLeft | Self::Full(_) => Some(PAUSE),
            Self::WrongCode
            | Self::MissingCode
            | Self::NoQuery
            | Self::Invalid { .. }
            | Self::BadField(_)
            | Self::BadJson(_)
            | Self::BrokenBody
            | Self::Missing(_)
            | Self::NoRoute
            | Self::Method
            | Self::Conflict(_)
            | Self::NotCancellable
            | Self::OtherFloor(_)
            | Self::TooLarge { .. }
            | Self::NotJson
            | Self::Unauthorized
            | Self::Stranger
            | Self::OtherRobot
            | Self::Origin
            | Self::Slow
            | Self::Internal => None,
        }
    }

    /// The answer.
    pub(super) fn into_response(self) -> Response {
        let (text, kind) = match &self {
            Self::WrongCode => (WRONG_CODE.to_owned(), "text/plain; charset=utf-8"),
            Self::NoQuery => (json!({ "message": self.to_string() }).to_string(), JSON),
            Self::MissingCode
            | Self::TooManyGuesses(_)
            | Self::Invalid { .. }
            | Self::BadField(_)
            | Self::BadJson(_)
            | Self::BrokenBody
            | Self::Missing(_)
            | Self::NoRoute
            | Self::Method
            | Self::Conflict(_)
            | Self::NotCancellable
            | Self::OtherFloor(_)
            | Self::TooLarge { .. }
            | Self::NotJson
            | Self::Unauthorized
            | Self::Stranger
            | Self::OtherRobot
            | Self::Origin
            | Self::Slow
            | Self::Full(_)
            | Self::Away
            | Self::Late
            | Self::Busy
            | Self::NoCodeLeft
            | Self::Internal => {
                let error = json!({ "code": self.code(), "message": self.to_string() });
                (json!({ "error": error }).to_string(), JSON)
            }
        };
        let mut response = answer(self.status(), kind, text);
        let headers = response.headers_mut();
        if let Some(wait) = self.retry_after() {
            // Rounded up, so that whoever waits this long does not come too early.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if matches!(self, Self::Unauthorized | Self::Stranger) {
            let scheme = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

const JSON: &str = "application/json; charset=utf-8";

/// A JSON document as an answer.
pub(super) fn json(document: String) -> Response {
    json_with(StatusCode::OK, document)
}

/// A JSON document as an answer that says more than that all went well.
pub(super) fn json_with(status: StatusCode, document: String) -> Response {
    answer(status, JSON, document)
}

/// Done, and nothing to say.
pub(super) fn no_content() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// An answer of any kind.
pub(super) fn answer(status: StatusCode, kind: &'static str, text: String) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // Several of the GETs make a robot drive.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl From<CatalogError> for HttpError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Conflict(what) => Self::Conflict(what),
            CatalogError::Missing(what) => Self::Missing(what),
            CatalogError::Full(robot) => Self::Full(robot),
            CatalogError::UnknownPlace { .. } => Self::Invalid {
                field: "placeName",
                reason: "there is no place of this name on the floor placeFloor",
            },
            CatalogError::Away(_) | CatalogError::Corrupt(_) => {
                warn!(%error, "request not done");
                Self::Away
            }
        }
    }
}

impl From<NoGoal> for HttpError {
    fn from(error: NoGoal) -> Self {
        match error {
            NoGoal::UnknownName(name) => Self::Missing(format!("place {name:?}")),
            NoGoal::UnknownId(id) => Self::Missing(format!("place {id}")),
            NoGoal::OtherFloor { .. } => Self::OtherFloor(error),
        }
    }
}

impl From<LiveError> for HttpError {
    fn from(error: LiveError) -> Self {
        warn!(%error, "request not done");
        match error {
            LiveError::NoCodeLeft => Self::NoCodeLeft,
            LiveError::Away(_) => Self::Away,
        }
    }
}

impl From<JournalError> for HttpError {
    fn from(error: JournalError) -> Self {
        warn!(%error, "request not done");
        Self::Away
    }
}

impl From<serde_json::Error> for HttpError {
    /// Of what we write ourselves.
    fn from(error: serde_json::Error) -> Self {
        warn!(%error, "an answer could not be written");
        Self::Internal
    }
}
