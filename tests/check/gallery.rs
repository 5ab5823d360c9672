//! Every exhibit of the gallery: the checker reports the bug of the broken twin and reports nothing for the fixed one.

use std::path::PathBuf;
use std::sync::Arc;

use outbox::check::{CheckOptions, CheckReport, FindingKind, check};

use super::{Exhibit, code_cache};
use crate::support::guests::{CHAOS_GRANTS, chaos, gallery, install};
use crate::support::{is_soak, report};

/// The finding that the checker reports for each broken twin, and the call at which it appears.
pub(super) const EXHIBITS: [(&str, FindingKind, usize, &str); 61] = [
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
    ("timeout_for_done", FindingKind::Lost, 1, "POST http://shop.test/charges"),
    ("refused_for_done", FindingKind::Lost, 1, "POST http://shop.test/charges"),
    ("gives_up_quietly", FindingKind::Lost, 1, "POST http://shop.test/charges"),
    ("undoes_too_early", FindingKind::Extra, 3, "POST http://shop.test/refunds"),
    ("fails_when_gone", FindingKind::Dead, 1, "DELETE http://shop.test/bookings/order-17"),
    ("unchecked_after_waiting", FindingKind::Lost, 2, "POST http://shop.test/shipments"),
    ("day_in_url", FindingKind::Repeated, 1, "PUT http://shop.test/days/"),
    ("equal_lines", FindingKind::Lost, 2, "the key of call 1, order-17/line"),
    ("different_lines", FindingKind::Changed, 2, "the key of call 1, order-17/line"),
    ("smaller_batches", FindingKind::Repeated, 1, "POST http://shop.test/rows"),
    ("rate_of_the_moment", FindingKind::Changed, 2, "POST http://shop.test/charges"),
    ("counts_at_receiver", FindingKind::Changed, 2, "PUT http://shop.test/counter"),
    ("takes_the_last_seat", FindingKind::Dead, 1, "call 2, POST http://shop.test/bookings was carried out"),
    ("put_that_adds", FindingKind::Repeated, 1, "PUT http://shop.test/stock"),
    ("too_late_midway", FindingKind::Dead, 1, "POST http://shop.test/charges was carried out"),
    ("forgets_in_vain", FindingKind::Dead, 2, "even when nothing goes wrong"),
    ("draws_a_number", FindingKind::Changed, 3, "POST http://shop.test/invoices"),
    ("one_name_for_two", FindingKind::Dead, 2, "emit receipt reader"),
    ("gateway_for_done", FindingKind::Lost, 1, "POST http://shop.test/charges"),
    ("lets_go_of_one", FindingKind::Lost, 2, "POST http://shop.test/shipments"),
    ("key_of_its_own", FindingKind::Repeated, 1, "POST http://shop.test/payments"),
    ("hosts_by_turns", FindingKind::Repeated, 1, "and then POST http://mail.test/orders in its place"),
    ("pages_of_a_shrinking_list", FindingKind::Repeated, 2, "and then DELETE http://shop.test/open/b in its place"),
    ("error_page_parsed", FindingKind::Dead, 1, "POST http://shop.test/parcels"),
    ("lookup_error_is_no", FindingKind::Extra, 2, "POST http://shop.test/news/ann"),
    ("hash_map_order", FindingKind::Changed, 1, "POST http://shop.test/invoices/17/lines"),
    ("channel_by_hour", FindingKind::Repeated, 1, "and then POST http://mail.test/mails in its place"),
    ("lock_left_behind", FindingKind::Dead, 1, "PUT http://shop.test/locks/7"),
    ("aborted_upload_returns", FindingKind::Extra, 3, "DELETE http://shop.test/uploads/u1"),
    ("batch_answer_kept", FindingKind::Dead, 1, "even when nothing goes wrong"),
    ("suffix_on_conflict", FindingKind::Extra, 1, "POST http://shop.test/coupons"),
    ("welcome_on_created", FindingKind::Followups, 2, "is missing"),
    ("cursor_moves_first", FindingKind::Lost, 4, "POST http://shop.test/orders/o-7/refund"),
    ("progress_in_state", FindingKind::Repeated, 2, "POST http://shop.test/sms"),
    ("resends_what_broke", FindingKind::Repeated, 1, "POST http://shop.test/charges"),
    ("gives_up_the_lookup", FindingKind::Lost, 2, "POST http://shop.test/charges"),
    ("hopes_it_was_done", FindingKind::Lost, 1, "POST http://shop.test/charges"),
    ("second_refusal_for_done", FindingKind::Lost, 1, "POST http://shop.test/charges"),
    ("updates_on_repeat", FindingKind::Extra, 1, "PATCH http://shop.test/customers/17"),
    ("reverses_first", FindingKind::Extra, 1, "POST http://shop.test/reversals"),
    ("draws_lots", FindingKind::Extra, 2, "POST http://shop.test/audits"),
    ("refuses_repeats", FindingKind::Dead, 0, "an item is attempted once"),
    ("line_of_the_attempt", FindingKind::Followups, 2, "another ordering key"),
];

/// Handlers that look like a bug and have none.
const SOUND: [&str; 11] = [
    "name_at_two_receivers",
    "creates_if_missing",
    "asks_for_token",
    "sets_a_url_twice",
    "waits_for_its_share",
    "alerts_at_the_end",
    "reports_its_failures",
    "says_when_it_was_seen",
    "notes_the_time",
    "counts_if_possible",
    "gives_up_loudly",
];

/// Checks the whole gallery with one of the twins. The results have the order of the names of the cases.
async fn all(twin: &str) -> Vec<CheckReport> {
    let dir = tempfile::tempdir().unwrap();
    for name in EXHIBITS.iter().map(|(name, ..)| *name).chain(SOUND) {
        let case = std::fs::read_to_string(gallery().join(format!("cases/{name}.toml"))).unwrap();
        let case = format!("{case}\n[config]\ntwin = {twin:?}\n");
        std::fs::write(dir.path().join(format!("{name}.toml")), case).unwrap();
    }
    let (component, cases) = (gallery().join("gallery.wasm"), PathBuf::from(dir.path()));
    let options = CheckOptions { component, cases, cache: Some(code_cache()), ..CheckOptions::default() };
    check(&options, Arc::new(|_| {})).await.unwrap()
}

fn report_seconds(twin: &str, checked: &[CheckReport]) {
    let seconds: Vec<_> = checked.iter().map(|checked| checked.elapsed.as_secs_f64()).collect();
    let (all, most) = (seconds.iter().sum::<f64>(), seconds.iter().copied().fold(0.0, f64::max));
    let schedules: usize = checked.iter().map(|checked| checked.schedules).sum();
    let mean = all / f64::from(u32::try_from(seconds.len()).unwrap());
    report(&format!("{} {twin} handlers: {mean:.2} s each, {most:.2} s at most, {schedules} schedules", seconds.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broken_handler_is_convicted_at_the_call_that_is_wrong() {
    let checked = all("broken").await;
    report_seconds("broken", &checked);
    for (name, kind, call, what) in EXHIBITS {
        let checked = checked.iter().find(|checked| checked.case == name).unwrap();
        let is_meant = |found: &&outbox::check::Finding| found.kind == kind && found.call == call;
        let finding = checked.findings.iter().find(is_meant);
        let finding = finding.unwrap_or_else(|| panic!("{name} is not convicted: {checked:#?}"));
        assert!(finding.what.contains(what), "{name}: {}", finding.what);
        assert_eq!(checked.findings.len(), 1, "{name}: one bug is one finding: {:#?}", checked.findings);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fixed_handler_is_acquitted() {
    let checked = all("fixed").await;
    report_seconds("fixed", &checked);
    for checked in checked {
        assert!(checked.has_no_findings(), "{}: {:#?}", checked.case, checked.findings);
    }
}

/// How many schedules a handler with `n` calls has that all have effects.
fn schedules_of(n: usize) -> usize {
    let effects = n;
    let (faults, outages, later) = (9 * effects, 2 * effects, (8 + 9) * effects);
    let points = 2 * n + 2;
    let singles = 2 * points + 2 * (points - 1) + 2 * effects + faults + outages;
    // A receiver that throttles call k still does so in the next attempt, which ends there.
    let after_throttling: usize = (1..=n).map(|call| call + 2).sum();
    // Of nine faults, three are like others for a crash that follows, and one is that of the throttling receiver.
    let pairs = (5 * effects + n + 1) * (n + 2) + after_throttling;
    singles + pairs + later
}

#[tokio::test(flavor = "multi_thread")]
async fn every_schedule_of_many_calls_is_played() {
    assert_eq!(schedules_of(20), 3_678, "docs/testing-handlers.md says it");
    let n = if is_soak() { 20 } else { 7 };
    let case = format!("[item]\ntype = 'many_calls'\npayload = '{n}'\n[[answer]]\nurl = 'http://shop.test/*'\n");
    let checked = Exhibit::with_case("many_calls", &case).check(None).await;
    let expected = schedules_of(n);
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
    assert_eq!(told.at.map(|at| (at.attempt, at.call)), Some((1, 1)));
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

#[tokio::test(flavor = "multi_thread")]
async fn a_case_that_never_succeeds_convicts_unless_it_expects_that() {
    let case = "[item]\ntype = 'charge_then_record'\n[[answer]]\nurl = '*'\nstatus = 500\n";
    let checked = Exhibit::with_case("down", case).check(None).await;
    assert_eq!(checked.findings[0].kind, FindingKind::Dead);
    assert_eq!(checked.schedules, 0);
    let expected = |outcome: &str| format!("{case}[expect]\noutcome = '{outcome}'\n");
    assert!(!Exhibit::with_case("down", &expected("retryable")).check(None).await.has_no_findings());
    let checked = Exhibit::with_case("down", &expected("permanent")).check(None).await;
    assert!(checked.has_no_findings() && checked.schedules > 0, "{checked:#?}");
    assert!(checked.notes.iter().any(|note| note.what.contains("as the case expects")), "{:#?}", checked.notes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_after_a_deferral_is_disturbed_and_listed_by_its_attempt() {
    let checked = Exhibit::new("unchecked_after_waiting", "broken").check(None).await;
    let finding = &checked.findings[0];
    assert_eq!((finding.attempt, finding.call), (2, 2));
    assert!(finding.schedule.id.starts_with("2:"), "{}", finding.schedule);
    let listed = checked.calls.iter().find(|line| (line.attempt, line.number) == (2, 2)).unwrap();
    assert_eq!((listed.call.as_str(), &listed.schedule), ("POST http://shop.test/shipments", &None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_only_a_disturbed_run_makes_is_disturbed_and_listed_below_its_schedule() {
    let checked = Exhibit::new("undoes_too_early", "broken").check(None).await;
    let listed = checked.calls.iter().find(|line| line.call == "POST http://shop.test/refunds").unwrap();
    let reached = listed.schedule.as_ref().unwrap();
    assert_eq!(listed.number, 3);
    let group = checked.groups.iter().find(|group| group.name == "calls that only a disturbance reaches").unwrap();
    assert_eq!(group.count, 12, "{reached}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_that_only_a_put_could_prevent_is_told() {
    let checked = Exhibit::new("creates_if_missing", "fixed").check(None).await;
    let told: String = checked.notes.iter().map(|note| note.what.as_str()).collect();
    assert!(told.contains("outlives its lease") && told.contains("A PUT under a name"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_that_the_case_calls_stable_is_not_changed() {
    let case = |more: &str| {
        let answer = "url = 'http://shop.test/rates/usd'\nbody = '1.5'";
        format!("[item]\ntype = 'rate_of_the_moment'\n[[answer]]\n{answer}\n{more}\n[[answer]]\nurl = '*'\n")
    };
    assert!(!Exhibit::with_case("rate", &case("")).check(None).await.has_no_findings());
    let checked = Exhibit::with_case("rate", &case("stable = true")).check(None).await;
    assert!(checked.has_no_findings(), "{:#?}", checked.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_that_two_faults_use_up_are_not_held_against_a_handler() {
    let exhibit = Exhibit::new("retry_inside", "fixed");
    let manifest = exhibit.path().join("gallery.toml");
    let few = std::fs::read_to_string(&manifest).unwrap() + "\n[retry]\nmax_retries = 1\n";
    std::fs::write(manifest, few).unwrap();
    let checked = exhibit.check(None).await;
    assert!(checked.has_no_findings(), "{:#?}", checked.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_finding_is_reported_with_its_reason_and_one_that_is_about_nothing_is_a_finding() {
    let case = |call: usize| {
        let accept = format!("[[accept]]\nfinding = 'lost'\ncall = {call}\nreason = 'nothing is sold'\n");
        format!("[item]\ntype = 'skips_repeats'\n[[answer]]\nurl = '*'\n{accept}")
    };
    let checked = Exhibit::with_case("accepts", &case(1)).check(None).await;
    assert!(checked.has_no_findings(), "{:#?}", checked.findings);
    assert_eq!((checked.accepted.len(), checked.accepted[0].reason.as_str()), (1, "nothing is sold"));
    let checked = Exhibit::with_case("accepts", &case(2)).check(None).await;
    let kinds: Vec<_> = checked.findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [FindingKind::Lost, FindingKind::Accept]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_checks_of_one_handler_are_equal_to_the_byte() {
    let exhibit = Exhibit::new("undoes_too_early", "broken");
    let report = async || serde_json::to_string(&exhibit.check(None).await).unwrap();
    assert_eq!(report().await, report().await);
}
