//! `outbox plugin test` and `outbox plugin check`, run through the real binary and through the library.

use std::path::Path;
use std::process::{Command, Output};

use outbox::check::assert_cases;
use serde_json::Value;

use super::Exhibit;

const CASE: &str = "[item]\ntype = 'charge_then_record'\nkey = 'order-17'\n\n[[answer]]\nurl = 'http://shop.test/*'\n";

fn outbox(args: &[&str], path: &Path) -> Output {
    let folder = if path.is_file() { path.parent().unwrap() } else { path };
    let mut command = Command::new(env!("CARGO_BIN_EXE_outbox"));
    command.arg("plugin").args(args).arg(path).env_remove("OUTBOX_CONFIG");
    command.env("OUTBOX_CACHE_DIR", folder.join("cache")).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_case_is_accepted_once_and_from_then_on_tells_what_differs() {
    let exhibit = Exhibit::with_case("charge", CASE);
    let first = outbox(&["test"], exhibit.path());
    assert_eq!(first.status.code(), Some(1));
    assert!(said(&first).contains("no [expect]: --update"), "{}", said(&first));
    assert_eq!(outbox(&["test", "--update"], exhibit.path()).status.code(), Some(0));
    let second = outbox(&["test"], exhibit.path());
    assert_eq!(second.status.code(), Some(0), "{}", said(&second));
    assert!(said(&second).contains("1 case as expected"), "{}", said(&second));

    let file = exhibit.path().join("cases/charge.toml");
    let accepted = std::fs::read_to_string(&file).unwrap();
    assert!(accepted.starts_with(CASE.trim_end()), "{accepted}");
    std::fs::write(&file, accepted.replace(r#""amount":5"#, r#""amount":6"#)).unwrap();
    let third = outbox(&["test"], &exhibit.component());
    assert_eq!(third.status.code(), Some(1));
    for part in ["request 1, body", r#"expected {"amount":6"#, r#"got      {"amount":5"#] {
        assert!(said(&third).contains(part), "{part}: {}", said(&third));
    }
}

#[test]
fn a_component_is_compiled_once_for_tests_and_checks() {
    let exhibit = Exhibit::with_case("charge", CASE);
    let compiled = || {
        let cached = std::fs::read_dir(exhibit.path().join("cache")).unwrap().map(|entry| entry.unwrap());
        let code = cached.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "code"));
        code.map(|entry| (entry.file_name(), entry.metadata().unwrap().modified().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(outbox(&["test", "--update"], exhibit.path()).status.code(), Some(0));
    let first = compiled();
    assert_eq!(first.len(), 1);
    outbox(&["check"], exhibit.path());
    assert_eq!(compiled(), first);
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let missing = outbox(&["check"], Path::new("no-such-folder"));
    assert_eq!(missing.status.code(), Some(1));
    assert!(said(&missing).contains("there is no no-such-folder"), "{}", said(&missing));
}

#[test]
fn build_servers_get_junit_and_programs_get_json() {
    let exhibit = Exhibit::with_case("charge", CASE);
    let junit = exhibit.path().join("junit.xml");
    let output = outbox(&["test", "--json", "--junit", junit.to_str().unwrap()], exhibit.path());
    let tested: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(tested[0]["case"], "charge");
    let xml = std::fs::read_to_string(junit).unwrap();
    assert!(xml.contains(r#"tests="1" failures="1""#) && xml.contains("<failure"), "{xml}");
}

#[test]
fn a_request_that_no_answer_fits_is_told() {
    let exhibit = Exhibit::with_case("charge", "[item]\ntype = 'charge_then_record'\n");
    let output = outbox(&["test", "--update"], exhibit.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("no [[answer]] fits the request POST http://shop.test/charges"),
        "{}",
        said(&output)
    );
}

#[test]
fn the_library_runs_the_cases_of_a_handlers_own_tests() {
    let exhibit = Exhibit::with_case("charge", &format!("{CASE}\n[expect]\noutcome = 'permanent'\n"));
    let panicked = std::panic::catch_unwind(|| assert_cases(exhibit.path())).unwrap_err();
    let words = panicked.downcast_ref::<String>().unwrap();
    assert!(words.contains("outcome: expected permanent, got done"), "{words}");
    assert_eq!(outbox(&["test", "--update"], exhibit.path()).status.code(), Some(0));
    assert_cases(exhibit.path());
}

#[test]
fn the_verdict_names_the_call_the_schedule_and_what_would_mend_it() {
    let exhibit = Exhibit::new("swallowed_error", "broken");
    let output = outbox(&["check"], exhibit.path());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    for part in [
        "   2  POST http://shop.test/shipments",
        "LOST      the item is done, and call 2, POST http://shop.test/shipments, was never carried out",
        "--schedule swallowed_error/fails:2",
        "fix: return the failure of this call",
        "schedules in ",
        "1 finding against it",
    ] {
        assert!(said(&output).contains(part), "{part}: {}", said(&output));
    }
    let one = outbox(&["check", "--json", "--schedule", "swallowed_error/fails:2"], exhibit.path());
    let checked: Value = serde_json::from_slice(&one.stdout).unwrap();
    assert_eq!((&checked[0]["schedules"], &checked[0]["findings"][0]["kind"]), (&1.into(), &"lost".into()));
}

#[test]
fn a_handler_that_keeps_its_promises_is_acquitted_with_exit_status_0() {
    let exhibit = Exhibit::new("swallowed_error", "fixed");
    let output = outbox(&["check"], exhibit.path());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("every schedule ends with the same effects"), "{}", said(&output));
}

#[test]
fn what_cannot_be_checked_is_said() {
    let unanswered = Exhibit::with_case("charge", "[item]\ntype = 'charge_then_record'\n");
    let output = outbox(&["check"], unanswered.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("no [[answer]] of the case fits"), "{}", said(&output));
    let strange = Exhibit::with_case("charge", "[item]\ntype = 'strange'\n");
    assert!(said(&outbox(&["check"], strange.path())).contains("the type \"strange\""));
    let unknown = Exhibit::new("swallowed_error", "fixed");
    let output = outbox(&["check", "--schedule", "swallowed_error/crash:99a"], unknown.path());
    assert!(said(&output).contains("no schedule has the id \"crash:99a\""), "{}", said(&output));
}
