//! The page, as a browser without script gets it, and the streams that keep it live. What needs a real browser is in
//! `tests/page`.

mod browser;
mod cookies;
mod forms;
mod projects;
mod sessions;
mod visits;

use data_encoding::HEXLOWER;
use reqwest::{Method, header};
use sha2::{Digest as _, Sha256};

use crate::harness::{Answer, TestServer, gated_config, send};
use browser::Browser;

/// A screen, as a browser asks for it.
async fn screen(server: &TestServer, path: &str) -> Answer {
    send(server.request(Method::GET, path).header(header::ACCEPT, "text/html")).await
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
