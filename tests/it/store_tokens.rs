//! What every engine promises of the tokens that are made at run time.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use singletrack::{
    clock::Clock as _,
    model::{Caller, Glob, Identity, Scope, Scopes, SessionSource, TokenId, TokenRecord, bounds},
    store::tokens::{RevokeToken, TokenCreation, TokenEnd},
};

use crate::store_trial::{Trial, kept_by_all};

kept_by_all! {
    a_token_comes_back_as_it_was_recorded,
    a_live_name_is_taken_once_and_an_expired_or_revoked_one_is_free,
    a_revoked_token_stays_as_it_was_revoked_first,
    the_last_administrator_stays_where_one_must_be_left,
    a_session_ends_with_its_token_and_makes_room_for_newer_ones,
    sessions_that_ended_long_ago_leave_and_tokens_stay,
    a_mark_changes_with_each_creation_and_each_end_and_with_nothing_else,
}

fn token(trial: &Trial, number: u8, name: &str) -> TokenRecord {
    TokenRecord {
        id: TokenId::from_bytes([number; 16]),
        name: name.to_owned(),
        sha256: [number; 32],
        scopes: [Scope::Read, Scope::Release].into_iter().collect(),
        projects: Some(vec!["web-*".parse().unwrap(), "api".parse().unwrap()]),
        created_at: trial.clock.wall(),
        created_by: Identity::Oidc { issuer: "github".to_owned(), subject: "a\0b \u{1a}:c".to_owned() },
        expires_at: Some(after(trial, 60)),
        last_used_at: None,
        revoked: None,
        session: None,
    }
}

fn admin(trial: &Trial, number: u8, projects: Option<&str>) -> TokenRecord {
    let scopes = [Scope::Admin].into_iter().collect();
    let projects = projects.map(|pattern| vec![pattern.parse::<Glob>().unwrap()]);
    TokenRecord { scopes, projects, expires_at: None, ..token(trial, number, &format!("admin-{number}")) }
}

fn after(trial: &Trial, seconds: i64) -> Timestamp {
    trial.clock.wall() + SignedDuration::from_secs(seconds)
}

fn root() -> Caller {
    Caller::new(Identity::Token { name: "root".to_owned() })
}

async fn create(trial: &Trial, token: TokenRecord) -> TokenCreation {
    trial.store.tokens().create(token, root()).await.unwrap()
}

async fn revoke(trial: &Trial, number: u8, leaves_admin: bool) -> TokenEnd {
    let id = TokenId::from_bytes([number; 16]);
    let wish = RevokeToken { id, caller: root(), at: trial.clock.wall(), leaves_admin };
    trial.store.tokens().revoke(wish).await.unwrap()
}

async fn a_token_comes_back_as_it_was_recorded(trial: Trial) {
    let tokens = trial.store.tokens();
    let (one, all) = (token(&trial, 1, "one"), TokenRecord { projects: None, ..token(&trial, 2, "all") });
    for made in [&one, &all] {
        assert_eq!(create(&trial, made.clone()).await, TokenCreation::Created);
        assert_eq!(tokens.by_sha256(made.sha256).await.unwrap().as_ref(), Some(made));
        assert_eq!(tokens.by_id(made.id).await.unwrap().as_ref(), Some(made));
        assert_eq!(tokens.named(made.name.clone()).await.unwrap().as_ref(), Some(made));
    }
    assert_eq!(tokens.by_sha256([9; 32]).await.unwrap(), None);
    assert_eq!(tokens.by_id(TokenId::from_bytes([9; 16])).await.unwrap(), None);
    assert_eq!(tokens.named("nobody".to_owned()).await.unwrap(), None);
    let listed = tokens.list(None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|(_, token)| token).collect::<Vec<_>>(), [&all, &one]);
    let rest = tokens.list(Some(listed[0].0), 10).await.unwrap();
    assert_eq!(rest, listed[1..]);
    assert_eq!(tokens.list(None, 1).await.unwrap(), listed[..1]);
    // A use is noted, and an earlier one that is told later changes nothing.
    let at = after(&trial, 30);
    tokens.note_use(vec![(one.id, at), (all.id, after(&trial, 5))]).await.unwrap();
    tokens.note_use(vec![(one.id, after(&trial, 20))]).await.unwrap();
    let used: BTreeMap<_, _> =
        tokens.unrevoked().await.unwrap().into_iter().map(|token| (token.name, token.last_used_at)).collect();
    assert_eq!(used["one"], Some(at));
    assert_eq!(used["all"], Some(after(&trial, 5)));
}

async fn a_live_name_is_taken_once_and_an_expired_or_revoked_one_is_free(trial: Trial) {
    assert_eq!(create(&trial, token(&trial, 1, "ci")).await, TokenCreation::Created);
    assert_eq!(create(&trial, token(&trial, 2, "ci")).await, TokenCreation::NameTaken);
    assert_eq!(trial.store.tokens().by_sha256([2; 32]).await.unwrap(), None);
    trial.clock.advance(Duration::from_secs(60));
    assert_eq!(create(&trial, token(&trial, 3, "ci")).await, TokenCreation::Created);
    assert!(matches!(revoke(&trial, 3, false).await, TokenEnd::Revoked(_)));
    assert_eq!(create(&trial, token(&trial, 4, "ci")).await, TokenCreation::Created);
    let named = trial.store.tokens().named("ci".to_owned()).await.unwrap().unwrap();
    assert_eq!(named.sha256, [4; 32]);
    assert!(matches!(revoke(&trial, 4, false).await, TokenEnd::Revoked(_)));
    assert_eq!(trial.store.tokens().list(None, 10).await.unwrap().len(), 3);
}

async fn a_revoked_token_stays_as_it_was_revoked_first(trial: Trial) {
    create(&trial, token(&trial, 1, "ci")).await;
    let first = revoke(&trial, 1, true).await;
    let TokenEnd::Revoked(revoked) = &first else { panic!("{first:?}") };
    let end = revoked.revoked.clone().unwrap();
    assert_eq!((end.at, end.by), (trial.clock.wall(), Identity::Token { name: "root".to_owned() }));
    trial.clock.advance(Duration::from_secs(5));
    assert_eq!(revoke(&trial, 1, true).await, first);
    assert_eq!(revoke(&trial, 2, true).await, TokenEnd::NotFound);
    assert_eq!(trial.store.tokens().unrevoked().await.unwrap(), []);
    assert_eq!(trial.store.tokens().by_sha256([1; 32]).await.unwrap().as_ref(), Some(&**revoked));
}

async fn the_last_administrator_stays_where_one_must_be_left(trial: Trial) {
    create(&trial, token(&trial, 1, "ci")).await;
    create(&trial, admin(&trial, 2, None)).await;
    create(&trial, admin(&trial, 3, Some("web-*"))).await;
    // One that has expired, or is for some projects, is none that is left.
    create(&trial, TokenRecord { expires_at: Some(after(&trial, 1)), ..admin(&trial, 4, Some("*")) }).await;
    trial.clock.advance(Duration::from_secs(2));
    assert_eq!(revoke(&trial, 2, true).await, TokenEnd::LastAdmin);
    assert!(matches!(revoke(&trial, 1, true).await, TokenEnd::Revoked(_)));
    assert!(matches!(revoke(&trial, 3, true).await, TokenEnd::Revoked(_)));
    create(&trial, admin(&trial, 5, Some("*"))).await;
    assert!(matches!(revoke(&trial, 2, true).await, TokenEnd::Revoked(_)));
    assert_eq!(revoke(&trial, 5, true).await, TokenEnd::LastAdmin);
    assert!(matches!(revoke(&trial, 5, false).await, TokenEnd::Revoked(_)));
}

async fn a_mark_changes_with_each_creation_and_each_end_and_with_nothing_else(trial: Trial) {
    let tokens = trial.store.tokens();
    let empty = tokens.mark().await.unwrap();
    create(&trial, token(&trial, 1, "ci")).await;
    let made = tokens.mark().await.unwrap();
    assert_ne!(made, empty);
    create(&trial, token(&trial, 2, "ci")).await;
    tokens.note_use(vec![(TokenId::from_bytes([1; 16]), trial.clock.wall())]).await.unwrap();
    assert_eq!(tokens.mark().await.unwrap(), made);
    revoke(&trial, 1, false).await;
    let ended = tokens.mark().await.unwrap();
    assert!(ended != made && ended != empty);
    revoke(&trial, 1, false).await;
    assert_eq!(tokens.mark().await.unwrap(), ended);
}

fn session(trial: &Trial, number: u8, source: u8) -> TokenRecord {
    TokenRecord {
        session: Some(SessionSource::Token([source; 32])),
        created_by: Identity::Token { name: "ci".to_owned() },
        ..token(trial, number, &format!("ci~{number:06x}"))
    }
}

async fn is_live(trial: &Trial, number: u8) -> bool {
    let found = trial.store.tokens().by_id(TokenId::from_bytes([number; 16])).await.unwrap();
    found.is_some_and(|token| token.is_live(trial.clock.wall()))
}

async fn a_session_ends_with_its_token_and_makes_room_for_newer_ones(trial: Trial) {
    create(&trial, token(&trial, 255, "ci")).await;
    // A session administers only as long as its token does, so it is none that is left.
    create(&trial, admin(&trial, 254, None)).await;
    let made = TokenRecord { scopes: Scopes::all(), projects: None, ..session(&trial, 253, 254) };
    assert_eq!(create(&trial, made.clone()).await, TokenCreation::Created);
    assert_eq!(trial.store.tokens().by_sha256(made.sha256).await.unwrap().as_ref(), Some(&made));
    assert_eq!(revoke(&trial, 254, true).await, TokenEnd::LastAdmin);
    for number in 0..bounds::SESSIONS_OF_ONE as u8 {
        assert_eq!(create(&trial, session(&trial, number, 255)).await, TokenCreation::Created);
        trial.clock.advance(Duration::from_millis(10));
    }
    assert!(is_live(&trial, 0).await);
    create(&trial, session(&trial, 200, 255)).await;
    assert!(!is_live(&trial, 0).await && is_live(&trial, 1).await && is_live(&trial, 253).await);
    assert!(matches!(revoke(&trial, 1, true).await, TokenEnd::Revoked(_)));
    assert!(is_live(&trial, 255).await, "a token outlives its sessions");
    assert!(matches!(revoke(&trial, 255, true).await, TokenEnd::Revoked(_)));
    assert!(!is_live(&trial, 2).await && !is_live(&trial, 200).await && is_live(&trial, 253).await);
    assert!(matches!(revoke(&trial, 254, false).await, TokenEnd::Revoked(_)));
    assert_eq!(trial.store.tokens().unrevoked().await.unwrap(), []);
}

async fn sessions_that_ended_long_ago_leave_and_tokens_stay(trial: Trial) {
    create(&trial, token(&trial, 9, "ci")).await;
    create(&trial, session(&trial, 1, 9)).await;
    create(&trial, session(&trial, 2, 9)).await;
    revoke(&trial, 2, false).await;
    let numbers = async || -> Vec<u8> {
        let listed = trial.store.tokens().list(None, 10).await.unwrap();
        listed.iter().map(|(_, token)| token.sha256[0]).collect()
    };
    trial.clock.advance(Duration::from_secs(60 + 60 * 60));
    create(&trial, session(&trial, 3, 9)).await;
    assert_eq!(numbers().await, [3, 2, 1, 9]);
    let before = trial.store.tokens().mark().await.unwrap();
    trial.clock.advance(Duration::from_secs(23 * 60 * 60));
    create(&trial, session(&trial, 4, 9)).await;
    assert_eq!(numbers().await, [4, 3, 9]);
    assert_ne!(trial.store.tokens().mark().await.unwrap(), before);
}
