//! A form: it says what will happen and to whom, asks for what is needed, and keeps what was typed where something is wrong.

use std::time::Duration;

use askama::Template;
use axum::{http::StatusCode, response::Response};
use jiff::Timestamp;

use super::{
    Frame, Viewer, html,
    visit::PageForm,
    words::{self, plain},
};
use crate::{
    config::Since,
    http::error::{ErrorAnswer, ShownError},
    model::{ProjectName, bounds},
    wire::ErrorCode,
};

/// What a form is about.
pub struct ActionForm {
    /// What it does, as a heading.
    pub title: String,
    /// The project, where it is about one.
    pub project: Option<ProjectName>,
    /// What will happen, as HTML: a paragraph each.
    pub says: Vec<String>,
    /// What a person must heed, as HTML.
    pub warning: Option<String>,
    /// What is asked for.
    pub fields: Vec<FormField>,
    /// Where it is sent.
    pub action: String,
    /// The word of its button; none, where there is nothing to do.
    pub button: Option<&'static str>,
    /// Whether something ends by it.
    pub is_danger: bool,
    /// A second form without fields: its action and its button.
    pub other: Option<(&'static str, String)>,
}

/// How a field is filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// A line of text.
    Line {
        /// The most characters.
        limit: usize,
    },
    /// Yes or no.
    Check,
    /// One of these.
    Choice(Vec<FieldChoice>),
    /// It is not shown.
    Hidden,
}

/// One of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldChoice {
    /// What is sent.
    pub value: String,
    /// What is shown.
    pub text: String,
}

/// A field of a form.
pub struct FormField {
    name: &'static str,
    label: &'static str,
    hint: &'static str,
    kind: FieldKind,
    value: String,
    is_required: bool,
}

impl FormField {
    /// A field with what was typed into it.
    pub fn new(form: &PageForm, name: &'static str, label: &'static str, kind: FieldKind) -> Self {
        let value = form.get(name).unwrap_or_default().to_owned();
        FormField { name, label, hint: "", kind, value, is_required: false }
    }

    /// Why it is done.
    pub fn reason(form: &PageForm) -> Self {
        FormField { is_required: true, ..FormField::reason_if_any(form) }
    }

    /// The same, if somebody says so.
    pub fn reason_if_any(form: &PageForm) -> Self {
        FormField::new(form, "reason", "Reason", FieldKind::Line { limit: bounds::REASON })
            .with_hint("Everybody who waits reads it, and it stands in the audit log.")
    }

    /// Who does it.
    pub fn actor(form: &PageForm) -> Self {
        FormField::new(form, "actor", "Your name", FieldKind::Line { limit: bounds::ACTOR })
            .with_hint("Leave it out if the server knows it by how you signed in.")
    }

    /// Until when.
    pub fn until(form: &PageForm) -> Self {
        FormField::new(form, "until", "Until", FieldKind::Line { limit: 40 }).with_hint(
            "In 2h, 30m or 1d, or a time in UTC such as 2026-12-24T18:00:00Z. Empty: until somebody resumes.",
        )
    }

    /// The same field, with an explanation.
    #[must_use]
    pub fn with_hint(self, hint: &'static str) -> Self {
        FormField { hint, ..self }
    }

    /// The same field, with this value where nothing was typed.
    #[must_use]
    pub fn or(mut self, value: impl Into<String>) -> Self {
        if self.value.is_empty() {
            self.value = value.into();
        }
        self
    }
}

/// What was typed, without blanks around it; `None` where nothing was.
pub fn typed(form: &PageForm, name: &str) -> Option<String> {
    form.get(name).map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The end that was typed, where the time is `now`.
///
/// # Errors
/// It is neither a duration nor a time.
pub fn until(form: &PageForm, now: Timestamp) -> Result<Option<Timestamp>, ErrorAnswer> {
    let Some(text) = typed(form, "until") else { return Ok(None) };
    let wrong = || {
        let why = "until is a time from now on such as 2h, 30m or 1d, or one in UTC such as 2026-12-24T18:00:00Z; leave it empty \
                   to pause until somebody resumes";
        ErrorAnswer::new(ErrorCode::InvalidBody, why)
    };
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    let after = |seconds: u64| now.checked_add(Duration::from_secs(seconds)).map_err(|_| wrong());
    match (days, text.parse::<Since>()) {
        (Some(days), _) => after(u64::from(days) * 86_400).map(Some),
        (None, Ok(Since::Ago(duration))) => after(duration.as_secs()).map(Some),
        (None, Ok(Since::At(at))) => Ok(Some(at)),
        (None, Err(_)) => Err(wrong()),
    }
}

#[derive(Template)]
#[template(path = "form.html")]
struct FormScreen {
    frame: Frame,
    form: ActionForm,
    back: String,
    wrong: Option<String>,
}

/// The screen of a form, with what is wrong.
///
/// # Errors
/// It cannot be rendered; that is a fault of ours.
pub fn show(viewer: Viewer, form: ActionForm, wrong: Option<ErrorAnswer>) -> Result<Response, ErrorAnswer> {
    let status = wrong.as_ref().map_or(200, |wrong| wrong.code().status());
    let screen = FormScreen {
        frame: Frame::still(viewer),
        back: form.project.as_ref().map_or_else(|| "/".to_owned(), words::project_path),
        form,
        wrong: wrong.as_ref().map(|wrong| words::shortened(&crate::clean::clean(wrong.detail()), 1_000)),
    };
    let mut response = html(StatusCode::from_u16(status).unwrap_or(StatusCode::OK), &screen)?;
    if let Some(wrong) = wrong {
        response.extensions_mut().insert(ShownError(wrong));
    }
    Ok(response)
}

/// A project's name, as HTML.
pub fn named(project: &ProjectName) -> String {
    format!("<b>{}</b>", words::escaped(&plain(project.as_str())))
}
