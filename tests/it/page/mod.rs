//! The page, as a browser without script gets it, and the streams that keep it live. What needs a real browser is in
//! `tests/page`.

mod actions;
mod browser;
mod cookies;
mod deployment;
mod forms;
mod log_in;
mod project;
mod projects;
mod sessions;
mod visits;

use data_encoding::HEXLOWER;
use reqwest::{Method, RequestBuilder, header};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::harness::{TestServer, gated_config};
use browser::Browser;

/// What a browser got.
struct Screen {
    status: u16,
    headers: header::HeaderMap,
    text: String,
}

impl Screen {
    /// A header's value; empty where there is none.
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The error code of a problem in JSON.
    fn code(&self) -> Option<String> {
        serde_json::from_str::<Value>(&self.text).ok()?["errorCode"].as_str().map(str::to_owned)
    }
}

/// The answer to this request.
async fn load(request: RequestBuilder) -> Screen {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Screen { status, headers, text: response.text().await.unwrap() }
}

/// A screen, as a browser asks for it.
async fn screen(server: &TestServer, path: &str) -> Screen {
    load(server.request(Method::GET, path).header(header::ACCEPT, "text/html")).await
}

/// What stands between `begin` and the next `end`.
fn part<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("there is no {begin} in {text}"));
    rest.split_once(end).map_or(rest, |(part, _)| part)
}

/// A new token, and its table in the configuration with `more` in it.
fn a_token(name: &str, more: &str) -> (String, String) {
    let token = singletrack::http::new_token().unwrap().token;
    let hash = HEXLOWER.encode(&Sha256::digest(&token));
    (token, format!("[[tokens]]\nname = \"{name}\"\nsha256 = \"{hash}\"\n{more}\n"))
}

/// A server that needs tokens, and a token that may do everything.
fn closed(store: &str, more: &str) -> (TestServer, String) {
    let (token, table) = a_token("root", "");
    (TestServer::start_on(store, &gated_config(&format!("{more}\n{table}"))), token)
}
