//! Server-Sent Events, read frame by frame and checked against the API description.

use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

use super::{TestServer, openapi};

/// An open stream.
pub struct EventStream {
    response: Response,
    buffer: Vec<u8>,
}

/// The text between two blank lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub id: Option<u64>,
    pub name: String,
    pub data: Value,
    /// A comment, if it is one.
    pub comment: Option<String>,
}

impl TestServer {
    /// Opens the stream of one of `web`'s deployments.
    pub async fn stream(&self, id: &str, after: Option<u64>) -> EventStream {
        let path = format!("/v1/projects/web/deployments/{id}/events");
        let mut request = self.request(Method::GET, &path).header("Accept", "text/event-stream");
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after);
        }
        EventStream::open(request).await
    }
}

impl EventStream {
    pub fn headers(&self) -> &reqwest::header::HeaderMap {
        self.response.headers()
    }

    /// Opens a stream.
    pub async fn open(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        EventStream { response, buffer: Vec::new() }
    }

    /// The next frame; `None` when the server has closed the stream in order.
    pub async fn next(&mut self) -> Option<Frame> {
        Some(Frame::parse(&self.next_text().await?))
    }

    /// The text of the next frame; `None` when the server has closed the stream in order.
    pub async fn next_text(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let rest = self.buffer.split_off(end + 2);
                let frame = std::mem::replace(&mut self.buffer, rest);
                return Some(String::from_utf8(frame).unwrap().trim_end_matches('\n').to_owned());
            }
            let Some(piece) = self.response.chunk().await.unwrap() else {
                assert!(self.buffer.is_empty(), "the stream ended within a frame");
                return None;
            };
            // What is sent to a screen is HTML in UTF-8.
            let is_plain = piece.is_ascii() || !self.response.url().path().starts_with("/v1/");
            assert!(is_plain && !piece.contains(&b'\r') && !piece.contains(&0), "{piece:?} is no plain ASCII");
            self.buffer.extend_from_slice(&piece);
        }
    }

    /// Every frame to the end.
    pub async fn rest(mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }
}

impl Frame {
    /// The frame's text must have exactly this form: an optional `id`, `event`, one line of `data`; or a comment.
    fn parse(text: &str) -> Self {
        if let Some(comment) = text.strip_prefix(": ") {
            let comment = Some(comment.to_owned());
            return Frame { id: None, name: String::new(), data: Value::Null, comment };
        }
        let (id, rest) = match text.strip_prefix("id: ") {
            Some(rest) => rest.split_once('\n').map(|(id, rest)| (Some(id.parse().unwrap()), rest)).unwrap(),
            None => (None, text),
        };
        let lines: Vec<_> = rest.split('\n').collect();
        let [event, data] = lines.as_slice() else { panic!("not a frame: {text:?}") };
        let name = event.strip_prefix("event: ").unwrap_or_else(|| panic!("not a frame: {text:?}")).to_owned();
        let data = data.strip_prefix("data: ").unwrap_or_else(|| panic!("not a frame: {text:?}"));
        let data: Value = serde_json::from_str(data).unwrap();
        openapi::validate("/components/schemas/StreamData", &data, "an event of a stream");
        assert_eq!(data["type"], name);
        assert_eq!(data["seq"].as_u64(), id, "the id is the seq");
        Frame { id, name, data, comment: None }
    }
}
