//! Phases that ask a URL.

use singletrack::exec::{FailureCause, Stop, Verdict};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Trial, failure};
use crate::harness::DeafPort;

/// A server on this machine that answers each request with the next status, the last one for ever.
async fn server(statuses: &'static [u16]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut statuses = statuses.iter().copied();
        let mut status = 0;
        while let Ok((mut connection, _)) = listener.accept().await {
            status = statuses.next().unwrap_or(status);
            let mut request = [0; 1024];
            let _ = connection.read(&mut request).await;
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nLocation: /other\r\n\r\n");
            let _ = connection.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}/healthz")
}

fn check(url: &str, more: &str) -> String {
    format!("check = {{ url = \"{url}\", interval = \"10ms\", timeout = \"20s\"{more} }}")
}

#[tokio::test]
async fn a_url_is_asked_until_it_answers_well_and_each_new_problem_is_told_once() {
    let url = server(&[503, 503, 500, 204]).await;
    let ended = Trial::new().phase_with("verify", &check(&url, "")).run().await;
    assert!(matches!(ended.verdict, Some(Verdict::Succeeded { .. })), "{:?}", ended.verdict);
    assert_eq!(ended.phases(), ["verify:Started", "verify:Succeeded"]);
    let told = |status: u16| format!("singletrack: {url} is not well yet: it answered {status}");
    assert_eq!(ended.lines(), [told(503), told(500)]);
}

#[tokio::test]
async fn a_url_that_never_answers_well_fails_with_its_last_problem() {
    let url = server(&[503]).await;
    let keys = check(&url, "").replace("20s", "500ms");
    let ended = Trial::new().phase_with("verify", &keys).run().await;
    let wanted = format!("phase \"verify\": {url} was not well within 500ms: it answered 503");
    assert_eq!(failure(&ended.verdict), (FailureCause::VerifyFailed, wanted.as_str()));
}

#[tokio::test]
async fn a_check_uses_all_of_its_time_also_where_its_interval_is_no_part_of_it() {
    let url = server(&[503, 204]).await;
    let keys = format!("check = {{ url = \"{url}\", interval = \"1s\", timeout = \"1s\" }}");
    let ended = Trial::new().phase_with("verify", &keys).run().await;
    assert!(matches!(ended.verdict, Some(Verdict::Succeeded { .. })), "{:?}", ended.verdict);
}

#[tokio::test]
async fn a_check_does_not_give_up_before_the_time_that_it_tells() {
    let url = server(&[503]).await;
    let keys = check(&url, "").replace("10ms", "400ms").replace("20s", "700ms");
    let begun = std::time::Instant::now();
    let ended = Trial::new().phase_with("verify", &keys).run().await;
    let wanted = format!("phase \"verify\": {url} was not well within 700ms: it answered 503");
    assert_eq!(failure(&ended.verdict), (FailureCause::VerifyFailed, wanted.as_str()));
    assert!(begun.elapsed() >= std::time::Duration::from_millis(690 - 10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_named_as_such_and_rolls_back() {
    let deaf = DeafPort::take();
    let keys = check(&format!("http://user:secret@127.0.0.1:{}/", deaf.port), "").replace("20s", "30ms");
    let ended =
        Trial::new().phase_with("switch", "run = 'true'\nrollback = 'true'").phase_with("verify", &keys).run().await;
    let (code, message) = failure(&ended.verdict);
    assert_eq!(code, FailureCause::VerifyFailed);
    assert!(message.contains("refused") && !message.contains("secret"), "{message}");
    assert!(ended.lines().iter().all(|line| !line.contains("secret")), "{:?}", ended.lines());
    assert_eq!(ended.phases().last().unwrap(), "switch:RolledBack");
}

#[tokio::test]
async fn exactly_the_expected_status_can_be_asked_for() {
    let url = server(&[200, 302]).await;
    let ended = Trial::new().phase_with("verify", &check(&url, ", expect_status = 302")).run().await;
    assert!(matches!(ended.verdict, Some(Verdict::Succeeded { .. })), "{:?}", ended.verdict);
    assert!(ended.lines()[0].ends_with("it answered 200 instead of 302"), "{:?}", ended.lines());
}

#[tokio::test]
async fn a_cancel_interrupts_a_check_that_hangs() {
    // Connections are taken by the kernel and never answered.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let keys = check(&format!("http://{}/", silent.local_addr().unwrap()), "");
    let running = Trial::new().phase_with("verify", &keys).start();
    let asked = silent.accept().await.unwrap();
    running.stop(Stop::Cancel);
    let ended = running.end().await;
    assert_eq!(ended.verdict, Some(Verdict::Stopped));
    assert_eq!(ended.phases(), ["verify:Started", "verify:Failed"]);
    drop(asked);
}
