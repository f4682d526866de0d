//! What a browser does with cookies, redirects and forms, without the rest of one.

use std::{collections::BTreeMap, sync::Mutex};

use reqwest::{Client, Method, RequestBuilder, Response, header, redirect::Policy};

use crate::harness::TestServer;

/// The cookies of one browser, for one server.
pub struct Browser {
    base: String,
    client: Client,
    cookies: Mutex<BTreeMap<String, String>>,
}

/// A page that a browser got.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub text: String,
    pub location: String,
    /// The cookies that the server set, as it wrote them.
    pub set: Vec<String>,
    pub headers: header::HeaderMap,
}

impl Browser {
    /// A browser that knows nothing of the server.
    pub fn of(server: &TestServer) -> Self {
        let client = Client::builder().no_proxy().redirect(Policy::none()).pool_max_idle_per_host(0).build().unwrap();
        Browser { base: server.base.clone(), client, cookies: Mutex::default() }
    }

    /// A browser that has signed in with this token.
    pub async fn signed_in(server: &TestServer, token: &str) -> Self {
        let browser = Browser::of(server);
        let page = browser.sign_in(token, "/").await;
        assert_eq!((page.status, &*page.location), (303, "/"), "{}", page.text);
        browser
    }

    /// The same browser, as it meets another server at the same address.
    pub fn at(&self, server: &TestServer) -> Self {
        let cookies = self.cookies.lock().unwrap().clone();
        Browser { cookies: cookies.into(), ..Browser::of(server) }
    }

    /// A request of this browser.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base)).header(header::ACCEPT, "text/html");
        let cookies = self.cookies.lock().unwrap();
        if cookies.is_empty() {
            return request;
        }
        let all: Vec<_> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        request.header(header::COOKIE, all.join("; "))
    }

    /// Sends a request, and keeps the cookies of the answer.
    pub async fn send(&self, request: RequestBuilder) -> Page {
        self.keep(request.send().await.unwrap()).await
    }

    async fn keep(&self, response: Response) -> Page {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = |value: &header::HeaderValue| value.to_str().unwrap().to_owned();
        let set: Vec<_> = headers.get_all(header::SET_COOKIE).iter().map(text).collect();
        for cookie in &set {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            let mut cookies = self.cookies.lock().unwrap();
            if cookie.contains("Max-Age=0") {
                cookies.remove(name);
            } else {
                cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        let location = headers.get(header::LOCATION).map(text).unwrap_or_default();
        Page { status, location, set, headers, text: response.text().await.unwrap() }
    }

    pub async fn get(&self, path: &str) -> Page {
        self.send(self.request(Method::GET, path)).await
    }

    /// Sends a form that stands on the page at `on`.
    pub async fn submit(&self, on: &str, path: &str, fields: &[(&str, &str)]) -> Page {
        let proof = self.get(on).await.proof();
        self.post(path, &[fields, &[("csrf", &*proof)]].concat()).await
    }

    /// A form with exactly these fields.
    pub fn form(&self, path: &str, fields: &[(&str, &str)]) -> RequestBuilder {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let kind = "application/x-www-form-urlencoded";
        self.request(Method::POST, path).header(header::CONTENT_TYPE, kind).body(body)
    }

    /// Sends exactly these fields.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        self.send(self.form(path, fields)).await
    }

    /// Shows a token where people sign in.
    pub async fn sign_in(&self, token: &str, to: &str) -> Page {
        self.submit("/sign-in", "/sign-in", &[("token", token), ("to", to)]).await
    }

    /// The value of a cookie.
    pub fn cookie(&self, name: &str) -> Option<String> {
        self.cookies.lock().unwrap().get(name).cloned()
    }

    pub fn set_cookie(&self, name: &str, value: &str) {
        self.cookies.lock().unwrap().insert(name.to_owned(), value.to_owned());
    }
}

impl Page {
    /// What a form on this page carries.
    pub fn proof(&self) -> String {
        let field = self.text.split_once("name=\"csrf\" value=\"");
        let (_, rest) = field.unwrap_or_else(|| panic!("there is no form: {} {}", self.status, self.text));
        rest.split('"').next().unwrap().to_owned()
    }

    /// The one cookie that was set under this name.
    #[track_caller]
    pub fn cookie(&self, name: &str) -> &str {
        let found = self.set.iter().find(|cookie| cookie.starts_with(&format!("{name}=")));
        found.unwrap_or_else(|| panic!("there is no {name}: {:?}", self.set))
    }
}
