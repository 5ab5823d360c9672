//! Every exhibit of the gallery: the checker reports the bug of the broken twin and reports nothing for the fixed one.

use std::path::PathBuf;
use std::sync::Arc;

use outbox::check::{CheckOptions, CheckReport, FindingKind, check};

use super::Exhibit;
use crate::support::guests::{CHAOS_GRANTS, chaos, gallery, install};
use crate::support::report;

/// The finding that the checker reports for each broken twin, and the call at which it appears.
const EXHIBITS: [(&str, FindingKind, usize, &str); 18] = [
    ("charge_then_record", FindingKind::Repeated, 1, "POST http://shop.test/charges"),
    ("clock_in_name", FindingKind::Repeated, 1, "POST http://shop.test/charges"),
    ("random_url", FindingKind::Repeated, 1, "PUT http://shop.test/payments/"),
    ("random_body", FindingKind::Changed, 1, "POST http://shop.test/orders"),
    ("clock_in_body", FindingKind::Changed, 1, "POST http://shop.test/orders"),
    ("attempt_in_body", FindingKind::Changed, 1, "POST http://shop.test/orders"),
    ("unsorted_body", FindingKind::Changed, 1, "POST http://shop.test/orders"),
    ("read_modify_write", FindingKind::Changed, 2, "POST http://shop.test/balance"),
    ("shared_url", FindingKind::Changed, 4, "POST http://shop.test/bookings"),
    ("retry_inside", FindingKind::Repeated, 1, "POST http://shop.test/charges"),
    ("swallowed_error", FindingKind::Lost, 2, "POST http://shop.test/shipments"),
    ("state_before_call", FindingKind::Lost, 3, "POST http://shop.test/charges"),
    ("ignored_409", FindingKind::Lost, 1, "POST http://shop.test/charges"),
    ("fatal_429", FindingKind::Dead, 1, "POST http://shop.test/charges"),
    ("skips_repeats", FindingKind::Lost, 1, "POST http://shop.test/charges"),
    ("emits_once", FindingKind::Followups, 2, "receipt"),
    ("emits_outside", FindingKind::Repeated, 2, "POST http://shop.test/queue/receipts"),
    ("counts_attempts", FindingKind::State, 3, "charges"),
];

/// Checks the whole gallery with one of the twins. The results have the order of the names of the cases.
async fn all(twin: &str) -> Vec<CheckReport> {
    let dir = tempfile::tempdir().unwrap();
    for (name, ..) in EXHIBITS {
        let case = std::fs::read_to_string(gallery().join(format!("cases/{name}.toml"))).unwrap();
        let case = format!("{case}\n[config]\ntwin = {twin:?}\n");
        std::fs::write(dir.path().join(format!("{name}.toml")), case).unwrap();
    }
    let (component, cases) = (gallery().join("gallery.wasm"), PathBuf::from(dir.path()));
    let options = CheckOptions { component, cases, ..CheckOptions::default() };
    check(&options, Arc::new(|_| {})).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broken_handler_is_convicted_at_the_call_that_is_wrong() {
    let checked = all("broken").await;
    for (name, kind, call, what) in EXHIBITS {
        let checked = checked.iter().find(|checked| checked.case == name).unwrap();
        let is_meant = |found: &&outbox::check::Finding| found.kind == kind && found.call == call;
        let finding = checked.findings.iter().find(is_meant);
        let finding = finding.unwrap_or_else(|| panic!("{name} is not convicted: {checked:#?}"));
        assert!(finding.what.contains(what), "{name}: {}", finding.what);
        assert!(checked.findings.iter().all(|found| found.call == call), "{name}: {:#?}", checked.findings);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fixed_handler_is_acquitted() {
    for checked in all("fixed").await {
        assert!(checked.has_no_findings(), "{}: {:#?}", checked.case, checked.findings);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_schedule_of_twenty_calls_is_played_within_seconds() {
    let checked = Exhibit::new("twenty_calls", "fixed").check(None).await;
    let (n, effects) = (20, 20);
    let faults = 4 * effects;
    let points = 2 * n + 2;
    let expected = 2 * points + 2 * (points - 1) + 2 * effects + faults + (faults + n + 1) * (n + 2);
    assert_eq!(checked.schedules, expected);
    assert_eq!(checked.groups.iter().map(|family| family.count).sum::<usize>(), expected);
    assert!(checked.has_no_findings(), "{:#?}", checked.findings);
    report(&format!("{} schedules of {n} calls in {:.1} s", checked.schedules, checked.elapsed.as_secs_f64()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_convicts_can_be_played_again_alone() {
    let exhibit = Exhibit::new("shared_url", "broken");
    let finding = exhibit.check(None).await.findings.remove(0);
    let again = exhibit.check(Some(&finding.schedule.to_string())).await;
    assert_eq!(again.schedules, 1);
    assert_eq!(again.findings.len(), 1);
    assert_eq!((&again.findings[0].what, &again.findings[0].fix), (&finding.what, &finding.fix));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_is_not_deterministic_is_told_where_it_first_differs() {
    let notes = |checked: CheckReport| checked.notes.into_iter().map(|note| note.what).collect::<String>();
    let told = notes(Exhibit::new("random_body", "broken").check(None).await);
    assert!(told.contains("not deterministic") && told.contains("at call 1") && told.contains("nonce"), "{told}");
    let told = notes(Exhibit::new("random_body", "fixed").check(None).await);
    assert!(!told.contains("not deterministic"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_repeated_at_receivers_that_ignore_keys_is_told_and_not_held_against_it() {
    let checked = Exhibit::new("random_body", "fixed").check(None).await;
    assert!(checked.has_no_findings());
    let told = &checked.notes[0];
    assert_eq!(told.call, Some(1));
    assert!(told.what.contains("nothing protects it where its receiver ignores keys"), "{}", told.what);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_cannot_finish_what_the_old_version_began_is_convicted() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new, cases) = (dir.path().join("old"), dir.path().join("new"), dir.path().join("cases"));
    let grants = CHAOS_GRANTS.replace("${VECTOR_URL}", "http://shop.test");
    install(&chaos(1), &grants, &old, "chaos");
    install(&chaos(2), &grants, &new, "chaos");
    std::fs::create_dir(&cases).unwrap();
    let call = r#"{"do":"http","url":"http://shop.test/a","classify":true}"#;
    let steps = format!(r#"{{"do":"sequence","steps":[{call},{{"do":"trap_in","version":"2"}}]}}"#);
    let case = format!("[item]\ntype = 'chaos'\npayload = '{steps}'\n[[answer]]\nurl = '*'\n");
    std::fs::write(cases.join("upgrade.toml"), case).unwrap();
    let same = CheckOptions { component: old.join("chaos.wasm"), cases, ..CheckOptions::default() };
    let upgraded = CheckOptions { next: Some(new.join("chaos.wasm")), ..same.clone() };
    let quiet: Arc<outbox::check::ProgressFn> = Arc::new(|_| {});
    let unchanged = check(&same, Arc::clone(&quiet)).await.unwrap().remove(0);
    assert!(unchanged.has_no_findings(), "{:#?}", unchanged.findings);
    let findings = check(&upgraded, quiet).await.unwrap().remove(0).findings;
    assert_eq!(findings[0].kind, FindingKind::Dead, "{findings:#?}");
    assert!(
        findings.iter().all(|finding| finding.schedule.to_string().starts_with("upgrade/reload:")),
        "{findings:#?}"
    );
}
