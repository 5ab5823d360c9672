//! Each disturbance happens: alone, it convicts the handler whose bug it brings to light.
//!
//! The gallery as a whole would not show that one is missing, because most bugs come to light in several ways.

use outbox::check::FindingKind::{self, Changed, Dead, Extra, Followups, Lost, Repeated};

use super::Exhibit;

/// The finding in one schedule of a broken handler.
const CONVICTIONS: [(&str, &str, FindingKind); 31] = [
    ("skips_repeats", "crash:1b", Lost),
    ("updates_on_repeat", "crash:1a", Extra),
    ("updates_on_repeat", "crash:return", Extra),
    ("updates_on_repeat", "reload:return", Extra),
    ("random_body", "outlive:1b", Changed),
    ("draws_a_number", "outlive:1b", Changed),
    ("clock_in_name", "outlive:1a", Repeated),
    ("charge_then_record", "crash:1a", Repeated),
    ("suffix_on_conflict", "busy/crash:1a", Extra),
    ("ignored_409", "abort/crash:1a", Lost),
    ("clock_in_name", "silent:1", Repeated),
    ("retry_inside", "lies:1", Repeated),
    ("resends_what_broke", "breaks:1", Repeated),
    ("updates_on_repeat", "breaks:1", Extra),
    ("swallowed_error", "fails:2", Lost),
    ("swallowed_error", "unavailable:2", Lost),
    ("gateway_for_done", "gateway:1", Lost),
    ("fatal_429", "throttles:1", Dead),
    ("refused_for_done", "refuses:1", Lost),
    ("timeout_for_done", "vanishes:1", Lost),
    ("gives_up_quietly", "outage:1", Lost),
    ("second_refusal_for_done", "unreachable:1", Lost),
    ("rate_of_the_moment", "crash:return+more:1", Changed),
    ("takes_the_last_seat", "crash:return+nothing:1", Dead),
    ("draws_a_number", "conflict:1", Changed),
    ("emits_once", "fails:1", Followups),
    ("second_refusal_for_done", "refuses:1+refuses:1", Lost),
    ("hopes_it_was_done", "crash:1b+vanishes:1", Lost),
    ("unchecked_after_waiting", "2:fails:2", Lost),
    ("clock_in_body", "crash:1a+crash:1a", Changed),
    ("day_in_url", "crash:1a", Repeated),
];

/// Schedules in which a broken handler does no harm, because its bug needs another disturbance.
const HARMLESS: [(&str, &str); 7] = [
    // After the commit, there is no other attempt.
    ("updates_on_repeat", "crash:commit"),
    // A receiver that carries a request out makes what is taken for done done.
    ("timeout_for_done", "silent:1"),
    ("ignored_409", "busy/crash:1a"),
    // An attempt that crashes does not count.
    ("emits_once", "crash:return"),
    // Receivers are in order again in the last attempt, however long they were not.
    ("unsorted_body", "outage:1"),
    ("fatal_429", "fails:1"),
    // A request that was never sent is no reason to believe that it was carried out.
    ("updates_on_repeat", "refuses:1"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_disturbance_convicts_the_handler_whose_bug_it_brings_to_light() {
    for (name, schedule, kind) in CONVICTIONS {
        let checked = Exhibit::new(name, "broken").check(Some(&format!("{name}/{schedule}"))).await;
        let kinds: Vec<_> = checked.findings.iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, [kind], "{name}/{schedule}: {:#?}", checked.findings);
        let shown = checked.findings[0].schedule.to_string();
        assert_eq!(shown, format!("{name}/{schedule}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disturbance_does_no_more_than_it_says() {
    for (name, schedule) in HARMLESS {
        let checked = Exhibit::new(name, "broken").check(Some(&format!("{name}/{schedule}"))).await;
        assert!(checked.has_no_findings(), "{name}/{schedule}: {:#?}", checked.findings);
    }
}
