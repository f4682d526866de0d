//! Secrets never get into what the executor tells, in whatever form and in whatever pieces they are printed.

use std::sync::Arc;

use data_encoding::{BASE64, HEXLOWER};
use proptest::prelude::*;
use singletrack::exec::{
    Report, Stream,
    output::{
        mask::{LENGTH_MIN, NotMasked, Secrets},
        outbox::Outbox,
        phase::PhaseOutput,
        stream_log::StreamLog,
    },
};
use tokio::sync::mpsc;

/// What a log shows of a stream that came in these pieces, with a flush after those that are marked.
fn logged(secrets: &[&str], pieces: &[(&[u8], bool)]) -> Vec<String> {
    let known = Arc::new(Secrets::default());
    for secret in secrets {
        known.add(secret).unwrap();
    }
    let outbox = Arc::new(Outbox::default());
    let output = PhaseOutput::new(Arc::clone(&outbox), "phase", false, known);
    let mut log = StreamLog::new(output, Stream::Stdout);
    for (piece, pauses) in pieces {
        log.push(piece);
        if *pauses {
            log.flush();
        }
    }
    log.finish();
    outbox.close();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (reports, mut taken) = mpsc::channel(1024);
        outbox.forward(reports).await;
        let mut all = Vec::new();
        while let Some(report) = taken.recv().await {
            match report {
                Report::Log { lines, .. } => all.extend(lines),
                other => all.push(format!("{other:?}")),
            }
        }
        all
    })
}

fn whole(secrets: &[&str], text: &str) -> String {
    logged(secrets, &[(text.as_bytes(), false)]).join("\n")
}

const SECRET: &str = "s3cret/pass word+\"x";

fn wrapped(text: &str, width: usize, indent: &str) -> String {
    let lines: Vec<&str> = text.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect();
    lines.join(&format!("\n{indent}"))
}

#[test]
fn a_secret_is_found_wherever_it_is_cut() {
    let text = format!("a {SECRET} b {SECRET}{SECRET} s3cret s3cs3cret.\n");
    for at in 0..text.len() {
        let (head, tail) = text.as_bytes().split_at(at);
        assert_eq!(
            logged(&[SECRET], &[(head, false), (tail, false)]),
            ["a *** b *** s3cret s3cs3cret."],
            "cut at {at}"
        );
    }
}

#[test]
fn a_secret_is_found_in_the_forms_in_which_tools_print_it() {
    for form in [
        "s3cret/pass word+\"x",
        "S3CRET/PASS WORD+\"X",
        "s3cret%2Fpass%20word%2B%22x",
        "s3cret%2fpass%20word%2b%22x",
        "s3cret%2Fpass+word%2B%22x",
        "s3cret/pass%20word+%22x",
        r#"s3cret/pass word+\"x"#,
        r#"s3cret\/pass word+\"x"#,
        r#"s3cret/pass\ word+\"x"#,
        "s3cret/pass word+&quot;x",
        "7333637265742f7061737320776f72642b2278",
        "7333637265742F7061737320776F72642B2278",
        "73:33:63:72:65:74:2f:70:61:73:73:20:77:6f:72:64:2b:22:78",
    ] {
        assert_eq!(whole(&[SECRET], &format!("<{form}>")), "<***>", "{form}");
    }
    assert_eq!(whole(&["it's <a> key"], r"x='it'\''s <a> key'"), "x='***'");
    assert_eq!(whole(&["it's <a> key"], r#"{"x":"it's \u003ca\u003e key"}"#), r#"{"x":"***"}"#);
    assert_eq!(whole(&["schlüssel"], r#"{"x":"schl\u00fcssel"}"#), r#"{"x":"***"}"#);
    assert_eq!(whole(&["first line\nsecond line"], "first line\n  second line\n"), "***\n  ***");
    assert_eq!(whole(&["first line\nsecond line"], r"first line\nsecond line"), "***");
}

#[test]
fn base64_is_found_at_all_three_alignments_and_however_it_is_wrapped() {
    let secret = "correct horse battery staple, correct horse battery staple, correct horse";
    for before in ["", "u", "us", "user:with a long name that moves it on to the next line of the text:"] {
        let encoded = BASE64.encode(format!("{before}{secret}!").as_bytes());
        for (width, indent) in [(76, ""), (64, ""), (60, "    "), (20, "\t"), (10_000, "")] {
            let shown = whole(&[secret], &format!("key: {}\nend", wrapped(&encoded, width, indent)));
            let left: String = shown.chars().filter(|shown| encoded.contains(*shown)).collect();
            // What is left is what stands for the bytes before it, and for those beside them.
            assert!(shown.contains("***") && shown.ends_with("\nend"), "{width}: {shown}");
            assert!(left.len() < BASE64.encode(before.as_bytes()).len() + 16, "{width}: {shown}");
        }
    }
}

#[test]
fn secrets_that_overlap_leave_no_tail() {
    assert_eq!(whole(&["abcdefgh", "efghijkl"], "<abcdefghijkl>"), "<***>");
    assert_eq!(whole(&["abcdefgh", "cdef"], "<abcdefgh> <abcdef>"), "<***> <ab***>");
    assert_eq!(whole(&["aaaa"], &format!("<{}>", "a".repeat(1000))), "<***>");
}

#[test]
fn colours_and_control_characters_part_no_secret() {
    for text in
        ["s3cr\x1b[31met/key", "s3cr\0et/key", "\x1b]0;t\x07s3\x08cret\x1b[0m/key", "s3cret/\r\nkey", "s3cret\n/key"]
    {
        let shown = whole(&["s3cret/key"], text);
        assert!(shown.split('\n').all(|line| line == "***"), "{text:?}: {shown}");
    }
}

#[test]
fn what_is_announced_as_a_secret_is_masked_and_the_announcement_is_not_shown() {
    let text = "hunter2!\n::add-mask::hunter2!\nhunter2!\n##vso[task.setvariable variable=k;issecret=true]top secret\ntop secret\n";
    assert_eq!(whole(&[], text), "hunter2!\n***\n***");
    // In two pieces with a pause, and on a line that is too long to be read at once.
    let pieces: [(&[u8], bool); 3] = [(b"::add-mask::hun", true), (b"ter2!\n", true), (b"hunter2!\n", false)];
    assert_eq!(logged(&[], &pieces), ["***"]);
    let long = "k".repeat(100_000);
    assert_eq!(whole(&[], &format!("::add-mask::{long}\n{long}\n")), "***");
    let short = whole(&[], "::add-mask::abc\nabc\n");
    assert!(short.starts_with("singletrack: a value that the command wants masked is not: it is shorter than 4 bytes"));
    assert!(short.ends_with("\nabc"));
    assert_eq!(Secrets::default().add("abc"), Err(NotMasked::TooShort));
}

#[test]
fn with_more_secrets_than_can_be_masked_no_output_is_told() {
    let announced: String =
        (0..40_000_u64).map(|n| format!("::add-mask::{:x}\n", n.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
    let shown = whole(&[], &format!("before\n{announced}after\n"));
    assert!(shown.contains("before") && !shown.contains("after"), "{shown}");
    assert!(shown.contains("no more output is sent to the server"), "{shown}");
}

#[test]
fn the_larger_part_of_a_secret_is_not_shown_at_the_end() {
    assert_eq!(whole(&[SECRET], "so s3cret/pass"), "so ***");
    assert_eq!(whole(&[SECRET], "so s3c"), "so s3c");
    assert_eq!(whole(&["https://user:password@host"], "see https\n"), "see https");
}

#[test]
fn a_line_that_ends_as_a_secret_begins_is_shown_without_waiting_for_more() {
    let pieces: [(&[u8], bool); 2] = [(b"Proceed? s3", true), (b"cret/key\n", false)];
    assert_eq!(logged(&["s3cret/key"], &pieces), ["Proceed? s3", "…***"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever the secret is, in whatever form, place and pieces it comes: it is not shown.
    #[test]
    fn no_form_of_a_secret_survives(
        secret in "[ -~äé€]{6,60}".prop_filter("long enough", |secret| secret.trim().len() >= LENGTH_MIN + 2),
        before in "[a-z ]{0,40}",
        after in "[a-z ]{0,10}",
        form in 0..9_usize,
        width in 5..90_usize,
        cuts in prop::collection::vec((1..30_usize, any::<bool>()), 1..40),
        colours in any::<bool>(),
    ) {
        let secret = secret.trim();
        let plain = format!("{before}{secret}{after}");
        let json = serde_json::to_string(secret).unwrap();
        let (text, printed) = match form {
            0 => (plain, secret.to_owned()),
            1 => (format!("{before}{}", secret.to_uppercase()), secret.to_uppercase()),
            2 => (format!("{before}{}", HEXLOWER.encode(secret.as_bytes())), HEXLOWER.encode(secret.as_bytes())),
            3 => (format!("{{\"k\":{json}}}"), json[1..json.len() - 1].to_owned()),
            4 => (format!("+ k='{}'", secret.replace('\'', r"'\''")), secret.replace('\'', r"'\''")),
            5 => {
                let url: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
                (format!("{before}?k={url}"), url)
            }
            6..=8 => {
                // Of base64, what the secret alone decides.
                let shift = "xxx"[..form - 6].to_owned();
                let encoded = BASE64.encode(format!("{shift}{secret}zz").as_bytes());
                let core = &encoded[4..encoded.len() - 4];
                (encoded.clone(), core.to_owned())
            }
            _ => unreachable!(),
        };
        // Wrapped, for what is wrapped.
        let text = if form == 2 || form >= 6 { wrapped(&text, width, "") } else { text };
        let colour = |(at, character)| if colours && at % 7 == 3 { format!("\x1b[1m{character}") } else { String::from(character) };
        let text: String = text.chars().enumerate().map(colour).collect();
        let mut pieces = Vec::new();
        let (mut rest, mut at) = (text.as_bytes(), 0);
        while !rest.is_empty() {
            let (length, pauses) = cuts[at % cuts.len()];
            let (piece, after) = rest.split_at(length.min(rest.len()));
            pieces.push((piece, pauses));
            (rest, at) = (after, at + 1);
        }
        let shown = logged(&[secret], &pieces).join("\n");
        let joined = shown.replace(['\n', '…'], "");
        prop_assert!(!joined.contains(&printed), "{printed:?} is in {shown:?}");
        prop_assert!(shown.contains("***"), "{text:?}: {shown:?}");
    }
}
