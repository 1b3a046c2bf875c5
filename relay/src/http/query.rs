//! Parameters, read from the raw query.

use brrbrr_proto::names::Asked;

use super::error::HttpError;

/// The longest value that is read, in bytes of the raw query.
const LONGEST: usize = 4096;

/// The name that a guest asked for; `None` where there is none or it is empty. `+` and `%2B` both
/// mean a space. Other parameters are ignored.
///
/// # Errors
/// Where it is given twice, as an array or object, or not as percent-encoded UTF-8.
pub(super) fn name(query: &str) -> Result<Option<Asked>, HttpError> {
    let name = parameter(query, "name")?.map(|name| name.replace('+', " "));
    Ok(name
        .filter(|name| !name.is_empty())
        .map(|name| Asked::new(&name)))
}

/// A parameter's value, `+` as it is; `None` where there is none. Other parameters are ignored.
///
/// # Errors
/// Where it is given twice, as an array or object, or not as percent-encoded UTF-8.
pub(super) fn parameter(query: &str, name: &'static str) -> Result<Option<String>, HttpError> {
    let invalid = |reason| HttpError::Invalid {
        field: name,
        reason,
    };
    let mut found = None;
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        // A key that cannot be read is not ours.
        let Some(key) = decode(key) else { continue };
        let Some(rest) = key.strip_prefix(name) else {
            continue;
        };
        if rest.starts_with('[') {
            return Err(invalid("must be one text, not an array or object"));
        }
        if !rest.is_empty() {
            continue;
        }
        if found.is_some() {
            return Err(invalid("is given more than once"));
        }
        if value.len() > LONGEST {
            return Err(invalid("is too long"));
        }
        let value = decode(value).ok_or_else(|| invalid("is not percent-encoded UTF-8"))?;
        found = Some(value);
    }
    Ok(found)
}

/// A text as a header can carry it: what is not a letter or a digit of ASCII is percent-encoded.
pub(super) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            for half in [byte >> 4, byte & 0xf] {
                let digit = char::from_digit(u32::from(half), 16).unwrap_or('0');
                encoded.push(digit.to_ascii_uppercase());
            }
        }
    }
    encoded
}

/// Undoes percent-encoding; leaves `+` alone.
fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        decoded.push(hex(bytes.next()?)? << 4 | hex(bytes.next()?)?);
    }
    String::from_utf8(decoded).ok()
}

const fn hex(digit: u8) -> Option<u8> {
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

    fn read(query: &str) -> Option<Option<Asked>> {
        name(query).ok()
    }

    #[test]
    fn plus_and_its_percent_encoding_are_spaces() {
        let asked = Some(Some(Asked::new("a b c d")));
        for query in [
            "name=a+b%2Bc%20d",
            "name=a%2bb+c+d",
            "x=1&name=a+b+c+d&y=%zz",
        ] {
            assert_eq!(read(query), asked, "{query}");
        }
    }

    #[test]
    fn hangul_is_read_encoded_and_raw() {
        let asked = Some(Some(Asked::new("701호")));
        assert_eq!(read("name=701%ED%98%B8"), asked);
        assert_eq!(read("name=701호"), asked);
        assert_eq!(read("n%61me=701%ed%98%b8"), asked);
    }

    #[test]
    fn no_name_and_an_empty_name_are_the_same() {
        for query in [
            "", "&", "=", "name", "name=", "names=a", "NAME=a", "%=a", "%ff=1",
        ] {
            assert_eq!(read(query), Some(None), "{query}");
        }
    }

    #[test]
    fn a_name_that_is_not_one_readable_text_is_refused_by_its_name() {
        let long = format!("name={}", "a".repeat(LONGEST + 1));
        for query in [
            "name=a&name=b",
            "name=&name=",
            "name[x]=1",
            "name[]=1",
            "name%5Bx%5D=1",
            "name=%",
            "name=%4",
            "name=%zz",
            "name=%ff",
            "name=%ed%98",
            &long,
        ] {
            let refused = name(query).unwrap_err();
            assert!(refused.to_string().starts_with("name: "), "{query}");
        }
    }

    #[test]
    fn what_is_percent_encoded_is_read_again() {
        let text = "{\"a\": \"한 글+%\"}\n";
        let encoded = percent_encoded(text);
        assert!(
            encoded.bytes().all(|byte| byte.is_ascii_graphic()),
            "{encoded}"
        );
        assert_eq!(decode(&encoded).as_deref(), Some(text));
    }
}
