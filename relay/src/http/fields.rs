//! Reads the fields of a JSON body, and names the one that is missing or of the wrong type.

use brrbrr_proto::names::{MAX_NAME_CHARS, stored_aliases};
use http::HeaderValue;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::error::HttpError;

/// The longest description.
const DESCRIPTION_CHARS: usize = 10_000;
/// The longest address of a picture or map.
const URL_CHARS: usize = 2_048;

/// The fields of a body.
#[derive(Debug)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a body as a JSON object.
    pub(super) fn read(content_type: Option<&HeaderValue>, body: &[u8]) -> Result<Self, HttpError> {
        if !content_type.is_some_and(is_json) {
            return Err(HttpError::NotJson);
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(HttpError::BadJson("an object was expected".to_owned())),
            Err(error) => Err(HttpError::BadJson(error.to_string())),
        }
    }

    /// As they came.
    pub(super) fn into_map(self) -> Map<String, Value> {
        self.0
    }

    /// A name: a text that is not empty.
    pub(super) fn name(&self, field: &'static str) -> Result<String, HttpError> {
        let name = self.text(field, MAX_NAME_CHARS)?;
        let name = name.ok_or_else(|| missing(field))?;
        if name.trim().is_empty() {
            return Err(invalid(field, "must not be empty"));
        }
        Ok(name)
    }

    /// A list of names; may be absent.
    pub(super) fn aliases(&self, field: &'static str) -> Result<Option<Vec<String>>, HttpError> {
        let names = match self.0.get(field) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(names)) => names,
            Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                return Err(invalid(field, "must be a list of texts"));
            }
        };
        let texts = names.iter().map(|name| name.as_str().map(str::to_owned));
        let texts: Option<Vec<String>> = texts.collect();
        let texts = texts.ok_or_else(|| invalid(field, "must hold texts only"))?;
        let aliases = stored_aliases(texts).map_err(|bad| invalid(field, bad.reason()))?;
        Ok(Some(aliases))
    }

    /// A description; may be absent.
    pub(super) fn description(&self, field: &'static str) -> Result<Option<String>, HttpError> {
        self.text(field, DESCRIPTION_CHARS)
    }

    /// The address of a picture or map; may be absent.
    pub(super) fn url(&self, field: &'static str) -> Result<Option<String>, HttpError> {
        self.text(field, URL_CHARS)
    }

    /// A floor: an integer, or a text of one, as old clients send it.
    pub(super) fn floor(&self, field: &'static str) -> Result<i32, HttpError> {
        let floor = match self.required(field)? {
            Value::Number(number) => number.as_i64().and_then(|floor| floor.try_into().ok()),
            Value::String(text) => text.trim().parse().ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        floor.ok_or_else(|| invalid(field, "must be an integer"))
    }

    /// A coordinate in metres.
    pub(super) fn metres(&self, field: &'static str) -> Result<f64, HttpError> {
        let metres = self.required(field)?.as_f64();
        let metres = metres.filter(|metres| metres.is_finite());
        metres.ok_or_else(|| invalid(field, "must be a number"))
    }

    /// A moment in ISO 8601, with its offset from UTC.
    pub(super) fn time(&self, field: &'static str) -> Result<Timestamp, HttpError> {
        let time = self.required(field)?.as_str();
        let time = time.and_then(|text| text.parse().ok());
        time.ok_or_else(|| {
            let expected = "must be a time in ISO 8601 with Z or an offset";
            invalid(field, expected)
        })
    }

    /// What somebody typed as a code: the text, or the number as a text.
    pub(super) fn typed_code(&self, field: &'static str) -> Result<String, HttpError> {
        match self.required(field)? {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                Err(invalid(field, "must be a number or a text"))
            }
        }
    }

    fn required(&self, field: &'static str) -> Result<&Value, HttpError> {
        let value = self.0.get(field).filter(|value| !value.is_null());
        value.ok_or_else(|| missing(field))
    }

    fn text(&self, field: &'static str, longest: usize) -> Result<Option<String>, HttpError> {
        let text = match self.0.get(field) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text,
            Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                return Err(invalid(field, "must be a text"));
            }
        };
        if text.chars().nth(longest).is_some() {
            return Err(invalid(field, "is too long"));
        }
        // No store that may come later can hold it.
        if text.contains('\0') {
            return Err(invalid(field, "must not contain a NUL"));
        }
        Ok(Some(text.clone()))
    }
}

/// Says what is wrong with a field.
pub(super) const fn invalid(field: &'static str, reason: &'static str) -> HttpError {
    HttpError::Invalid { field, reason }
}

const fn missing(field: &'static str) -> HttpError {
    invalid(field, "is missing")
}

fn is_json(content_type: &HeaderValue) -> bool {
    let text = content_type.to_str().unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}
