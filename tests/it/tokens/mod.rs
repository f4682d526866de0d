//! Tokens that are made at run time, what they let their holders do, and what is left of that when they end.

mod attempts;
mod ends;
mod life;
mod routes;

use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::harness::{Answer, TestServer, client_with, gated_config, postgres, send};

/// A token of the configuration that may do everything, and its table.
const ADMIN_TABLE: &str = "[[tokens]]\nname = \"root\"\nsha256 = \"HASH\"";

/// A server that needs tokens, the client of its administrator, and the administrator's token.
struct Closed {
    server: TestServer,
    token: String,
    admin: Client,
}

impl Closed {
    /// With `more` at the top of its configuration.
    fn start(store: &str, more: &str) -> Self {
        let (token, table) = root_token();
        let server = TestServer::start_on(store, &gated_config(&format!("{more}\n{table}")));
        server.close_gate();
        Closed { admin: client_with(&token), server, token }
    }

    /// Another server of the same store, with the same administrator.
    fn beside(&self, store: &str, more: &str) -> Self {
        let table = table_of(&self.token);
        let server = TestServer::start_on(store, &gated_config(&format!("{more}\n{table}")));
        Closed { admin: client_with(&self.token), server, token: self.token.clone() }
    }

    /// A request of the administrator.
    async fn ask(&self, method: Method, path: &str, body: Value) -> Answer {
        ask(&self.admin, &self.server, method, path, body).await
    }

    /// Makes a token, and a client that shows it.
    async fn token(&self, wish: Value) -> (String, Client) {
        let made = self.ask(Method::POST, "/v1/tokens", wish).await;
        assert_eq!(made.status, 201, "{}", made.text);
        let token = made.body["token"].as_str().unwrap().to_owned();
        (token.clone(), client_with(&token))
    }

    async fn revoke(&self, name: &str) -> Answer {
        self.ask(Method::POST, &format!("/v1/tokens/{name}/revoke"), json!({})).await
    }

    /// The tokens of the list, by name.
    async fn listed(&self, name: &str) -> Value {
        let list = self.ask(Method::GET, "/v1/tokens?limit=100", Value::Null).await.body;
        let found = list["tokens"].as_array().unwrap().iter().find(|token| token["name"] == name);
        found.unwrap_or_else(|| panic!("{list}")).clone()
    }
}

async fn ask(client: &Client, server: &TestServer, method: Method, path: &str, body: Value) -> Answer {
    let request = client.request(method, format!("{}{path}", server.base));
    send(if body.is_null() { request } else { request.json(&body) }).await
}

async fn get(client: &Client, server: &TestServer, path: &str) -> Answer {
    ask(client, server, Method::GET, path, Value::Null).await
}

/// A token that may do everything, and its table in the configuration.
fn root_token() -> (String, String) {
    let token = singletrack::http::new_token().unwrap().token;
    let table = table_of(&token);
    (token, table)
}

fn table_of(token: &str) -> String {
    use sha2::{Digest as _, Sha256};
    ADMIN_TABLE.replace("HASH", &data_encoding::HEXLOWER.encode(&Sha256::digest(token)))
}

/// A SQLite file, or a fresh PostgreSQL database.
async fn stores() -> [String; 2] {
    ["sqlite:test.db".to_owned(), postgres::shared().store().await]
}
