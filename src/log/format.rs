//! How an event becomes a line.

use std::{
    error::Error,
    fmt::{self, Debug},
};

use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    registry::LookupSpan,
};

use super::{
    line::{Line, LogFormat},
    request::current_request,
};

/// Writes each event as one line.
pub struct Lines {
    pub format: LogFormat,
    pub is_coloured: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut recorded = Recorded::default();
        event.record(&mut recorded);
        let mut timestamp = String::with_capacity(27);
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let metadata = event.metadata();
        let line = Line {
            timestamp,
            level: *metadata.level(),
            target: metadata.target(),
            message: recorded.message,
            request_id: current_request().map(|request| request.to_string()),
            fields: recorded.fields,
        };
        match self.format {
            LogFormat::Text => writeln!(writer, "{}", line.to_text(self.is_coloured)),
            LogFormat::Json => writeln!(writer, "{}", line.to_json()),
        }
    }
}

/// The message and the fields of an event.
#[derive(Default)]
struct Recorded {
    message: String,
    fields: Map<String, Value>,
}

impl Recorded {
    fn note(&mut self, field: &Field, value: Value) {
        // `log.…`: what the bridge from the crate `log` adds for its own use.
        if !field.name().starts_with("log.") {
            self.fields.insert(field.name().to_owned(), value);
        }
    }
}

impl Visit for Recorded {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" { self.message = text } else { self.note(field, text.into()) }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" { value.clone_into(&mut self.message) } else { self.note(field, value.into()) }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.note(field, value.to_string().into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.note(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.note(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.note(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.note(field, value.into());
    }
}
