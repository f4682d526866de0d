//! What a configuration may say, and how it is refused.

use std::path::Path;
use std::time::Duration;

use singletrack::{
    config::{Check, Config, ConfigError, Phase, PhaseAction, StoreLocation},
    model::{LinePolicy, Preempt},
};

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("s.toml"))
}

/// The lines that an operator reads when the text is refused.
fn refusal(text: &str) -> String {
    parse(text).expect_err("this configuration must be refused").to_string()
}

fn pipeline(phases: &str) -> String {
    format!("[projects.web.pipelines.deploy]\ntimeout = \"10m\"\n{phases}")
}

const FULL: &str = r#"
listen = "127.0.0.1:9000"
store = "sqlite:data/s.db"
allowed_hosts = ["Deploys.Example.com"]
shutdown_grace = "5s"
[limits]
lease = "30s"
kill_budget = "5s"
[[tokens]]
name = "ci"
sha256 = "00000000000000000000000000000000000000000000000000000000000000FF"
[projects.web]
line = "latest"
line_limit = 5
preempt = { times = 2 }
paused = true
[projects.web.pipelines.deploy]
timeout = "30m"
stall_timeout = "10m"
[[projects.web.pipelines.deploy.phases]]
name = "migrate"
run = "./migrate up"
rollback = "./migrate down"
protected = true
timeout = "1h30s"
"#;

#[test]
fn every_key_is_read() {
    let text = FULL.replace("1h30s", "20m")
        + r#"
[[projects.web.pipelines.deploy.phases]]
name = "verify"
check = { url = "http://127.0.0.1:8080/healthz", timeout = "60s", interval = "500ms", expect_status = 204 }
"#;
    let config = parse(&text).unwrap();
    assert_eq!(config.listen.port(), 9000);
    assert_eq!(config.store, StoreLocation::Sqlite("data/s.db".into()));
    assert_eq!(config.work_dir(), Path::new("data/singletrack-work"));
    assert_eq!(config.allowed_hosts, ["deploys.example.com"]);
    assert_eq!(config.shutdown_grace, Duration::from_secs(5));
    assert_eq!(config.limits.heartbeat, Duration::from_secs(5), "a sixth of the lease");
    assert_eq!(config.tokens[0].sha256[31], 0xff);
    let project = &config.projects[&"web".parse().unwrap()];
    assert_eq!(project.policy.line, LinePolicy::Latest);
    assert_eq!(project.policy.preempt, Preempt::Times { times: 2 });
    assert!(project.policy.paused && project.policy.line_limit == 5);
    let pipeline = &project.pipelines["deploy"];
    assert_eq!(pipeline.stall_timeout, Some(Duration::from_secs(600)));
    assert_eq!(
        pipeline.phases[0],
        Phase {
            name: "migrate".into(),
            action: PhaseAction::Run("./migrate up".into()),
            rollback: Some("./migrate down".into()),
            protected: true,
            timeout: Some(Duration::from_secs(1200)),
        }
    );
    let check = Check {
        url: "http://127.0.0.1:8080/healthz".into(),
        timeout: Duration::from_secs(60),
        interval: Duration::from_millis(500),
        expect_status: Some(204),
    };
    assert_eq!(pipeline.phases[1].action, PhaseAction::Check(check));
}

#[test]
fn an_empty_file_is_the_defaults_and_flags_override_it() {
    let config = parse("").unwrap();
    assert_eq!(config, Config::default());
    assert!(config.listen.ip().is_loopback());
    assert_eq!(config.work_dir(), Path::new("singletrack-work"));
    let config = config.overriding(Some("127.0.0.1:1".parse().unwrap()), Some(StoreLocation::Memory));
    assert_eq!((config.listen.port(), &config.store), (1, &StoreLocation::Memory));
}

#[test]
fn unknown_keys_at_every_depth_name_their_path_their_place_and_the_nearest_key() {
    let cases = [
        ("lisen = \"127.0.0.1:1\"", "s.toml:1:1: unknown key `lisen`; did you mean `listen`?"),
        ("[limits]\nleese = \"60s\"", "s.toml:2:1: unknown key `limits.leese`; did you mean `lease`?"),
        (
            "[projects.web]\nline_limt = 3",
            "s.toml:2:1: unknown key `projects.web.line_limt`; did you mean `line_limit`?",
        ),
        ("[projects.web]\npreempt = { tims = 2 }", "unknown key `projects.web.preempt.tims`; did you mean `times`?"),
        (
            "[[projects.\"a.b\".pipelines.deploy.phases]]\nname = \"x\"\nrun = \"true\"\nrollbak = \"false\"",
            "s.toml:4:1: unknown key `projects.\"a.b\".pipelines.deploy.phases[0].rollbak`; did you mean `rollback`?",
        ),
        (
            "[[projects.w.pipelines.d.phases]]\nname = \"x\"\ncheck = { url = \"http://h\", intervall = \"1s\" }",
            "unknown key `projects.w.pipelines.d.phases[0].check.intervall`; did you mean `interval`?",
        ),
        ("[[tokens]]\nname = \"ci\"\nzzz = 1", "unknown key `tokens[0].zzz`; known keys here: name, sha256"),
    ];
    for (text, wanted) in cases {
        let refusal = refusal(text);
        assert!(refusal.contains(wanted), "{text}\ngave\n{refusal}\nwithout\n{wanted}");
    }
}

#[test]
fn everything_wrong_is_listed_at_once_in_the_order_of_the_file() {
    let refusal =
        refusal(FULL.replace("\"latest\"", "\"newest\"").replace("30m", "soon").replace("9000", "x").as_str());
    let lines: Vec<&str> = refusal.lines().collect();
    assert_eq!(lines.len(), 4, "{refusal}");
    for (line, wanted) in
        lines.iter().zip(["`listen`", "`projects.web.line`", "1h30m", "longer than the whole pipeline's"])
    {
        assert!(line.starts_with("s.toml:") && line.contains(wanted), "{line}");
    }
}

#[test]
fn what_contradicts_or_cannot_be_is_refused_with_a_sentence() {
    let phase = |text: &str| pipeline(&format!("[[projects.web.pipelines.deploy.phases]]\n{text}"));
    let cases = [
        ("x = ".to_owned(), "s.toml:1:"),
        ("listen = 7878".to_owned(), "`listen` must be a string in quotes, not integer"),
        ("listen = \"localhost\"".to_owned(), "127.0.0.1:7878"),
        ("store = \"mysql:x\"".to_owned(), "must begin with sqlite:, postgres: or memory:"),
        ("store = \"postgres://h/d?sslmode=perhaps\"".to_owned(), "sslmode"),
        ("shutdown_grace = \"0s\"".to_owned(), "must be longer than zero"),
        ("allowed_hosts = [\"http://x\"]".to_owned(), "bare host names"),
        ("allowed_hosts = [\"x\"]".to_owned(), "needs `[[tokens]]`"),
        ("allowed_hosts = \"x\"".to_owned(), "must be an array of strings"),
        ("[limits]\nheartbeat = \"30s\"".to_owned(), "must fit three times into the lease (1m)"),
        ("[limits]\nkill_budget = \"60s\"".to_owned(), "must be shorter than the lease (1m)"),
        ("[limits]\nkill_budget = \"50s\"".to_owned(), "and two heartbeats (10s each) must fit"),
        ("[limits]\ncancel_grace = \"0s\"".to_owned(), "`limits.cancel_grace`: must be longer than zero"),
        ("[limits]\nfallback_poll = \"45s\"".to_owned(), "must be shorter than attendance"),
        ("[[tokens]]\nname = \"ci\"\nsha256 = \"12\"".to_owned(), "64 hexadecimal digits"),
        (
            "[[tokens]]\nname = \"ci\"\nscopes = [\"write\"]".to_owned(),
            "`tokens[0].scopes`: a scope is one of read, submit",
        ),
        ("[[tokens]]\nname = \"ci\"\nscopes = []".to_owned(), "`tokens[0].scopes` is empty: leave it out"),
        ("[[tokens]]\nname = \"ci\"".to_owned(), "`tokens[0].sha256` is missing"),
        (
            format!("{0}{0}", format_args!("[[tokens]]\nname = \"ci\"\nsha256 = \"{}\"\n", "0".repeat(64))),
            "`tokens[1].name` is the name of another token",
        ),
        (
            "[projects.\"-x\"]".to_owned(),
            "s.toml:1:11: invalid project name \"-x\": a project name is 1 to 255 letters",
        ),
        ("[projects.\"a\\nb\"]".to_owned(), "invalid project name \"a\\nb\""),
        ("[projects.web]\nline_limit = -1".to_owned(), "must be a whole number from 0"),
        ("[projects.web]\npreempt = 2".to_owned(), "`projects.web.preempt` must be"),
        ("[projects.web]\npreempt = \"always\"".to_owned(), "\"allow\", \"never\" or { times = 2 }"),
        ("[projects.web]\npipelines = 3".to_owned(), "`projects.web.pipelines` must be a table"),
        (pipeline(""), "`projects.web.pipelines.deploy.phases` is missing"),
        (pipeline("phases = []"), "must have at least one phase"),
        (pipeline("stall_timeout = \"11m\""), "longer than the whole pipeline's timeout (10m)"),
        (phase("name = \"x\""), "needs `run` or `check`"),
        (phase("run = \"true\""), "phases[0].name` is missing"),
        (phase("name = \"x y\"\nrun = \"true\""), "a phase's name is a letter or digit"),
        (phase("name = \"x\"\nrun = \" \""), "must be a command"),
        (phase("name = \"x\"\nrun = \"a\\u0000b\""), "contains a NUL"),
        (phase("name = \"x\"\nrun = \"true\"\ntimeout = \"11m\""), "is longer than the whole pipeline's (10m)"),
        (phase("name = \"x\"\nrun = \"true\"\ncheck = { url = \"http://h\" }"), "has both `run` and `check`"),
        (phase("name = \"x\"\ncheck = { url = \"h:80\" }"), "must be a URL such as"),
        (phase("name = \"x\"\ncheck = { url = \"http://h\", timeout = \"11m\" }"), "check.timeout` is longer than"),
        (
            phase("name = \"x\"\ncheck = { url = \"http://h\", timeout = \"1s\", interval = \"2s\" }"),
            "check.interval` is longer",
        ),
        (phase("name = \"x\"\ncheck = { url = \"http://h\", expect_status = 99 }"), "from 100 to 599"),
        (
            phase(
                "name = \"x\"\nrun = \"true\"\n[[projects.web.pipelines.deploy.phases]]\nname = \"x\"\nrun = \"true\"",
            ),
            "another phase of `projects.web.pipelines.deploy` is called `x` too",
        ),
    ];
    for (text, wanted) in cases {
        let refusal = refusal(&text);
        assert!(refusal.contains(wanted), "{text}\ngave\n{refusal}\nwithout\n{wanted}");
    }
}

#[test]
fn a_named_file_must_be_there_and_the_default_one_need_not() {
    let error = Config::load(Some(Path::new("/nowhere/singletrack.toml"))).expect_err("no such file");
    assert!(matches!(error, ConfigError::Unreadable { .. }));
    assert!(error.to_string().contains("/nowhere/singletrack.toml") && error.to_string().contains("--config"));
}

#[test]
fn a_plan_shows_durations_with_their_unit() {
    let text = pipeline(
        "[[projects.web.pipelines.deploy.phases]]\nname = \"v\"\ncheck = { url = \"http://h/\", interval = \"500ms\" }",
    );
    let plan =
        serde_json::to_value(&parse(&text).unwrap().projects[&"web".parse().unwrap()].pipelines["deploy"]).unwrap();
    let wanted = serde_json::json!({
        "timeoutSeconds": 600, "stallTimeoutSeconds": null,
        "phases": [{
            "name": "v",
            "check": { "url": "http://h/", "timeoutSeconds": 60, "intervalSeconds": 0.5, "expectStatus": null },
            "rollback": null, "protected": false, "timeoutSeconds": null,
        }],
    });
    assert_eq!(plan, wanted);
}

#[test]
fn who_runs_a_project_and_whom_a_token_serves_is_checked() {
    let wrong = |text: &str| {
        let error = singletrack::config::Config::parse(text, std::path::Path::new("s.toml"));
        error.expect_err(text).to_string()
    };
    for (text, says) in [
        ("[projects.web]\nrun_by = \"me\"", "must be \"server\" or \"agents\""),
        ("[projects.web]\nwithout_agent = \"wait\"", "run_by = \"agents\""),
        ("[projects.web]\nunclaimed_timeout = \"1m\"", "run_by = \"agents\""),
        ("[projects.web]\nrun_by = \"agents\"\nwithout_agent = \"x\"", "must be \"refuse\" or \"wait\""),
        ("[[tokens]]\nname = \"a\"\nsha256 = \"\"\nprojects = []", "is empty"),
        ("[[tokens]]\nname = \"a\"\nsha256 = \"\"\nprojects = [\"../x\"]", ":4:13: invalid project name \"../x\""),
    ] {
        assert!(wrong(text).contains(says), "{text}: {}", wrong(text));
    }
}

#[test]
fn freeze_windows_are_read_and_what_is_no_window_is_refused_with_its_place() {
    let read = |windows: &str| {
        let config = format!("[projects.web]\n{windows}");
        Config::parse(&config, Path::new("singletrack.toml")).map_err(|error| error.to_string())
    };
    let window = |from: &str, to: &str| format!("[[projects.web.freeze]]\nfrom = \"{from}\"\nto = \"{to}\"\n");
    let zone = "time_zone = \"Europe/Berlin\"\nreason = \"nobody is here\"\n";
    let config =
        read(&format!("{}{zone}{}", window("Fri 16:00", "Mon 08:00"), window("12-20", "01-02 08:00"))).unwrap();
    let told: Vec<_> =
        config.projects.values().flat_map(|web| web.policy.freezes.iter()).map(ToString::to_string).collect();
    assert_eq!(
        told,
        ["Fri 16:00 to Mon 08:00, Europe/Berlin: nobody is here", "12-20 00:00 to 01-02 08:00 of each year, UTC"]
    );
    for (windows, told) in [
        (window("Fri 16:00", "Fri 16:00"), "would never end"),
        (window("Mon 00:00", "Fri 00:00") + &window("Fri 00:00", "Mon 00:00"), "leave no gap"),
        (window("2026-12-24", "2026-12-20"), "ends before it begins"),
        (window("Fri 16:00", "12-20"), "two different forms"),
        (window("Fri", "Mon 08:00"), "needs a time"),
        (window("Fri 16:00", "Mon 08:00") + "time_zone = \"Europe/Berln\"", "name of a time zone"),
        (window("Fri 16:00", "Mon 08:00") + "reson = \"x\"", "reason"),
        ("[[projects.web.freeze]]\nfrom = \"Fri 16:00\"".to_owned(), "`projects.web.freeze"),
    ] {
        let refused = read(&windows).unwrap_err();
        assert!(refused.contains(told) && refused.contains("singletrack.toml:"), "{windows}\n{refused}");
    }
}
