//! The page, as a browser without script gets it, and the streams that keep it live. What needs a real browser is in
//! `tests/page`.

mod projects;

use reqwest::{Method, header};

use crate::harness::{Answer, TestServer, send};

/// A screen, as a browser asks for it.
async fn screen(server: &TestServer, path: &str) -> Answer {
    send(server.request(Method::GET, path).header(header::ACCEPT, "text/html")).await
}

/// What stands between `begin` and the next `end`.
fn part<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("there is no {begin} in {text}"));
    rest.split_once(end).map_or(rest, |(part, _)| part)
}
