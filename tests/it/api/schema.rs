//! `openapi.yaml` in both directions: what it allows the server takes, and what it forbids the server refuses. Requests are
//! made at random out of the description itself, valid and invalid ones, from the same seed each time.

use std::collections::BTreeMap;

use jsonschema::Validator;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::harness::{TestServer, gated_config, openapi, send};

/// So many bodies of each kind.
const ROUNDS: usize = 250;
/// What says that a request was not well formed. Everything else is about what it asks for.
const MALFORMED: [&str; 4] = ["INVALID_BODY", "INVALID_PARAMETER", "UNKNOWN_PARAMETER", "INVALID_PROJECT"];
const NOBODY: &str = "0199ffff-0000-7000-8000-000000000000";
const SECRET: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Numbers that look random, and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.roll(items.len())]
    }
}

/// Values at the edges of everything.
fn pool() -> Vec<Value> {
    let texts = [
        "",
        " ",
        "a",
        "main",
        "web",
        "a b",
        "-",
        ".",
        "\n",
        "a\nb",
        "\t",
        "\u{7f}",
        "\u{9b}",
        "\u{85}",
        "\0",
        "ä🚀\u{202e}",
        "https://ci.example/1",
        "http://",
        "ftp://x",
        NOBODY,
        SECRET,
        "deploy",
        "PHASE_FAILED",
        "SUCCEEDED",
        "true",
    ];
    let longs = [64, 65, 100, 128, 129, 256, 257, 1024, 1025, 2049, 4097, 8192, 8193].map(|length| "x".repeat(length));
    let numbers =
        [json!(0), json!(1), json!(-1), json!(2), json!(60), json!(1.0), json!(2151.0), json!(1.5), json!(100)];
    let large = [json!(101), json!(3601), json!(86_401), json!(1_u64 << 53), json!((1_u64 << 53) + 1), json!(1e300)];
    let others = [json!(null), json!(true), json!(false), json!([]), json!({}), json!([1]), json!({ "a": "b" })];
    let texts = texts.into_iter().map(Value::from).chain(longs.into_iter().map(Value::from));
    texts.chain(numbers).chain(large).chain(others).collect()
}

/// The description of a request's bodies, and values for them.
struct Maker<'a> {
    description: &'a Value,
    pool: Vec<Value>,
    dice: Dice,
    validators: BTreeMap<String, Validator>,
}

impl<'a> Maker<'a> {
    fn new(description: &'a Value) -> Self {
        Maker { description, pool: pool(), dice: Dice(20), validators: BTreeMap::new() }
    }

    /// Whether the description allows this value for this schema.
    fn allows(&mut self, schema: &Value, value: &Value) -> bool {
        let validator = self.validators.entry(schema.to_string()).or_insert_with(|| {
            let whole = json!({
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "components": self.description["components"],
                "allOf": [schema],
            });
            jsonschema::validator_for(&whole).unwrap()
        });
        validator.is_valid(value)
    }

    fn resolved(&self, schema: &Value) -> Value {
        match schema["$ref"].as_str() {
            Some(reference) => self.description.pointer(reference.trim_start_matches('#')).unwrap().clone(),
            None => schema.clone(),
        }
    }

    /// A value that the schema is likely to allow, unless `wild`.
    fn value(&mut self, schema: &Value, wild: bool) -> Value {
        let schema = self.resolved(schema);
        for name in ["oneOf", "anyOf"] {
            if let Some(choices) = schema[name].as_array() {
                let choice = self.dice.pick(choices).clone();
                return self.value(&choice, wild);
            }
        }
        if wild && self.dice.roll(3) == 0 {
            return self.dice.pick(&self.pool).clone();
        }
        if schema.get("properties").is_some() {
            return self.object(&schema, wild);
        }
        if schema["type"] == "array" {
            let count = self.dice.roll(3);
            return (0..count).map(|_| self.value(&schema["items"], wild)).collect();
        }
        if let Some(values) = &schema["additionalProperties"].as_object() {
            let count = 1 + self.dice.roll(2);
            let values = Value::Object((*values).clone());
            let names = json!({ "type": "string", "allOf": [schema["propertyNames"]] });
            let entries = (0..count).filter_map(|_| {
                let name = self.value(&names, wild).as_str().map(str::to_owned)?;
                Some((name, self.value(&values, wild)))
            });
            return Value::Object(entries.collect());
        }
        if let Some(values) = schema["enum"].as_array() {
            return self.dice.pick(values).clone();
        }
        if let Some(value) = schema.get("const") {
            return value.clone();
        }
        // Most of the pool is wrong for any one schema.
        let mut value = self.dice.pick(&self.pool).clone();
        for _ in 0..200 {
            if self.allows(&schema, &value) {
                break;
            }
            value = self.dice.pick(&self.pool).clone();
        }
        value
    }

    fn object(&mut self, schema: &Value, wild: bool) -> Value {
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        let properties = schema["properties"].as_object().unwrap();
        let often = 1 + self.dice.roll(6);
        let mut members = Map::new();
        // One of them may be wrong: of two, one would hide the other.
        let wrong = if wild { self.dice.roll(properties.len() + 2) } else { usize::MAX };
        for (index, (name, property)) in properties.iter().enumerate() {
            let is_wrong = index == wrong;
            if is_wrong || required.contains(&json!(name)) || self.dice.roll(often) == 0 {
                members.insert(name.clone(), self.value(property, is_wrong));
            }
        }
        if wrong == properties.len() {
            members.insert("unknown".to_owned(), json!(1));
        }
        if wrong == properties.len() + 1
            && let Some(name) = required.first()
        {
            members.remove(name.as_str().unwrap());
        }
        Value::Object(members)
    }
}

/// Where the description and the server differ.
#[derive(Debug, Default)]
struct Differences {
    tried: [usize; 2],
    found: Vec<String>,
}

impl Differences {
    async fn hold(&mut self, what: &str, is_allowed: bool, request: reqwest::RequestBuilder, sent: &str) {
        let answer = send(request).await;
        self.tried[usize::from(is_allowed)] += 1;
        let (status, code) = answer.refusal();
        // Where a cursor is in a history, no schema can tell.
        let is_malformed = MALFORMED.contains(&code) && answer.body.get("last").is_none();
        if is_allowed == is_malformed {
            let told = answer.body["detail"].as_str().unwrap_or_default();
            let rule = if is_allowed { "allowed, and refused" } else { "forbidden, and taken" };
            let sent: String = sent.chars().take(300).collect();
            self.found.push(format!("{what}: {rule}: {status} {code} {told:?}: {sent}"));
        }
    }
}

/// Each call with a body; all answers to well-formed ones are the same however often they come.
fn calls() -> Vec<(&'static str, Method, String)> {
    let one = |below: &str| format!("/v1/projects/web/deployments/{NOBODY}/{below}");
    vec![
        ("SubmitRequest", Method::POST, "/v1/projects/web/deployments?dryRun=true".to_owned()),
        ("ReleaseRequest", Method::POST, "/v1/projects/nobody/release".to_owned()),
        ("CancelBody", Method::POST, one("cancel")),
        ("ReportsRequest", Method::POST, one("reports")),
        ("FinishRequest", Method::POST, one("finish")),
        ("ClaimRequest", Method::POST, "/v1/claims?maxWaitSeconds=0".to_owned()),
    ]
}

async fn try_bodies(server: &TestServer, description: &Value, only: Option<&str>) -> Differences {
    let mut differences = Differences::default();
    let mut maker = Maker::new(description);
    for (name, method, path) in calls().into_iter().filter(|(name, _, _)| only.is_none_or(|only| only == *name)) {
        let schema = json!({ "$ref": format!("#/components/schemas/{name}") });
        for round in 0..ROUNDS {
            let body = maker.value(&schema, round % 2 == 0);
            let is_allowed = maker.allows(&schema, &body);
            let request = server.request(method.clone(), &path).header("Singletrack-Lease", SECRET).json(&body);
            differences.hold(name, is_allowed, request, &body.to_string()).await;
        }
    }
    differences
}

/// The parameters of queries and headers, as they are written.
async fn try_parameters(server: &TestServer, description: &Value, id: &str) -> Differences {
    let mut differences = Differences::default();
    let mut maker = Maker::new(description);
    let texts = [
        "",
        "0",
        "1",
        "2",
        "60",
        "61",
        "100",
        "101",
        "-1",
        "1.5",
        "abc",
        "true",
        "false",
        "TRUE",
        "web",
        "a b",
        "RUNNING",
        "9007199254740992",
        "9007199254740993",
        "0x1",
        "ä",
    ];
    for (path, item) in description["paths"].as_object().unwrap() {
        let Some(operation) = item.get("get") else { continue };
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let parameter = maker.resolved(parameter);
            let (name, place) = (parameter["name"].as_str().unwrap(), parameter["in"].as_str().unwrap());
            if name == "Accept" {
                continue;
            }
            let schema = maker.resolved(&parameter["schema"]);
            for text in texts {
                let value = match schema["type"].as_str() {
                    Some("integer") => text.parse::<i64>().map_or_else(|_| json!(text), Value::from),
                    Some("boolean") => text.parse::<bool>().map_or_else(|_| json!(text), Value::from),
                    _ => json!(text),
                };
                let is_allowed = maker.allows(&schema, &value);
                let path = path.replace("{project}", "web").replace("{id}", id).replace("{sha256}", SECRET);
                let mut request = server.request(Method::GET, &path);
                request = if place == "header" { request.header(name, text) } else { request.query(&[(name, text)]) };
                if name != "maxWaitSeconds" && path.ends_with("/events") {
                    request = request.query(&[("maxWaitSeconds", "0")]);
                }
                differences.hold(&format!("{path} {name}"), is_allowed, request, text).await;
            }
        }
    }
    differences
}

fn server() -> TestServer {
    TestServer::start(&gated_config("[projects.agents]\nrun_by = \"agents\""))
}

#[tokio::test]
async fn what_the_description_allows_is_taken_and_what_it_forbids_is_refused() {
    let server = server();
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    server.finished(&id).await;
    let bodies = try_bodies(&server, openapi::description(), None).await;
    let parameters = try_parameters(&server, openapi::description(), &id).await;
    let found: Vec<_> = bodies.found.iter().chain(&parameters.found).collect();
    assert!(found.is_empty(), "{} differences: {:#?}", found.len(), &found[..found.len().min(30)]);
    // Neither direction is tried by chance only.
    assert!(bodies.tried.iter().all(|count| *count > ROUNDS), "{:?}", bodies.tried);
    assert!(parameters.tried.iter().all(|count| *count > 20), "{:?}", parameters.tried);
}

#[tokio::test]
async fn a_lie_in_the_description_is_found() {
    let server = server();
    let true_one = openapi::description();
    for (pointer, lie, name, says) in [
        // Each is looser than the server.
        (
            "/components/schemas/ReleaseRequest/properties/reason",
            json!({ "type": "string" }),
            "ReleaseRequest",
            "refused",
        ),
        (
            "/components/schemas/SubmitRequest/properties/deadlineSeconds",
            json!({ "type": "integer" }),
            "SubmitRequest",
            "refused",
        ),
        ("/components/schemas/SubmitRequest/then", json!({}), "SubmitRequest", "refused"),
    ] {
        let mut description = true_one.clone();
        *description.pointer_mut(pointer).unwrap() = lie;
        let found = try_bodies(&server, &description, Some(name)).await.found;
        assert!(found.iter().any(|found| found.contains(says)), "{pointer}: {found:?}");
    }
}
