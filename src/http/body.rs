//! Reads bodies, limited in size and in their size after decompression; and JSON, more strictly than serde alone.

use std::{fmt, io::Write as _};

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt as _;
use serde::{
    Deserialize,
    de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use super::{
    error::{ErrorAnswer, echo},
    intake,
};
use crate::wire::ErrorCode;

/// The largest body on the wire. A submit has a few KiB; a deploy tool that sends its whole plan as inputs, a few MiB.
const WIRE_LIMIT: usize = 8 << 20;
/// The largest body after decompression.
const INFLATED_LIMIT: usize = 32 << 20;
/// Past its first MiB, a body may be at most this many times larger than the bytes that were sent. Text seldom passes
/// 20.
const INFLATION_RATIO_LIMIT: usize = 100;
/// How deep JSON may nest.
const DEPTH_LIMIT: usize = 64;
/// Numbers beyond this lose digits in many clients.
const NUMBER_LIMIT: u64 = 1 << 53;

/// Reads a body and decompresses it.
///
/// # Errors
/// The body is too large, too slow, cut off, or in an unknown encoding.
pub async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, ErrorAnswer> {
    let mut sink = Sink::for_encoding(headers)?;
    let mut body = body;
    let mut received = 0;
    while let Some(piece) = next_piece(&mut body).await? {
        received += piece.len();
        if received > WIRE_LIMIT {
            return Err(ErrorAnswer::new(
                ErrorCode::BodyTooLarge,
                format!("the body is larger than {WIRE_LIMIT} bytes"),
            ));
        }
        sink.take(&piece, received)?;
    }
    sink.finish()
}

/// The next piece of a body; `None` at its end.
///
/// # Errors
/// The body is too slow, or cut off.
pub async fn next_piece(body: &mut Body) -> Result<Option<Bytes>, ErrorAnswer> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(error)) if intake::is_too_slow(&error) => {
                return Err(ErrorAnswer::new(ErrorCode::RequestTimeout, "the body did not arrive in time"));
            }
            Some(Err(_)) => return Err(ErrorAnswer::new(ErrorCode::BadRequest, "the body was cut off")),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

enum Sink {
    Plain(Vec<u8>),
    Gzip(Box<MultiGzDecoder<Bounded>>),
}

impl Sink {
    fn for_encoding(headers: &HeaderMap) -> Result<Self, ErrorAnswer> {
        let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
        let encoding = encodings.next().map(|value| value.to_str().unwrap_or_default().trim().to_ascii_lowercase());
        match (encoding.as_deref(), encodings.next()) {
            (None | Some("identity"), None) => Ok(Sink::Plain(Vec::new())),
            (Some("gzip" | "x-gzip"), None) => Ok(Sink::Gzip(Box::new(MultiGzDecoder::new(Bounded::default())))),
            (_, _) => Err(ErrorAnswer::new(
                ErrorCode::UnsupportedMediaType,
                "the body may be sent plain or with gzip, no other way",
            )),
        }
    }

    fn take(&mut self, piece: &[u8], received: usize) -> Result<(), ErrorAnswer> {
        match self {
            Sink::Plain(bytes) => bytes.extend_from_slice(piece),
            Sink::Gzip(decoder) => {
                decoder.get_mut().limit = INFLATED_LIMIT.min((1 << 20) + received * INFLATION_RATIO_LIMIT);
                if decoder.write_all(piece).is_err() {
                    return Err(if decoder.get_ref().overflowed { too_inflated() } else { bad_gzip() });
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Bytes, ErrorAnswer> {
        match self {
            Sink::Plain(bytes) => Ok(bytes.into()),
            Sink::Gzip(decoder) => {
                let bounded = decoder.finish().map_err(|_| bad_gzip())?;
                if bounded.overflowed { Err(too_inflated()) } else { Ok(bounded.bytes.into()) }
            }
        }
    }
}

fn too_inflated() -> ErrorAnswer {
    ErrorAnswer::new(
        ErrorCode::BodyTooLarge,
        format!("the body is larger than {INFLATED_LIMIT} bytes after decompression"),
    )
}

fn bad_gzip() -> ErrorAnswer {
    ErrorAnswer::new(ErrorCode::InvalidBody, "the body is not whole and valid gzip")
}

/// Takes decompressed bytes up to a limit, so that a decompression bomb is never held in memory.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    overflowed: bool,
}

impl std::io::Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + piece.len() > self.limit {
            self.overflowed = true;
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whether the body is declared as JSON.
pub fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
        || (kind.len() > 5 && kind.to_ascii_lowercase().starts_with("application/") && kind.ends_with("+json"))
}

/// Fails for a body that is not declared as JSON.
///
/// # Errors
/// The body is not declared as JSON.
pub fn require_json(headers: &HeaderMap) -> Result<(), ErrorAnswer> {
    if is_json(headers) {
        return Ok(());
    }
    Err(ErrorAnswer::new(ErrorCode::UnsupportedMediaType, "send the body with Content-Type: application/json"))
}

/// Reads a body that must be JSON.
///
/// # Errors
/// The errors of [`read`], [`require_json`] and [`parse`], in this order.
pub async fn read_json<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, ErrorAnswer> {
    let bytes = read(headers, body).await?;
    require_json(headers)?;
    parse(&bytes)
}

/// Parses a JSON body, which is an object: no member twice, no unknown one, no depth beyond 64, no number beyond 2^53.
///
/// # Errors
/// The error says what is wrong and where.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ErrorAnswer> {
    let invalid = |error: serde_json::Error| ErrorAnswer::new(ErrorCode::InvalidBody, describe(&error));
    // Some editors and clients put a byte order mark before it.
    let mut reader = serde_json::Deserializer::from_slice(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
    let value = Strict { depth: 0 }.deserialize(&mut reader).map_err(invalid)?;
    reader.end().map_err(invalid)?;
    // serde would accept an array for a structure, member by member.
    if !value.is_object() {
        return Err(ErrorAnswer::new(ErrorCode::InvalidBody, "the body is not a JSON object, such as {}"));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let (path, error) = (error.path().to_string(), error.into_inner());
        if error.to_string().starts_with("unknown field") {
            return ErrorAnswer::new(ErrorCode::UnknownParameter, describe(&error));
        }
        // serde names the whole body by a single dot.
        let place = if path == "." { String::new() } else { format!(" at '{}'", echo(&path)) };
        ErrorAnswer::new(ErrorCode::InvalidBody, format!("{}{place}", describe(&error)))
    })
}

fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    // serde names the found value and the expected one. The found value may be long or hostile; the expected one is
    // ours.
    match text.split_once(", expected ") {
        Some((found, expected)) => format!("the body is not valid: {}, expected {expected}", echo(found)),
        None => format!("the body is not valid: {}", echo(&text)),
    }
}

/// Builds a [`Value`], and refuses input that serde_json accepts but this API does not.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH_LIMIT {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_LIMIT}")));
        }
        Ok(Strict { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        if value > NUMBER_LIMIT { Err(E::custom("a number beyond 2^53")) } else { Ok(value.into()) }
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        if value.unsigned_abs() > NUMBER_LIMIT { Err(E::custom("a number beyond 2^53")) } else { Ok(value.into()) }
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number that is not finite"))?;
        if value.abs() > NUMBER_LIMIT as f64 {
            return Err(E::custom("a number beyond 2^53"));
        }
        // 2151.0 is a whole number in JSON, however it is written.
        if value.fract() == 0.0 { Ok((value as i64).into()) } else { Ok(number.into()) }
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut members = Map::new();
        while let Some(Name(name)) = map.next_key()? {
            let value = map.next_value_seed(inner)?;
            if members.contains_key(&name) {
                return Err(de::Error::custom(format_args!("the member '{}' appears twice", echo(&name))));
            }
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

#[derive(Deserialize)]
struct Name(String);
