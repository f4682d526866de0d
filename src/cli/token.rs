//! `token`: makes, lists and revokes tokens.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::{
    ConnectArgs,
    end::{end, on_runtime},
    exit::{Exit, Failure},
    parse::{parse_count, parse_glob, parse_lifetime, parse_scope, parse_text, parse_token_name},
    screen::{clean::clean, print as screen, table, words::time},
    service::{EX_UNAVAILABLE, fail, print},
    session::Session,
};
use crate::{
    client::calls::Patience,
    http::new_token,
    model::{Glob, Scope},
    wire::{RevokeRequest, TokenCreated, TokenList, TokenRequest, TokenView},
};

/// `token`.
#[derive(Clone, Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token for the server's configuration: print the token once, and the lines for the configuration; asks no server
    New {
        /// What the token is for; people see this name
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Make a token at a running server: print the token once
    Create(CreateArgs),
    /// List the tokens that were made at the server, newest first, also revoked and expired ones
    List(ListTokensArgs),
    /// Revoke a token: from now on it gives no access, and its streams and waits end
    Revoke(RevokeArgs),
}

/// `token create`.
#[derive(Args, Clone, Debug)]
pub struct CreateArgs {
    /// The name: what the token is for, or who has it
    #[arg(value_parser = parse_token_name)]
    pub name: String,
    /// What its holder may do: read, submit, cancel, work, release, admin; several with a comma between them
    #[arg(long = "scope", alias = "scopes", value_name = "SCOPE", value_delimiter = ',', required = true, value_parser = parse_scope)]
    pub scopes: Vec<Scope>,
    /// The only projects that its holder may see: names, and patterns such as 'web-*' [default: those that you may see]
    #[arg(long = "project", alias = "projects", value_name = "PATTERN", value_delimiter = ',', value_parser = parse_glob)]
    pub projects: Vec<Glob>,
    /// How long it is valid, such as 90d [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = parse_lifetime)]
    pub expires: Option<Duration>,
    /// The server.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `token list`.
#[derive(Args, Clone, Debug)]
pub struct ListTokensArgs {
    /// How many at most
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100, value_parser = parse_count::<u16>(1..=1000))]
    pub limit: u16,
    /// Continue a list: the nextCursor of its last page
    #[arg(long, value_parser = parse_text)]
    pub cursor: Option<String>,
    /// The server.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `token revoke`.
#[derive(Args, Clone, Debug)]
pub struct RevokeArgs {
    /// The token's name, or its id
    #[arg(value_name = "TOKEN", value_parser = parse_text)]
    pub token: String,
    /// Also if it is the last token that may administer every project
    #[arg(long)]
    pub even_if_last: bool,
    /// The server.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// The largest page that the server gives.
const PAGE_LIMIT: u64 = 100;

/// Makes, lists or revokes tokens.
pub fn token(args: &TokenCommand) -> ExitCode {
    match args {
        TokenCommand::New { name } => new(name.as_deref().unwrap_or("ci")),
        TokenCommand::Create(args) => end(on_runtime(create(args)), args.connect.json),
        TokenCommand::List(args) => end(on_runtime(list(args)), args.connect.json),
        TokenCommand::Revoke(args) => end(on_runtime(revoke(args)), args.connect.json),
    }
}

fn new(name: &str) -> ExitCode {
    match new_token() {
        Ok(new) => {
            // The token alone goes to standard output, so that it can be piped to where secrets are kept.
            print(&new.token);
            let config = format!("[[tokens]]\nname = {name:?}\nsha256 = \"{}\"", new.sha256_in_hex());
            screen::progress(
                "This is the token; it is shown once. Give it to clients as SINGLETRACK_TOKEN. For the server's configuration:",
            );
            screen::progress("");
            config.lines().for_each(screen::progress);
            ExitCode::SUCCESS
        }
        Err(error) => fail(EX_UNAVAILABLE, &format!("the system gives no random bytes: {error}")),
    }
}

async fn create(args: &CreateArgs) -> Result<Exit, Failure> {
    let session = Session::open(&args.connect, Patience::QUESTION)?;
    let projects = (!args.projects.is_empty()).then(|| args.projects.iter().map(Glob::to_string).collect());
    let wish = TokenRequest {
        name: args.name.clone(),
        scopes: args.scopes.iter().map(Scope::to_string).collect(),
        projects,
        expires_in_seconds: args.expires.map(|expires| expires.as_secs()),
    };
    let created = session.connection.create_token(&wish).await?;
    // The token alone goes to standard output, so that it can be piped to where secrets are kept.
    session.answer(&created, std::slice::from_ref(&created.token))?;
    if !session.json {
        told(&created, session.clock.wall()).iter().for_each(|line| screen::progress(line));
    }
    Ok(Exit::Done)
}

/// What is said about a new token.
fn told(created: &TokenCreated, now: Timestamp) -> Vec<String> {
    let TokenView { name, scopes, projects, expires_at, .. } = &created.view;
    let projects = projects.as_ref().map_or_else(|| "every project".to_owned(), |only| only.join(", "));
    let until = expires_at.map_or_else(|| "until it is revoked".to_owned(), |at| format!("until {}", time(at, now)));
    let mut lines = vec![
        "This is the token; it is shown once. Give it to clients as SINGLETRACK_TOKEN.".to_owned(),
        clean(&format!("{name}: {} in {projects}, {until}", scopes.join(", "))),
    ];
    if created.is_open_to_machine {
        lines.push(
            "Programs of the server's own machine still need no token: its configuration has no [[tokens]]. Whoever can run \
             a program there may do everything."
                .to_owned(),
        );
    }
    lines
}

async fn list(args: &ListTokensArgs) -> Result<Exit, Failure> {
    let session = Session::open(&args.connect, Patience::QUESTION)?;
    let limit = u64::from(args.limit);
    let mut all = TokenList { tokens: Vec::new(), next_cursor: args.cursor.clone() };
    loop {
        let wanted = limit - all.tokens.len() as u64;
        let page = session.connection.tokens(wanted.min(PAGE_LIMIT), all.next_cursor.as_deref()).await?;
        let is_stuck = page.next_cursor == all.next_cursor;
        all.tokens.extend(page.tokens);
        all.next_cursor = page.next_cursor;
        if all.next_cursor.is_none() || is_stuck || all.tokens.len() as u64 >= limit {
            break;
        }
    }
    session.answer(&all, &lines(&all, session.clock.wall()))?;
    Ok(Exit::Done)
}

fn lines(list: &TokenList, now: Timestamp) -> Vec<String> {
    if list.tokens.is_empty() {
        return vec![
            "no tokens were made at this server; those of its configuration stand in its configuration".to_owned(),
        ];
    }
    let (sessions, tokens): (Vec<_>, Vec<_>) = list.tokens.iter().partition(|token| token.is_session);
    let mut lines = Vec::new();
    for (what, listed) in [("NAME", tokens), ("SESSION", sessions)] {
        if listed.is_empty() {
            continue;
        }
        if !lines.is_empty() {
            lines.push(String::new());
        }
        let head = [what, "STATUS", "SCOPES", "PROJECTS", "EXPIRES", "LAST USED", "CREATED", "BY", "ID"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(listed.into_iter().map(|token| row(token, now)));
        lines.extend(table::lines(&rows));
    }
    lines.extend(
        list.next_cursor
            .as_deref()
            .map(|cursor| format!("(there are more: raise --limit, or go on with --cursor {})", clean(cursor))),
    );
    lines
}

fn row(token: &TokenView, now: Timestamp) -> Vec<String> {
    let at = |at: Option<Timestamp>| at.map_or_else(|| "never".to_owned(), |at| time(at, now));
    let by = token.revoked_by.as_deref().map(|by| format!(" by {}", clean(by))).unwrap_or_default();
    vec![
        clean(&token.name),
        format!("{}{by}", token.status.as_str()),
        clean(&token.scopes.join(",")),
        token.projects.as_ref().map_or_else(|| "all".to_owned(), |projects| clean(&projects.join(","))),
        at(token.expires_at),
        at(token.last_used_at),
        time(token.created_at, now),
        clean(&token.created_by),
        token.id.clone(),
    ]
}

async fn revoke(args: &RevokeArgs) -> Result<Exit, Failure> {
    let session = Session::open(&args.connect, Patience::QUESTION)?;
    let wish = RevokeRequest { even_if_last: args.even_if_last };
    let revoked = session.connection.revoke_token(&args.token, &wish).await?;
    let by = revoked.revoked_by.as_deref().unwrap_or("somebody");
    let at = revoked.revoked_at.map(|at| format!(" at {}", time(at, session.clock.wall()))).unwrap_or_default();
    session.answer(&revoked, &[clean(&format!("{} is revoked, by {by}{at}", revoked.name))])?;
    Ok(Exit::Done)
}
