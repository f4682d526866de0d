//! What a verified token may do: what all rules together allow whose claims it has.

use serde_json::{Map, Value};

use super::{rejection::TokenRejection, token::shown};
use crate::{
    config::{OidcIssuer, OidcRule},
    model::{Glob, Scopes},
};

/// What one rule allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Permit {
    /// What.
    pub scopes: Scopes,
    /// Where.
    pub projects: Vec<Glob>,
}

/// The claims by which a token of a pull or merge request is known, each with what its value begins with. In GitHub,
/// `repository` and often `ref` are those of the repository that the request is made to, also where a fork makes it; in
/// GitLab, `ref` is a branch of the fork and may have any name.
const PULL_REQUEST_SIGNS: [(&str, &[&str]); 4] = [
    ("event_name", &["pull_request"]),
    ("ref", &["refs/pull/", "refs/merge-requests/"]),
    ("ref_path", &["refs/merge-requests/"]),
    ("pipeline_source", &["merge_request_event", "external_pull_request_event"]),
];

/// What each rule allows whose claims these are.
pub(super) fn permits(issuer: &OidcIssuer, claims: &Map<String, Value>) -> Result<Vec<Permit>, TokenRejection> {
    let is_pull_request = is_pull_request(claims);
    let (mut permits, mut only_without_requests) = (Vec::new(), false);
    for rule in issuer.rules.iter().filter(|rule| fits(rule, claims)) {
        if is_pull_request && !rule.pull_requests {
            only_without_requests = true;
        } else {
            permits.push(Permit { scopes: rule.scopes, projects: rule.projects.clone() });
        }
    }
    if permits.is_empty() { Err(no_rule(issuer, claims, only_without_requests)) } else { Ok(permits) }
}

fn fits(rule: &OidcRule, claims: &Map<String, Value>) -> bool {
    rule.claims.iter().all(|(name, patterns)| {
        let texts = claims.get(name).map(texts).unwrap_or_default();
        texts.iter().any(|text| patterns.iter().any(|pattern| pattern.fits(text)))
    })
}

/// A claim as text: a number or a boolean as it is written, an array as each of its items. Nothing fits an object or null.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Number(number) => vec![number.to_string()],
        Value::Bool(flag) => vec![flag.to_string()],
        Value::Array(items) => items.iter().filter(|item| !item.is_array()).flat_map(texts).collect(),
        Value::Null | Value::Object(_) => Vec::new(),
    }
}

/// Whether the token is of a job for a pull or merge request, whose code a stranger may have written.
fn is_pull_request(claims: &Map<String, Value>) -> bool {
    let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
    let is_signed = |(name, signs): &(&str, &[&str])| signs.iter().any(|sign| text(name).starts_with(sign));
    // Only requests have a `head_ref`, and GitHub ends their subject so.
    PULL_REQUEST_SIGNS.iter().any(is_signed)
        || !text("head_ref").is_empty()
        || text("sub").split(':').any(|part| part == "pull_request")
}

/// Says what the token has of all that the rules look at.
fn no_rule(issuer: &OidcIssuer, claims: &Map<String, Value>, only_without_requests: bool) -> TokenRejection {
    let name = &issuer.name;
    if only_without_requests {
        return TokenRejection::NoRule(format!(
            "this is the token of a pull or merge request, whose code anybody may have written, and no rule of [[oidc]] \
             '{name}' that it meets has `pull_requests = true`"
        ));
    }
    let mut names: Vec<_> = issuer.rules.iter().flat_map(|rule| rule.claims.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let of = |name: &&String| match claims.get(*name) {
        Some(value) => format!("{name} = {}", shown(&value.to_string())),
        None => format!("no {name}"),
    };
    let has: Vec<_> = names.iter().map(of).collect();
    TokenRejection::NoRule(format!("no rule of [[oidc]] '{name}' is for this token, which has {}", has.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::{config::Config, model::Scope};

    fn issuer(rules: &str) -> OidcIssuer {
        let text = format!("[[oidc]]\nname = \"ci\"\nissuer = \"https://ci.example\"\n{rules}");
        let config = Config::parse(&text, Path::new("test.toml")).expect("a test's configuration");
        config.oidc.into_iter().next().expect("it has an issuer")
    }

    fn claims(claims: Value) -> Map<String, Value> {
        claims.as_object().expect("an object").clone()
    }

    #[test]
    fn a_claim_is_compared_as_text_and_an_array_by_each_of_its_items() {
        let rule = |claims: &str| {
            issuer(&format!(
                "[[oidc.rules]]\nclaims = {{ own = \"1\", {claims} }}\nprojects = [\"*\"]\nscopes = [\"read\"]\n"
            ))
        };
        for (written, value, fits) in [
            ("x = 7", json!(7), true),
            ("x = 7", json!("7"), true),
            ("x = \"7\"", json!(7), true),
            ("x = 7", json!(77), false),
            ("x = true", json!(true), true),
            ("x = true", json!("true"), true),
            ("x = true", json!(false), false),
            ("x = \"a\"", json!(["b", "a"]), true),
            ("x = \"a\"", json!(["b", 1]), false),
            ("x = \"a\"", json!([["a"]]), false),
            ("x = \"*\"", json!([]), false),
            ("x = \"*\"", json!(null), false),
            ("x = \"*\"", json!({"a": "a"}), false),
            ("x = [\"a\", \"b\"]", json!("b"), true),
            ("x = [\"a\", \"b\"]", json!("c"), false),
            ("x = \"A\"", json!("a"), false),
        ] {
            let found = permits(&rule(written), &claims(json!({ "own": "1", "x": value })));
            assert_eq!(found.is_ok(), fits, "{written} {value}: {found:?}");
        }
        assert!(permits(&rule("x = \"*\""), &claims(json!({ "own": "1" }))).is_err(), "a claim that is missing");
    }

    #[test]
    fn a_token_may_do_what_all_its_rules_allow_each_in_its_own_projects() {
        let issuer = issuer(
            "[[oidc.rules]]\nclaims = { own = \"1\" }\nprojects = [\"web\"]\nscopes = [\"read\"]\n\
             [[oidc.rules]]\nclaims = { own = \"1\", ref = \"main\" }\nprojects = [\"api\"]\nscopes = [\"submit\"]\n",
        );
        let found = permits(&issuer, &claims(json!({ "own": "1", "ref": "main" }))).expect("it meets both");
        let told: Vec<_> = found.iter().map(|permit| (permit.projects[0].as_str(), permit.scopes)).collect();
        let only = |scope: Scope| std::iter::once(scope).collect();
        assert_eq!(told, [("web", only(Scope::Read)), ("api", only(Scope::Submit))]);
        let refused = permits(&issuer, &claims(json!({ "own": "2", "ref": "main" }))).expect_err("it meets none");
        assert_eq!(
            refused.to_string(),
            "no rule of [[oidc]] 'ci' is for this token, which has own = \"2\", ref = \"main\""
        );
    }

    #[test]
    fn a_pull_request_meets_only_rules_that_are_for_pull_requests() {
        let rule = |more: &str| {
            issuer(&format!(
                "[[oidc.rules]]\nclaims = {{ repository = \"acme/web\" }}\nprojects = [\"*\"]\nscopes = [\"read\"]\n{more}\n"
            ))
        };
        for request in [
            json!({ "event_name": "pull_request", "ref": "refs/pull/17/merge", "head_ref": "main" }),
            json!({ "event_name": "pull_request_target", "ref": "refs/heads/main" }),
            json!({ "event_name": "pull_request_review", "ref": "refs/heads/main" }),
            json!({ "ref": "refs/pull/17/merge" }),
            json!({ "head_ref": "main" }),
            json!({ "sub": "repo:acme/web:pull_request" }),
            json!({ "pipeline_source": "merge_request_event", "ref": "main" }),
            json!({ "ref_path": "refs/merge-requests/1/head" }),
        ] {
            let mut token = claims(request.clone());
            token.insert("repository".to_owned(), json!("acme/web"));
            let refused = permits(&rule(""), &token).expect_err("it is a request");
            assert!(refused.to_string().contains("pull_requests = true"), "{request}: {refused}");
            assert!(permits(&rule("pull_requests = true"), &token).is_ok(), "{request}");
        }
        let push =
            claims(json!({ "repository": "acme/web", "event_name": "push", "head_ref": "", "ref": "refs/heads/main" }));
        assert!(permits(&rule(""), &push).is_ok());
    }
}
