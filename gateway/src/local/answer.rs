//! Answers, and why there is no better one: `{"error": {"code", "message"}}` with the same codes as
//! the relay's.

use brrbrr_proto::api::BadField;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde::Serialize;
use thiserror::Error;

use super::events;
use crate::board_commands;
use crate::building::CacheError;
use crate::spool::SpoolError;

/// After how many seconds a refused program should try again.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("2");

pub(super) type Answer = Response<Full<Bytes>>;

/// Why a request was not done.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    #[error("there is no such route")]
    NoRoute,
    #[error("only {0} is answered here")]
    Method(&'static str),
    #[error("{field}: {reason}")]
    Invalid {
        field: &'static str,
        reason: &'static str,
    },
    #[error(transparent)]
    Field(#[from] BadField),
    #[error("the body is no JSON object: {0}")]
    BadJson(serde_json::Error),
    #[error(transparent)]
    Body(#[from] events::Refusal),
    #[error("there is no {0}")]
    Missing(String),
    #[error("{0}")]
    OtherFloor(String),
    #[error(
        "the robot has not heard of its building yet; it asks as soon as a relay answers. Until then \
         give x and y"
    )]
    NoBuilding,
    #[error("this needs the token of the configuration: Authorization: Bearer TOKEN")]
    Unauthorized,
    #[error(
        "the host {0:?} is not this board's; programs here say localhost or a loopback address"
    )]
    Host(String),
    #[error("pages of other origins may not do this")]
    Origin,
    #[error("too many callers wait; try again")]
    Busy,
    #[error(transparent)]
    Command(#[from] board_commands::Refusal),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("the answer cannot be written: {0}")]
    Internal(#[from] serde_json::Error),
    #[error(transparent)]
    Building(#[from] CacheError),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        use board_commands::Refusal as Command;
        match self {
            Self::NoRoute | Self::Missing(_) | Self::Command(Command::Unknown(_)) => {
                StatusCode::NOT_FOUND
            }
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Invalid { .. } | Self::Field(_) | Self::BadJson(_) => StatusCode::BAD_REQUEST,
            Self::Body(refusal) => refusal.status(),
            Self::OtherFloor(_) | Self::Command(Command::KeyTaken(_)) => StatusCode::CONFLICT,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Host(_) | Self::Origin => StatusCode::FORBIDDEN,
            Self::Internal(_) | Self::Building(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoBuilding
            | Self::Busy
            | Self::Spool(_)
            | Self::Command(
                Command::NotRecorded { .. }
                | Command::Spool(_)
                | Command::Crowded
                | Command::NoRandomness(_)
                | Command::Stopping,
            ) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn code(&self) -> &'static str {
        use board_commands::Refusal as Command;
        match self {
            Self::NoRoute => "no_route",
            Self::Method(_) => "method_not_allowed",
            Self::Invalid { .. } | Self::Field(_) => "invalid_field",
            Self::BadJson(_) => "bad_json",
            Self::Body(refusal) => refusal.code(),
            Self::Missing(_) | Self::Command(Command::Unknown(_)) => "not_found",
            Self::OtherFloor(_) => "other_floor",
            Self::NoBuilding => "no_building",
            Self::Unauthorized => "unauthorized",
            Self::Host(_) => "host_not_allowed",
            Self::Origin => "origin_not_allowed",
            Self::Busy | Self::Command(Command::Crowded) => "busy",
            Self::Command(Command::KeyTaken(_)) => "conflict",
            Self::Command(Command::NotRecorded { .. }) => "not_recorded",
            Self::Spool(_) | Self::Command(Command::Spool(_)) => "store_away",
            Self::Command(Command::Stopping) => "stopping",
            Self::Internal(_) | Self::Building(_) | Self::Command(Command::NoRandomness(_)) => {
                "internal"
            }
        }
    }

    pub(super) fn answer(&self) -> Answer {
        let (status, message) = (self.status(), self.to_string());
        let body = serde_json::json!({"error": {"code": self.code(), "message": message}});
        let mut answer = respond(status, "application/json", body.to_string().into_bytes());
        let headers = answer.headers_mut();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, RETRY_SECONDS);
        }
        if let Self::Method(allowed) = self {
            headers.insert(ALLOW, HeaderValue::from_static(allowed));
        }
        if matches!(self, Self::Unauthorized) {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        answer
    }
}

pub(super) const fn invalid(field: &'static str, reason: &'static str) -> Refusal {
    Refusal::Invalid { field, reason }
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Result<Answer, Refusal> {
    Ok(respond(
        status,
        "application/json",
        serde_json::to_vec(value)?,
    ))
}

pub(super) fn respond(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
