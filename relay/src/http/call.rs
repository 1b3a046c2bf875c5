//! What a request says apart from its route, and who may do what: auth codes and admin tokens.

use std::net::IpAddr;
use std::sync::Arc;

use brrbrr_proto::api::MAX_KEY_BYTES;
use brrbrr_proto::names::Asked;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, header};
use warp::Filter;
use warp::reply::Response;

use super::Services;
use super::error::HttpError;
use super::fields::{Fields, invalid};
use super::query;
use super::turns::Turn;
use crate::catalog::{CatalogError, Robot};
use crate::live::{AuthCode, CODES, Guess};

/// The header with a robot's code.
pub(super) const AUTH_CODE: &str = "authcode";
/// The header with the caller's own key of a command.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What a request says apart from its route.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// The address at the other end of the connection. Headers of proxies are not believed.
    pub(super) peer: IpAddr,
    query: Option<String>,
    headers: HeaderMap,
    body: Bytes,
}

/// The route that answered, for the metrics.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route(pub(super) &'static str);

/// A guest: somebody who showed a robot's code. Holds the robot's turn.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) robot: Robot,
    _turn: Turn,
}

impl Call {
    pub(super) fn new(peer: IpAddr, parts: &Parts, body: Bytes) -> Self {
        Self {
            peer,
            query: parts.uri.query().map(str::to_owned),
            headers: parts.headers.clone(),
            body,
        }
    }

    /// The parameter `name`.
    pub(super) fn name(&self) -> Result<Option<Asked>, HttpError> {
        query::name(self.query.as_deref().unwrap_or_default())
    }

    /// A parameter that is not empty.
    pub(super) fn parameter(&self, name: &'static str) -> Result<Option<String>, HttpError> {
        let value = query::parameter(self.query.as_deref().unwrap_or_default(), name)?;
        Ok(value.filter(|value| !value.is_empty()))
    }

    /// The body's fields.
    pub(super) fn fields(&self) -> Result<Fields, HttpError> {
        Fields::read(self.headers.get(header::CONTENT_TYPE), &self.body)
    }

    /// The guest, where a code is shown. A wrong code is an error on every route.
    pub(super) async fn guest(&self, services: &Services) -> Result<Option<Guest>, HttpError> {
        let mut shown = self.headers.get_all(AUTH_CODE).iter();
        let code = match (shown.next(), shown.next()) {
            (None, _) => return Ok(None),
            (Some(code), None) if code.is_empty() => return Ok(None),
            (Some(code), None) => code.to_str().unwrap_or_default(),
            // Two codes are none.
            (Some(_), Some(_)) => "",
        };
        let guest = enter(services, self.peer, code).await?;
        guest.map(Some).ok_or(HttpError::WrongCode)
    }

    /// The guest, where there must be one.
    pub(super) async fn required_guest(&self, services: &Services) -> Result<Guest, HttpError> {
        let guest = self.guest(services).await?;
        guest.ok_or(HttpError::MissingCode)
    }

    /// Whether the caller may change the building and read what only operators read. A wrong code is
    /// refused here too.
    pub(super) async fn admin(&self, services: &Services) -> Result<(), HttpError> {
        // Its turn ends here: the change may be the removal of this very robot.
        drop(self.guest(services).await?);
        if self.is_admin(services) {
            return Ok(());
        }
        Err(HttpError::Unauthorized)
    }

    /// Whether the caller counts as an admin, whatever code it shows.
    pub(super) fn is_admin(&self, services: &Services) -> bool {
        services.settings.legacy_open || self.shows_admin_token(services)
    }

    /// The caller's own key of what it submits.
    pub(super) fn idempotency_key(&self) -> Result<Option<String>, HttpError> {
        let mut shown = self.headers.get_all(IDEMPOTENCY_KEY).iter();
        let key = match (shown.next(), shown.next()) {
            (None, _) => return Ok(None),
            (Some(key), None) => key.to_str().unwrap_or_default(),
            (Some(_), Some(_)) => "",
        };
        let is_printable = key.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        if key.is_empty() || key.len() > MAX_KEY_BYTES || !is_printable {
            let expected = "must be one text of at most 128 printable ASCII characters";
            return Err(invalid("Idempotency-Key", expected));
        }
        Ok(Some(key.to_owned()))
    }

    fn shows_admin_token(&self, services: &Services) -> bool {
        let Some(token) = &services.settings.admin_token else {
            return false;
        };
        let shown = self.headers.get(header::AUTHORIZATION);
        let shown = shown.and_then(|shown| shown.to_str().ok());
        let Some((scheme, offered)) = shown.and_then(|shown| shown.split_once(' ')) else {
            return false;
        };
        scheme.eq_ignore_ascii_case("bearer") && token.matches(offered.trim())
    }
}

/// Looks up a code and waits for its robot's turn. `None` for a wrong code, which is counted.
pub(super) async fn enter(
    services: &Services,
    peer: IpAddr,
    code: &str,
) -> Result<Option<Guest>, HttpError> {
    let live = &services.live;
    if let Guess::Refused(wait) = live.may_guess(peer).await? {
        services.metrics.guesses_refused.inc();
        return Err(HttpError::TooManyGuesses(wait));
    }
    let code = parse_code(code);
    let found = match code {
        Some(code) => live.robot_with_code(code).await?,
        None => None,
    };
    let (Some(code), Some(robot)) = (code, found) else {
        services.metrics.wrong_codes.inc();
        live.count_wrong_guess(peer).await?;
        return Ok(None);
    };
    let turn = services.turns.take(robot).await;
    // The code may have died while this waited for its turn. That is no guess.
    if live.robot_with_code(code).await? != Some(robot) {
        return Ok(None);
    }
    match services.catalog.robot(robot).await {
        Ok(robot) => Ok(Some(Guest { robot, _turn: turn })),
        // Removed by another process: its code dies with it.
        Err(CatalogError::Missing(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn parse_code(text: &str) -> Option<AuthCode> {
    let digits = text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    let code = text.parse().ok().filter(|code| CODES.contains(code))?;
    digits.then_some(AuthCode(code))
}

/// Gives a route its services and its call.
pub(super) fn call(
    services: &Arc<Services>,
) -> impl Filter<Extract = (Arc<Services>, Call), Error = warp::Rejection> + Clone + use<> {
    let services = Arc::clone(services);
    warp::any()
        .map(move || Arc::clone(&services))
        .and(warp::ext::get::<Call>())
}

/// Turns what a route did into its answer.
pub(super) fn finish(route: &'static str, done: Result<Response, HttpError>) -> Response {
    let mut response = done.unwrap_or_else(HttpError::into_response);
    response.extensions_mut().insert(Route(route));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_four_digits_from_1000_on() {
        assert_eq!(parse_code("1000"), Some(AuthCode(1000)));
        assert_eq!(parse_code("9999"), Some(AuthCode(9999)));
        for text in [
            "",
            "0999",
            "999",
            "10000",
            "+123",
            "1 00",
            "１０００",
            "1e3",
            "-100",
        ] {
            assert_eq!(parse_code(text), None, "{text:?}");
        }
    }
}
