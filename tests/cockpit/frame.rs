//! What surrounds every view: the way in and out, headers, files, problems as pages, other paths of a proxy.

use std::io::Read as _;

use flate2::read::GzDecoder;
use http_body_util::BodyExt as _;
use outbox::http::{EnvironmentColour, HostStatus, HttpSettings, Role};

use super::Desk;
use crate::support::Backend;

#[tokio::test]
async fn a_person_logs_in_is_led_back_and_logs_out() {
    let mut desk = Desk::closed(Backend::Sqlite).await;
    let asked = desk.get("/cockpit?x=1").await;
    assert_eq!(asked.status, 401);
    assert!(asked.text().contains("Log in") && !asked.text().contains("Overview"), "{}", asked.text());
    assert_eq!(asked.hidden("next"), "cockpit?x=1");
    let form = desk.post("/cockpit/act/purge", &[("ids", "1")]).await;
    assert_eq!((form.status, form.hidden("next").as_str()), (401, "cockpit"), "a log-in leads to no form");
    assert!(form.text().contains("the form was not carried out") && !asked.text().contains("carried out"));
    let wrong = desk.post("/cockpit/login", &[("token", "guess"), ("next", "cockpit?x=1")]).await;
    assert_eq!((wrong.status, wrong.hidden("next").as_str()), (401, "cockpit?x=1"));
    assert!(wrong.html().contains("role=\"alert\""), "{}", wrong.html());
    assert_eq!(wrong.header("www-authenticate"), "Bearer");
    desk.log_in(Role::Read).await;
    let page = desk.get("/cockpit").await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains("the-read") && page.text().contains("Log out"), "{}", page.text());
    let forged = desk.post("/cockpit/logout", &[]).await;
    assert_eq!((forged.status, desk.get("/cockpit").await.status), (403, 200), "a log-out needs the token of a form");
    let token = page.hidden("form_token");
    let out = desk.post("/cockpit/logout", &[("form_token", &token)]).await;
    assert_eq!((out.status, out.header("location")), (303, "../cockpit"));
    assert_eq!(desk.get("/cockpit").await.status, 401);
}

#[tokio::test]
async fn who_may_not_read_is_told_which_right_is_missing_in_a_page() {
    let mut desk = Desk::closed(Backend::Sqlite).await;
    desk.log_in(Role::Scrape).await;
    let refused = desk.get("/cockpit").await;
    assert_eq!(refused.status, 403);
    assert!(refused.header("content-type").starts_with("text/html"));
    assert!(refused.text().contains("needs the right `read`"), "{}", refused.text());
    let program = desk.send("GET", "/cockpit", &[("accept", "application/json")], "").await;
    assert_eq!((program.status, program.header("content-type")), (403, "application/problem+json"));
}

#[tokio::test]
async fn a_forged_session_is_no_session_and_a_form_of_another_site_is_refused() {
    let desk = Desk::closed(Backend::Sqlite).await;
    let forged = format!("outbox_session=9999999999999.{}.the-admin", "0".repeat(64));
    assert_eq!(desk.send("GET", "/cockpit", &[("cookie", &forged)], "").await.status, 401);
    let form = [("content-type", "application/x-www-form-urlencoded"), ("sec-fetch-site", "cross-site")];
    for path in ["/cockpit/login", "/cockpit/logout"] {
        let refused = desk.send("POST", path, &form, "token=admin-token").await;
        assert_eq!((refused.status, refused.header("set-cookie")), (403, ""), "{path}");
        assert!(refused.text().contains("page of another site"), "{}", refused.text());
    }
}

#[tokio::test]
async fn a_form_belongs_to_who_is_identified_whatever_cookie_comes_along() {
    let desk = Desk::closed(Backend::Sqlite).await;
    let admin = ("authorization", "Bearer admin-token");
    let page = desk
        .send("GET", "/cockpit/control/pause?type=fax&force=yes", &[admin, ("cookie", "outbox_session=tossed")], "")
        .await;
    assert!(page.status == 200 && !page.text().contains("Log out"), "{}", page.text());
    let form = [admin, ("content-type", "application/x-www-form-urlencoded")];
    let token = page.hidden("form_token");
    let body = format!("type=fax&force=yes&reason=calm&form_token={token}");
    let paused = desk.send("POST", "/cockpit/control/pause", &form, &body).await;
    assert_eq!(paused.status, 303, "{}", paused.text());
    let of_cookie = [admin, form[1], ("cookie", "outbox_session=tossed")];
    assert_eq!(desk.send("POST", "/cockpit/control/resume", &of_cookie, &body).await.status, 303);
}

#[tokio::test]
async fn every_answer_forbids_what_a_page_does_not_need() {
    let desk = Desk::open(Backend::Sqlite).await;
    for path in ["/cockpit", "/cockpit/nowhere", "/"] {
        let page = desk.get(path).await;
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("base-uri 'none'"), "{path}: {policy}");
        assert_eq!((page.header("x-content-type-options"), page.header("cache-control")), ("nosniff", "no-store"));
        assert!(!page.html().contains("style=") && !page.html().contains("<script>"), "{path}");
    }
    let missing = desk.get("/cockpit/nowhere").await;
    assert_eq!(missing.status, 404);
    assert!(missing.text().contains("there is nothing at /cockpit/nowhere"), "{}", missing.text());
    assert!(
        missing.text().contains("Overview Items Failures"),
        "an error keeps the way to the views: {}",
        missing.text()
    );
}

#[tokio::test]
async fn every_link_is_relative_so_that_any_path_of_a_proxy_works() {
    let desk = Desk::open(Backend::Sqlite).await;
    assert_eq!(desk.get("/").await.header("location"), "cockpit");
    for path in ["/cockpit", "/cockpit/nowhere", "/cockpit/no/where"] {
        let page = desk.get(path).await;
        let absolute = page.html().find("=\"/").map(|at| &page.html()[at.saturating_sub(20)..at + 20]);
        assert_eq!(absolute, None, "{path}");
    }
    assert!(desk.get("/cockpit/no/where").await.html().contains("href=\"../../cockpit/assets/cockpit."));
}

#[tokio::test]
async fn files_are_kept_for_ever_under_the_name_of_their_content() {
    let desk = Desk::closed(Backend::Sqlite).await;
    let page = desk.get("/cockpit").await;
    for ending in [".css", ".js", ".svg"] {
        let end = page.html().find(&format!("{ending}\"")).unwrap() + ending.len();
        let start = page.html()[..end].rfind("cockpit/assets/").unwrap();
        let file = desk.get(&format!("/{}", &page.html()[start..end])).await;
        assert_eq!(file.status, 200, "{ending}");
        assert_eq!(file.header("cache-control"), "public, max-age=31536000, immutable");
        assert_eq!(file.header("vary"), "accept-encoding");
        assert!(!file.body.is_empty());
    }
    let old = desk.get("/cockpit/assets/cockpit.000000000000.css").await;
    assert_eq!(old.status, 404);
}

#[tokio::test]
async fn the_first_load_is_small_and_compressed_unless_another_site_asks() {
    let desk = Desk::open(Backend::Sqlite).await;
    let gzip = [("accept-encoding", "gzip, br")];
    let page = desk.send("GET", "/cockpit", &gzip, "").await;
    assert_eq!(page.header("content-encoding"), "gzip");
    let mut html = String::new();
    GzDecoder::new(&page.body[..]).read_to_string(&mut html).unwrap();
    let mut total = page.body.len();
    for file in html.split('"').filter(|text| text.contains("cockpit/assets/")) {
        let path = format!("/{}", file.trim_start_matches(['.', '/']));
        total += desk.send("GET", &path, &gzip, "").await.body.len();
    }
    assert!(total < 60_000, "{total} bytes");
    let elsewhere =
        desk.send("GET", "/cockpit", &[("accept-encoding", "gzip"), ("sec-fetch-site", "cross-site")], "").await;
    assert_eq!(elsewhere.header("content-encoding"), "");
}

#[tokio::test]
async fn the_environment_has_its_name_and_its_colour_in_the_header() {
    let settings = HttpSettings {
        environment: Some("production <eu>".into()),
        environment_colour: EnvironmentColour::Red,
        ..HttpSettings::default()
    };
    let page = Desk::with(Backend::Sqlite, settings, HostStatus::default()).await.get("/cockpit").await;
    assert!(page.html().contains("class=\"env-red\""), "{}", page.html());
    assert!(page.text().contains("production <eu>") && !page.html().contains("<eu>"), "{}", page.html());
}

#[tokio::test(start_paused = true)]
async fn a_page_is_told_to_read_itself_again_until_the_host_stops() {
    let desk = Desk::open(Backend::Sqlite).await;
    let answer = desk.answer("GET", "/cockpit/live", &[("accept-encoding", "gzip")], "").await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut notices = answer.into_body();
    for _ in 0..2 {
        let notice = notices.frame().await.unwrap().unwrap().into_data().unwrap();
        // Browsers drop an event without data.
        assert_eq!(notice, "event: change\ndata: now\n\n");
    }
    desk.stop.cancel();
    while let Some(frame) = notices.frame().await {
        frame.unwrap();
    }
}
