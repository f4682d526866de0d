//! Rules that cannot be meant are refused, each in words that say what to write.

use crate::harness::SINGLETRACK;

#[test]
fn check_config_says_what_is_wrong_with_a_rule() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("singletrack.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let checked = std::process::Command::new(SINGLETRACK).arg("check-config").arg(&file).output().unwrap();
        (checked.status.success(), String::from_utf8(checked.stderr).unwrap())
    };
    let webhook = "[[notify]]\nname = \"a\"\nkind = \"webhook\"\nurl = \"https://x.example\"\nsecret_env = \"S\"\n";
    let slack = "[[notify]]\nname = \"a\"\nkind = \"slack\"\nurl = \"https://x.example\"\n";
    let github = "[[notify]]\nname = \"a\"\nkind = \"github\"\nrepository = \"acme/web\"\nsecret_env = \"S\"\n";
    for valid in [webhook, slack, github] {
        assert_eq!(check(valid), (true, String::new()), "{valid}");
    }
    for (text, what) in [
        ("[[notify]]\n".to_owned(), "`notify[0].name` is missing"),
        ("[[notify]]\nname = \"a\"\n".to_owned(), "`notify[0].kind` is missing"),
        (webhook.replace("webhook", "email"), "must be \"webhook\", \"slack\""),
        (webhook.replace("secret_env = \"S\"\n", ""), "a webhook is signed"),
        (webhook.replace("\"S\"", "\"s3cr3t!\""), "never write the secret itself"),
        (slack.replace("url = \"https://x.example\"\n", ""), "`notify[0].url` is missing"),
        (format!("{slack}url_env = \"U\"\n"), "must be given once"),
        (format!("{slack}secret_env = \"S\"\n"), "means nothing to slack"),
        (format!("{slack}repository = \"acme/web\"\n"), "means nothing to slack"),
        (format!("{slack}events = [\"exploded\"]\n"), "takes started, succeeded, failed"),
        (format!("{slack}events = []\n"), "is empty, so the rule is for nothing"),
        (format!("{slack}events = [\"waiting\"]\n"), "waiting needs a time: waits_longer_than"),
        (format!("{slack}waits_longer_than = \"soon\"\n"), "is not a duration"),
        (format!("{slack}projects = [\"we b*\"]\n"), "a pattern for projects"),
        (format!("{slack}attempts = 0\n"), "must be a whole number from 1 to 30"),
        (format!("{slack}retries = 3\n"), "unknown key"),
        (format!("{slack}{slack}"), "is the name of another [[notify]] table"),
        (github.replace("repository = \"acme/web\"\n", ""), "`notify[0].repository` is missing"),
        (github.replace("acme/web", "../web"), "must be the repository's path"),
        (github.replace("secret_env = \"S\"\n", ""), "github needs a token"),
        (format!("{github}events = [\"paused\"]\n"), "has no place for paused"),
        (format!("{github}waits_longer_than = \"30m\"\n"), "means nothing to github"),
        ("public_url = \"deploys\"\n".to_owned(), "`public_url`: must be an address"),
        ("[retention]\ndead_letters = \"soon\"\n".to_owned(), "is not a time"),
    ] {
        let (is_valid, told) = check(&text);
        assert!(!is_valid && told.contains(what), "{text}\n{told}");
    }
}
