//! An OIDC issuer of a test's own: real keys, real signatures, discovery and keys over HTTP, and GitHub's way to ask for
//! an ID token.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256},
};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A key of an issuer.
pub enum SigningKey {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl SigningKey {
    pub fn rsa() -> Self {
        SigningKey::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub fn ec() -> Self {
        SigningKey::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn ed() -> Self {
        SigningKey::Ed(Ed25519KeyPair::generate().unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            SigningKey::Rsa(_) => "RS256",
            SigningKey::Ec(_) => "ES256",
            SigningKey::Ed(_) => "EdDSA",
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            SigningKey::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
            SigningKey::Ec(key) => key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            SigningKey::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// The public key as it stands in a set.
    pub fn jwk(&self, id: &str) -> Value {
        let mut jwk = match self {
            SigningKey::Rsa(key) => {
                let public = key.public_key();
                let (n, e) = (public.modulus(), public.exponent());
                json!({
                    "kty": "RSA",
                    "n": base64(n.big_endian_without_leading_zero()),
                    "e": base64(e.big_endian_without_leading_zero()),
                })
            }
            SigningKey::Ec(key) => {
                let point = key.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": base64(&point[1..33]), "y": base64(&point[33..]) })
            }
            SigningKey::Ed(key) => json!({ "kty": "OKP", "crv": "Ed25519", "x": base64(key.public_key().as_ref()) }),
        };
        jwk["kid"] = json!(id);
        jwk["alg"] = json!(self.algorithm());
        jwk["use"] = json!("sig");
        jwk
    }

    /// A token with these claims.
    pub fn token(&self, id: &str, claims: &Value) -> String {
        self.token_with(&json!({ "alg": self.algorithm(), "kid": id, "typ": "JWT" }), claims)
    }

    /// A token with this header, be it true or not.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        signed(header, claims, |message| self.sign(message))
    }
}

/// A token with a signature of any kind.
pub fn signed(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", base64(&signature))
}

fn base64(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

/// What the issuer answers when it is asked for its keys.
#[derive(Clone, Debug)]
pub enum KeysAnswer {
    /// The keys that it has.
    Keys,
    /// This text, with this status.
    Text(u16, String),
    /// A redirect to its keys.
    Redirect,
    /// Nothing, until the client goes away.
    Hang,
}

/// An issuer.
pub struct Issuer {
    pub url: String,
    key: Arc<SigningKey>,
    shared: Arc<Shared>,
}

struct Shared {
    url: String,
    key: Arc<SigningKey>,
    state: Mutex<State>,
}

struct State {
    keys: Vec<Value>,
    answer: KeysAnswer,
    /// How often each path was asked for.
    counts: BTreeMap<String, usize>,
    /// The next ID tokens, for the bearer of each secret; the last one is given again.
    id_tokens: BTreeMap<String, Vec<String>>,
    /// The audiences for which ID tokens were asked.
    audiences: Vec<String>,
    /// Who logs in: claims of that person, which stand in place of others; null takes one out.
    person: Value,
    /// The secret of its client, and whether it is taken in a form alone.
    client_secret: Option<(String, bool)>,
    /// What was asked of it for each code that it gave and that nobody has used.
    codes: BTreeMap<String, BTreeMap<String, String>>,
    /// How many codes it gave.
    code_count: usize,
}

impl Issuer {
    /// Starts one with a key of its own, `first`.
    pub fn start() -> Self {
        Issuer::with_key(SigningKey::ec())
    }

    pub fn with_key(key: SigningKey) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = State {
            keys: vec![key.jwk("first")],
            answer: KeysAnswer::Keys,
            counts: BTreeMap::new(),
            id_tokens: BTreeMap::new(),
            audiences: Vec::new(),
            person: json!({}),
            client_secret: None,
            codes: BTreeMap::new(),
            code_count: 0,
        };
        let key = Arc::new(key);
        let shared = Arc::new(Shared { url: url.clone(), key: key.clone(), state: Mutex::new(state) });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                // A client that has gone away is no mistake.
                thread::spawn(move || _ = shared.serve(stream));
            }
        });
        Issuer { url, key, shared }
    }

    /// The configuration that takes its tokens by these rules, and a rule's claims, projects and scopes.
    pub fn config(&self, name: &str, rules: &str) -> String {
        format!("[[oidc]]\nname = \"{name}\"\nissuer = \"{}\"\n{rules}\n", self.url)
    }

    /// The claims of a job of `acme/web` on `main`, as GitHub makes them, now.
    pub fn claims(&self) -> Value {
        let now = Timestamp::now().as_second();
        json!({
            "iss": self.url, "aud": "singletrack", "sub": "repo:acme/web:ref:refs/heads/main",
            "iat": now, "nbf": now - 300, "exp": now + 300, "jti": "one",
            "repository": "acme/web", "repository_owner": "acme", "repository_id": "74",
            "ref": "refs/heads/main", "ref_type": "branch", "event_name": "push", "head_ref": "", "base_ref": "",
            "actor": "alice", "run_number": "10", "environment": "production",
        })
    }

    /// The same with changes; null takes a claim out.
    pub fn claims_with(&self, changes: &Value) -> Value {
        let mut claims = self.claims();
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => _ = claims.as_object_mut().unwrap().remove(name),
                value => claims[name] = value.clone(),
            }
        }
        claims
    }

    /// A token of such a job with changes, signed with the first key.
    pub fn token(&self, changes: &Value) -> String {
        self.key.token("first", &self.claims_with(changes))
    }

    /// The keys that it shows from now on.
    pub fn show_keys(&self, keys: Vec<Value>) {
        self.shared.state.lock().unwrap().keys = keys;
    }

    /// Its first key, as it stands in a set.
    pub fn first_key(&self) -> Value {
        self.key.jwk("first")
    }

    /// What it answers from now on when it is asked for its keys.
    pub fn answer(&self, answer: KeysAnswer) {
        self.shared.state.lock().unwrap().answer = answer;
    }

    /// How often its keys were fetched.
    pub fn fetch_count(&self) -> usize {
        self.count("/jwks")
    }

    fn count(&self, path: &str) -> usize {
        self.shared.state.lock().unwrap().counts.get(path).copied().unwrap_or_default()
    }

    /// Makes ID tokens for a job that shows this secret, one after the other; the last one again and again. Returns the
    /// variables of GitHub Actions for that job.
    pub fn job(&self, secret: &str, tokens: Vec<String>) -> [(String, String); 3] {
        self.shared.state.lock().unwrap().id_tokens.insert(secret.to_owned(), tokens);
        [
            ("GITHUB_ACTIONS".to_owned(), "true".to_owned()),
            ("ACTIONS_ID_TOKEN_REQUEST_URL".to_owned(), format!("{}/token?api-version=2.0", self.url)),
            ("ACTIONS_ID_TOKEN_REQUEST_TOKEN".to_owned(), secret.to_owned()),
        ]
    }

    /// Who logs in from now on: claims of that person. They stand in place of all others; null takes one out.
    pub fn person(&self, claims: Value) {
        self.shared.state.lock().unwrap().person = claims;
    }

    /// What its client must show from now on; `in_form`: in the form, and in no other way.
    pub fn client_secret(&self, secret: &str, in_form: bool) {
        self.shared.state.lock().unwrap().client_secret = Some((secret.to_owned(), in_form));
    }

    /// How many codes were given and not used.
    pub fn unused_codes(&self) -> usize {
        self.shared.state.lock().unwrap().codes.len()
    }

    /// The audiences for which ID tokens were asked, in order.
    pub fn audiences(&self) -> Vec<String> {
        self.shared.state.lock().unwrap().audiences.clone()
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let (mut line, mut bearer, mut basic, mut length) = (String::new(), String::new(), String::new(), 0);
        reader.read_line(&mut line)?;
        let target = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let header = header.trim_end();
            if header.is_empty() {
                break;
            }
            if let Some(secret) = header.strip_prefix("authorization: Bearer ") {
                secret.clone_into(&mut bearer);
            }
            if let Some(shown) = header.strip_prefix("authorization: Basic ") {
                basic = String::from_utf8(BASE64.decode(shown.as_bytes()).unwrap()).unwrap();
            }
            if let Some(told) = header.strip_prefix("content-length: ") {
                length = told.parse().unwrap();
            }
        }
        let mut form = vec![0; length];
        reader.read_exact(&mut form)?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let answer = match path {
            "/authorize" => Some(self.authorize(query)),
            "/code" => Some(self.exchange(&form, &basic)),
            _ => self.answer(path, query, &bearer),
        };
        match answer {
            Some(answer) => stream.write_all(answer.as_bytes()),
            // Ends when the client closes its side.
            None => stream.read_to_end(&mut Vec::new()).map(|_| ()),
        }
    }

    /// Sends a browser back with a code, as if its person had logged in.
    fn authorize(&self, query: &str) -> String {
        let asked: BTreeMap<_, _> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        assert_eq!(
            (&*asked["response_type"], &*asked["code_challenge_method"], &*asked["tenant"]),
            ("code", "S256", "1")
        );
        assert!(asked["scope"].split(' ').any(|scope| scope == "openid"), "{asked:?}");
        let mut state = self.state.lock().unwrap();
        state.code_count += 1;
        let code = format!("code-{}", state.code_count);
        let mut back = form_urlencoded::Serializer::new(String::new());
        back.append_pair("code", &code).append_pair("state", &asked["state"]).append_pair("iss", &self.url);
        back.append_pair("session_state", "of no use");
        let location = format!("{}?{}", asked["redirect_uri"], back.finish());
        state.codes.insert(code, asked);
        format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    }

    /// Gives the ID token for a code, once, to whoever proves to have begun.
    fn exchange(&self, form: &[u8], basic: &str) -> String {
        let mut sent: BTreeMap<_, _> = form_urlencoded::parse(form).into_owned().collect();
        let mut state = self.state.lock().unwrap();
        let refused = |error: &str| {
            http(400, &json!({ "error": error, "error_description": format!("this is {error}") }).to_string())
        };
        if let Some((id, secret)) = basic.split_once(':') {
            sent.insert("client_id".to_owned(), id.to_owned());
            sent.insert("shown_secret".to_owned(), secret.to_owned());
        }
        let Some(asked) = state.codes.remove(&sent["code"]) else { return refused("invalid_grant") };
        if let Some((secret, in_form)) = &state.client_secret {
            let shown = if *in_form { sent.get("client_secret") } else { sent.get("shown_secret") };
            if shown != Some(secret) {
                return refused("invalid_client");
            }
        }
        let challenge = base64(&Sha256::digest(&sent["code_verifier"]));
        let is_same = ["client_id", "redirect_uri"].iter().all(|name| sent.get(*name) == asked.get(*name));
        if challenge != asked["code_challenge"] || !is_same || sent["grant_type"] != "authorization_code" {
            return refused("invalid_grant");
        }
        let now = Timestamp::now().as_second();
        let mut claims = json!({
            "iss": self.url, "aud": asked["client_id"], "sub": "0815", "iat": now, "exp": now + 300,
            "nonce": asked["nonce"], "email": "alice@example.com", "email_verified": true, "groups": ["staff", "deployers"],
        });
        for (name, value) in state.person.as_object().unwrap() {
            match value {
                Value::Null => _ = claims.as_object_mut().unwrap().remove(name),
                value => claims[name] = value.clone(),
            }
        }
        http(200, &json!({ "id_token": self.key.token("first", &claims), "access_token": "x" }).to_string())
    }

    /// The whole answer; `None` for none at all.
    fn answer(&self, path: &str, query: &str, bearer: &str) -> Option<String> {
        let mut state = self.state.lock().unwrap();
        *state.counts.entry(path.to_owned()).or_default() += 1;
        match path {
            "/.well-known/openid-configuration" => {
                let at = |path: &str| format!("{}{path}", self.url);
                let in_form = state.client_secret.as_ref().is_some_and(|(_, in_form)| *in_form);
                let methods = if in_form { json!(["client_secret_post"]) } else { json!(["client_secret_basic"]) };
                let told = json!({
                    "issuer": self.url, "jwks_uri": at("/jwks"), "authorization_endpoint": at("/authorize?tenant=1"),
                    "token_endpoint": at("/code"), "token_endpoint_auth_methods_supported": methods,
                });
                Some(http(200, &told.to_string()))
            }
            "/jwks" => match &state.answer {
                KeysAnswer::Keys => Some(http(200, &json!({ "keys": state.keys }).to_string())),
                KeysAnswer::Text(status, text) => Some(http(*status, text)),
                KeysAnswer::Redirect => Some(format!(
                    "HTTP/1.1 302 Found\r\nlocation: {}/elsewhere\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                    self.url
                )),
                KeysAnswer::Hang => None,
            },
            "/elsewhere" => Some(http(200, &json!({ "keys": state.keys }).to_string())),
            "/token" => {
                let audience = query.split('&').find_map(|part| part.strip_prefix("audience="));
                state.audiences.push(audience.unwrap_or_default().to_owned());
                match state.id_tokens.get_mut(bearer) {
                    Some(tokens) if tokens.len() > 1 => {
                        Some(http(200, &json!({ "value": tokens.remove(0) }).to_string()))
                    }
                    Some(tokens) => Some(http(200, &json!({ "value": tokens[0] }).to_string())),
                    None => Some(http(403, "{}")),
                }
            }
            _ => Some(http(404, "{}")),
        }
    }
}

fn http(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} Test\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
