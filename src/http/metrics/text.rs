//! The two text formats. The library writes OpenMetrics; Prometheus' own, older text differs in its comments only.
//!
//! ```text
//! OpenMetrics                              Prometheus text 0.0.4
//! # TYPE http_requests counter             # TYPE http_requests_total counter     a family has the name of its samples
//! # EOF                                    (nothing)
//! ```

use axum::http::{HeaderMap, header};

/// How the figures are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// OpenMetrics 1.0, which Prometheus asks for first.
    OpenMetrics,
    /// Prometheus' own text, which everything else reads.
    Prometheus,
}

impl TextFormat {
    /// What a client wants by its `Accept`. A client that names none of both, such as a browser, gets the plain one: there is
    /// always an answer.
    pub fn of(headers: &HeaderMap) -> TextFormat {
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let (mut open, mut plain) = (0.0_f32, 0.0_f32);
        for range in accepted.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let mut weight = 1.0;
            let mut is_known_version = true;
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => weight = value.trim().parse().unwrap_or(0.0),
                    "version" => is_known_version = value.trim().trim_matches('"').starts_with("1."),
                    _ => {}
                }
            }
            match kind.as_str() {
                "application/openmetrics-text" if is_known_version => open = open.max(weight),
                "text/plain" | "text/*" | "*/*" => plain = plain.max(weight),
                _ => {}
            }
        }
        if open > 0.0 && open >= plain { TextFormat::OpenMetrics } else { TextFormat::Prometheus }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            TextFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            TextFormat::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Figures that are written as OpenMetrics, in this format.
    pub fn of_open_metrics(self, text: String) -> String {
        match self {
            TextFormat::OpenMetrics => text,
            TextFormat::Prometheus => prometheus_text(&text),
        }
    }
}

fn prometheus_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(told) = line.strip_prefix("# HELP ") {
            help = told.split_once(' ');
        } else if let Some(told) = line.strip_prefix("# TYPE ") {
            let (name, kind) = told.split_once(' ').unwrap_or((told, "untyped"));
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, help)) = help.take() {
                text.extend(["# HELP ", name, suffix, " ", help, "\n"]);
            }
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            text.extend([line, "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn asked(accept: &[&'static str]) -> TextFormat {
        let mut headers = HeaderMap::new();
        accept.iter().for_each(|value| _ = headers.append(header::ACCEPT, HeaderValue::from_static(value)));
        TextFormat::of(&headers)
    }

    #[test]
    fn a_client_gets_the_format_that_it_prefers_and_the_plain_one_where_it_names_none() {
        const PROMETHEUS_2: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        const PROMETHEUS_3: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in [
            PROMETHEUS_2,
            PROMETHEUS_3,
            "Application/OpenMetrics-Text",
            "text/plain;q=0.2, application/openmetrics-text;q=0.9",
        ] {
            assert_eq!(asked(&[accept]), TextFormat::OpenMetrics, "{accept}");
        }
        assert_eq!(asked(&["text/plain;q=0.5", "application/openmetrics-text"]), TextFormat::OpenMetrics);
        for accept in [
            "*/*",
            "text/plain",
            "text/html,*/*;q=0.8",
            "application/json",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;q=0.3,text/plain",
            "application/openmetrics-text;q=much",
            "",
        ] {
            assert_eq!(asked(&[accept]), TextFormat::Prometheus, "{accept}");
        }
        assert_eq!(asked(&[]), TextFormat::Prometheus);
    }

    #[test]
    fn the_plain_text_names_each_family_as_its_samples() {
        let open = "# HELP a_b Things that # are told.\n# TYPE a_b counter\na_b_total{x=\"# TYPE\"} 1\n\
                    # HELP d_seconds Time.\n# TYPE d_seconds histogram\n# UNIT d_seconds seconds\nd_seconds_sum 1.0\n\
                    # HELP e Now.\n# TYPE e gauge\ne NaN\n# EOF\n";
        let plain = "# HELP a_b_total Things that # are told.\n# TYPE a_b_total counter\na_b_total{x=\"# TYPE\"} 1\n\
                     # HELP d_seconds Time.\n# TYPE d_seconds histogram\nd_seconds_sum 1.0\n\
                     # HELP e Now.\n# TYPE e gauge\ne NaN\n";
        assert_eq!(TextFormat::Prometheus.of_open_metrics(open.to_owned()), plain);
        assert_eq!(TextFormat::OpenMetrics.of_open_metrics(open.to_owned()), open);
    }
}
