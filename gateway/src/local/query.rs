//! What stands behind the `?` of a request.

use super::answer::{Refusal, invalid};

/// The parameter of this name, decoded: `+` means a space. The first one counts.
pub(super) fn parameter(
    query: Option<&str>,
    name: &'static str,
) -> Result<Option<String>, Refusal> {
    let pairs = query.unwrap_or_default().split('&');
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let found = pairs
        .filter_map(|(key, value)| Some((decode(key)?, value)))
        .find(|(key, _)| key == name);
    let Some((_, value)) = found else {
        return Ok(None);
    };
    let value = decode(value).filter(|value| !value.contains('\0'));
    value
        .map(Some)
        .ok_or_else(|| invalid(name, "must be UTF-8, with %XX for special characters"))
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (hex(rest.next()?)?, hex(rest.next()?)?);
                high * 16 + low
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_nonsense_is_refused() {
        let name = |query| parameter(Some(query), "name").map_err(|error| error.to_string());
        assert_eq!(
            name("a=1&name=%EC%B9%B4+a%2Bb"),
            Ok(Some("카 a+b".to_owned()))
        );
        assert_eq!(name("name"), Ok(Some(String::new())));
        assert_eq!(name("nam=1"), Ok(None));
        for query in ["name=%", "name=%4", "name=%zz", "name=%ff", "name=%00"] {
            assert!(name(query).is_err(), "{query}");
        }
        assert!(matches!(parameter(None, "name"), Ok(None)));
    }
}
