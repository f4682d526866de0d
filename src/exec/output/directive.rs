//! The directives by which a command speaks to us in its output.

use super::lines::COMMAND_PREFIX;
use crate::model::bounds;

/// A directive: a line by which a command tells us something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directive {
    /// `progress=40`, `message=Uploading`, or both in this order; the message is the rest of the line.
    Progress {
        /// 0 to 100.
        progress: Option<u8>,
        message: Option<String>,
    },
    /// `output NAME=VALUE`.
    Output {
        /// A letter or `_`, then letters, digits, `_`, `-` and `.`.
        name: String,
        /// The rest of the line.
        value: String,
    },
    /// `protect`: from now on a cancel has to wait.
    Protect,
    /// `unprotect`: a cancel no longer has to wait.
    Unprotect,
}

impl Directive {
    /// Parses a line `::singletrack …::`; `None` if it is anything else, even something similar.
    pub fn parse(line: &str) -> Option<Directive> {
        let body = line.trim_end().strip_prefix(COMMAND_PREFIX)?.strip_suffix("::")?.trim();
        match body.split_once(' ').unwrap_or((body, "")) {
            ("protect", "") => Some(Directive::Protect),
            ("unprotect", "") => Some(Directive::Unprotect),
            ("output", assignment) => {
                let (name, value) = assignment.trim_start().split_once('=')?;
                let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
                let begins = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
                let good =
                    begins && name.len() <= 100 && name.bytes().all(fits) && bounds::fits(value, bounds::OUTPUT_VALUE);
                good.then(|| Directive::Output { name: name.to_owned(), value: value.to_owned() })
            }
            _ => parse_progress(body),
        }
    }
}

fn parse_progress(body: &str) -> Option<Directive> {
    let (progress, rest) = match body.strip_prefix("progress=") {
        Some(after) => {
            let (number, rest) = after.split_once(' ').unwrap_or((after, ""));
            (Some(number.parse::<u8>().ok().filter(|number| *number <= 100)?), rest.trim_start())
        }
        None => (None, body),
    };
    let message = match rest {
        "" => None,
        rest => {
            Some(rest.strip_prefix("message=").filter(|message| bounds::fits(message, bounds::REPORT_TEXT))?.to_owned())
        }
    };
    (progress.is_some() || message.is_some()).then_some(Directive::Progress { progress, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_understood() {
        let progress = |progress, message: Option<&str>| {
            Some(Directive::Progress { progress, message: message.map(str::to_owned) })
        };
        let output = |name: &str, value: &str| Some(Directive::Output { name: name.into(), value: value.into() });
        let cases = [
            ("::singletrack progress=40 message=Uploading::", progress(Some(40), Some("Uploading"))),
            ("::singletrack progress=100::", progress(Some(100), None)),
            ("::singletrack message=two words = fine::", progress(None, Some("two words = fine"))),
            ("::singletrack output url=https://x/?a=b::c::", output("url", "https://x/?a=b::c")),
            ("::singletrack output empty=::  ", output("empty", "")),
            ("::singletrack protect::", Some(Directive::Protect)),
            ("::singletrack unprotect::", Some(Directive::Unprotect)),
        ];
        for (line, wanted) in cases {
            assert_eq!(Directive::parse(line), wanted, "{line}");
        }
    }

    #[test]
    fn what_is_nearly_a_command_is_none() {
        for line in [
            "::singletrack progress=101::",
            "::singletrack progress=-1::",
            "::singletrack progress=4x message=y::",
            "::singletrack progress=40 mesage=y::",
            "::singletrack progress=40",
            " ::singletrack progress=40::",
            "+ echo ::singletrack progress=40::",
            "::singletrack output 1st=x::",
            "::singletrack output url::",
            "::singletrack protect me::",
            "::singletrack ::",
            "::singletrackprogress=40::",
        ] {
            assert_eq!(Directive::parse(line), None, "{line}");
        }
    }
}
