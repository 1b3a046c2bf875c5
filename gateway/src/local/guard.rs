//! Who may ask on a configured socket. Any page in a browser on the board can send requests to a
//! loopback address, so there what no program would send is refused: another host's name (DNS
//! rebinding), and writes from a page of another origin.

use std::fmt;
use std::net::IpAddr;

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::{Method, Request};
use sha2::{Digest, Sha256};

use super::answer::Refusal;

/// Says where a browser's request comes from; see the Fetch standard.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A secret that callers have to show. Only its hash is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    /// The token of this text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Who may ask.
#[derive(Debug)]
pub(super) enum Guard {
    /// Whoever can open the socket.
    Open,
    /// Whoever shows the token, if there is one.
    Unix(Option<Token>),
    /// The same over TCP, and nobody whom a browser misleads. `is_loopback`: only this board can
    /// reach the address.
    Tcp {
        token: Option<Token>,
        is_loopback: bool,
    },
}

impl Guard {
    /// Whether the request may be looked at. That the gateway runs may be seen without a token.
    pub(super) fn admit<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let token = match self {
            Self::Open => return Ok(()),
            Self::Unix(token) => token,
            Self::Tcp { token, is_loopback } => {
                check_browser(request, *is_loopback)?;
                token
            }
        };
        match token {
            Some(token) if request.uri().path() != "/healthz" => {
                check_token(token, request.headers())
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn check_token(token: &Token, headers: &HeaderMap) -> Result<(), Refusal> {
    let shown = headers.get(AUTHORIZATION);
    let shown = shown.and_then(|shown| shown.to_str().ok()?.split_once(' '));
    match shown {
        // Hashes are compared, so how long that takes tells nothing of the token.
        Some((scheme, shown))
            if scheme.eq_ignore_ascii_case("bearer") && Token::new(shown.trim()) == *token =>
        {
            Ok(())
        }
        Some(_) | None => Err(Refusal::Unauthorized),
    }
}

fn check_browser<B>(request: &Request<B>, is_loopback: bool) -> Result<(), Refusal> {
    let headers = request.headers();
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.unwrap_or_default();
    if is_loopback && !is_loopback_name(host) {
        return Err(Refusal::Host(host.to_owned()));
    }
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(());
    }
    let is_own = |origin: &str| {
        let rest = origin.strip_prefix("http://");
        rest.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    };
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let is_cross = text(ORIGIN).is_some_and(|origin| !is_own(origin))
        || text(FETCH_SITE).is_some_and(|site| !matches!(site, "same-origin" | "none"));
    if is_cross {
        return Err(Refusal::Origin);
    }
    Ok(())
}

/// Whether a `Host` names this board's loopback, with any port.
fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, _)) => name,
        None => host.split(':').next().unwrap_or_default(),
    };
    let is_address = name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    is_address || name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: Method, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri("/api/v1/commands");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn refused(guard: &Guard, method: Method, headers: &[(&str, &str)]) -> Option<&'static str> {
        match guard.admit(&asked(method, headers)) {
            Ok(()) => None,
            Err(Refusal::Host(_)) => Some("host"),
            Err(Refusal::Origin) => Some("origin"),
            Err(Refusal::Unauthorized) => Some("token"),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_page_in_a_browser_on_the_board_can_neither_rebind_nor_write() {
        let guard = Guard::Tcp {
            token: None,
            is_loopback: true,
        };
        for host in [
            "localhost:8080",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]:8080",
            "LOCALHOST",
        ] {
            assert_eq!(
                refused(&guard, Method::POST, &[("host", host)]),
                None,
                "{host}"
            );
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "",
            "[::2]",
            "127.0.0.1.x",
        ] {
            let answer = refused(&guard, Method::GET, &[("host", host)]);
            assert_eq!(answer, Some("host"), "{host}");
        }
        assert_eq!(refused(&guard, Method::GET, &[]), Some("host"));
        let host = ("host", "localhost:8080");
        for (header, expected) in [
            (("origin", "http://localhost:8080"), None),
            (("origin", "http://localhost:3000"), Some("origin")),
            (("origin", "https://evil.example"), Some("origin")),
            (("origin", "null"), Some("origin")),
            (("sec-fetch-site", "same-origin"), None),
            (("sec-fetch-site", "same-site"), Some("origin")),
            (("sec-fetch-site", "cross-site"), Some("origin")),
        ] {
            assert_eq!(
                refused(&guard, Method::POST, &[host, header]),
                expected,
                "{header:?}"
            );
            assert_eq!(
                refused(&guard, Method::GET, &[host, header]),
                None,
                "{header:?}"
            );
        }
    }

    #[test]
    fn a_token_has_to_be_shown_where_there_is_one() {
        let token = Some(Token::new("correct horse"));
        let lan = Guard::Tcp {
            token: token.clone(),
            is_loopback: false,
        };
        for guard in [lan, Guard::Unix(token)] {
            let with = |value| {
                refused(
                    &guard,
                    Method::POST,
                    &[("host", "10.0.0.9"), ("authorization", value)],
                )
            };
            assert_eq!(with("Bearer correct horse"), None);
            assert_eq!(with("bearer correct horse"), None);
            for value in [
                "Bearer wrong",
                "Basic correct horse",
                "correct horse",
                "Bearer",
                "",
            ] {
                assert_eq!(with(value), Some("token"), "{value}");
            }
            assert_eq!(
                refused(&guard, Method::GET, &[("host", "10.0.0.9")]),
                Some("token")
            );
        }
        assert_eq!(
            refused(&Guard::Open, Method::POST, &[("origin", "null")]),
            None
        );
    }
}
