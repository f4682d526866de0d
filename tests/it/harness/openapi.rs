//! Checks every answer that a test sees against `openapi.yaml`.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, OnceLock},
};

use jsonschema::Validator;
use serde_json::{Value, json};

/// The API description as JSON.
pub fn description() -> &'static Value {
    static DESCRIPTION: OnceLock<Value> = OnceLock::new();
    DESCRIPTION.get_or_init(|| yaml_serde::from_str(include_str!("../../../openapi.yaml")).unwrap())
}

/// A method in lower case, a described path, a status.
pub type Answered = (String, String, u16);

/// Every answer that is described.
pub fn described() -> BTreeSet<Answered> {
    let mut all = BTreeSet::new();
    for (path, item) in description()["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(method, _)| *method != "parameters") {
            for status in operation["responses"].as_object().unwrap().keys() {
                all.insert((method.clone(), path.clone(), status.parse().unwrap()));
            }
        }
    }
    all
}

/// The described path that matches this one.
pub fn route(path: &str) -> Option<&'static str> {
    let parts: Vec<_> = path.split('/').collect();
    let fits = |template: &str| {
        let template: Vec<_> = template.split('/').collect();
        template.len() == parts.len()
            && template.iter().zip(&parts).all(|(known, part)| known.starts_with('{') || known == part)
    };
    description()["paths"].as_object().unwrap().keys().map(String::as_str).find(|template| fits(template))
}

/// Fails the test if an answer is not as described. Unlisted routes and methods are described by `Problem`.
pub fn check(method: &str, path: &str, status: u16, kind: &str, body: &Value) {
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let method = method.to_ascii_lowercase();
    let operation = route(path).map(|route| (route, &description()["paths"][route][&method]));
    let pointer = match operation {
        Some((route, operation)) if !operation.is_null() && status != 405 => {
            let responses = format!("/paths/{}/{method}/responses/{status}", escape(route));
            let response = resolve(&responses);
            let Some(response) = response else { panic!("{method} {path}: status {status} is not described: {body}") };
            // An answer to HEAD has a type and no body.
            if method == "head" || kind == "text/event-stream" || !kind.ends_with("json") {
                return;
            }
            format!("{response}/content/{}/schema", escape(kind))
        }
        _ => "/components/schemas/Problem".to_owned(),
    };
    assert!(description().pointer(&pointer).is_some(), "{method} {path} {status}: no {kind} is described");
    validate(&pointer, body, &format!("{method} {path} {status}"));
}

/// Fails the test if a value does not fit the schema at this pointer of the description.
pub fn validate(pointer: &str, value: &Value, what: &str) {
    static VALIDATORS: OnceLock<Mutex<HashMap<String, &'static Validator>>> = OnceLock::new();
    let validators = VALIDATORS.get_or_init(Mutex::default);
    let validator = *validators.lock().unwrap().entry(pointer.to_owned()).or_insert_with(|| {
        let mut schema = description().clone();
        schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
        schema["$ref"] = json!(format!("#{}", pointer.replace('{', "%7B").replace('}', "%7D")));
        Box::leak(Box::new(jsonschema::validator_for(&schema).unwrap()))
    });
    let errors: Vec<_> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{what} is not as described:\n  {}\n{value:#}", errors.join("\n  "));
}

/// The pointer to the value at this place, behind one reference at most.
fn resolve(pointer: &str) -> Option<String> {
    let here = description().pointer(pointer)?;
    match here.get("$ref").and_then(Value::as_str) {
        Some(reference) => Some(reference.trim_start_matches('#').to_owned()),
        None => Some(pointer.to_owned()),
    }
}

fn escape(part: &str) -> String {
    part.replace('~', "~0").replace('/', "~1")
}
