//! Every key of a manifest, its default, its bounds, and the errors that name it.

use std::collections::BTreeSet;
use std::sync::Arc;

use outbox_core::RetryPolicy;

use crate::load::manifest::*;

fn parse(source: &str) -> Result<Manifest, ManifestError> {
    let environment: EnvLookup = Arc::new(|name| match name {
        "VECTOR_URL" => Some("http://127.0.0.1:9000/base".to_owned()),
        "VECTOR_TOKEN" => Some("hush".to_owned()),
        "BROKEN" => Some("two\nlines".to_owned()),
        _ => None,
    });
    Manifest::parse(source, &environment)
}

fn error(source: &str) -> String {
    parse(source).unwrap_err().to_string()
}

const FULL: &str = r#"
types = ["vector_upsert"]
timeout = "30s"
[grant]
state = true
emit = ["email_receipt"]
[[grant.http]]
origin = "${VECTOR_URL}"
methods = ["POST"]
path = "/upsert*"
secrets = [{ env = "VECTOR_TOKEN", header = "Authorization", template = "Bearer {}" }]
[config]
url = "${VECTOR_URL}"
batch = 5
[limits]
memory = "32MiB"
cpu = "1s"
concurrency = 16
rate = "100/s"
http_requests = 4
response = "1MiB"
[retry]
max_retries = 3
[ordering]
on_dead = "skip"
streak = 4

[breaker]
failures = 5
[reload]
canary = 5
max_fault_ratio = 0.5
max_failure_increase = 0.1
"#;

#[test]
fn a_table_of_types_says_what_items_are_for_the_component() {
    let manifest = parse("[types]\nalert = 'webhook'\nmail = 'webhook'").unwrap();
    let expected = [("alert", "webhook"), ("mail", "webhook")].map(|(item, component)| (item.into(), component.into()));
    assert_eq!(manifest.types, Some(expected.into()));
    for wrong in ["types = 'webhook'", "types = [1]", "[types]\nalert = 1", "[types.alert]\nas = 'webhook'"] {
        let told = parse(wrong).unwrap_err().to_string();
        assert!(told.contains("`types` is") && told.contains("alert = \"webhook\""), "{wrong}: {told}");
    }
}

#[test]
fn every_documented_key_is_read() {
    let manifest = parse(FULL).unwrap();
    assert_eq!(manifest.types, Some([("vector_upsert".to_owned(), "vector_upsert".to_owned())].into()));
    assert_eq!(manifest.timeout, Some(Duration::from_secs(30)));
    assert_eq!(manifest.config["url"], "http://127.0.0.1:9000/base");
    assert_eq!(manifest.config["batch"], "5");
    assert_eq!(manifest.limits.memory, 32 << 20);
    assert_eq!(manifest.limits.concurrency, Some(16));
    assert_eq!((manifest.on_dead, manifest.streak), (OnDead::Skip, Some(4)));
    assert_eq!(manifest.breaker, Some(BreakerPolicy { failures: 5, pause: Duration::from_secs(30) }));
    assert_eq!(manifest.canary, CanaryPolicy { items: 5, max_fault_ratio: 0.5, max_failure_increase: 0.1 });
    assert_eq!(manifest.grants.emit, ["email_receipt"]);
    let policy = manifest.retry.applied_to(RetryPolicy::default());
    assert_eq!(policy, RetryPolicy { max_retries: 3, ..RetryPolicy::default() });
}

#[test]
fn a_misspelt_key_is_named_with_the_nearest_valid_one() {
    assert!(error("[limits]\nmemroy = \"1MiB\"").contains("`limits.memroy`: did you mean `limits.memory`?"));
    assert!(error("timout = \"1s\"").contains("`timout`: did you mean `timeout`?"));
    assert!(error("[[grant.http]]\norigin = \"http://a\"\nmethod = [\"GET\"]").contains("`grant.http.methods`"));
    assert!(error("[grants]\nstate = true").contains("did you mean `grant`?"));
}

#[test]
fn a_bad_value_is_shown_with_what_is_accepted() {
    assert!(error("[limits]\nmemory = \"64MB\"").contains("`limits.memory` is \"64MB\": it must be a size"));
    assert!(error("[limits]\nmemory = \"1GiB\"").contains("at most 512MiB"));
    assert!(error("sha256 = \"abc\"").contains("64 hexadecimal digits"));
    assert!(error("[[grant.http]]\nmethods = [\"GET\"]").contains("`grant.http.origin` is missing"));
    let misspelt = error("[[grant.http]]\norign = \"http://x\"");
    assert!(misspelt.contains("`grant.http.origin` is missing: is `grant.http.orign` misspelt?"), "{misspelt}");
    assert!(error("[[grant.http]]\norigin = \"ftp://x\"").contains("grant.http.origin"));
    assert!(error("types = [").contains("not TOML"));
    assert!(error("limits = 5").contains("`limits` is 5: it must be a table"));
    assert!(error("[grant]\nhttp = 5").contains("`grant.http` is 5: it must be an array of tables"));
}

#[test]
fn an_unset_variable_is_named_with_the_key_that_needs_it() {
    assert!(error("[config]\nurl = \"${NOWHERE}/x\"").contains("`config.url` needs the environment variable NOWHERE"));
    let secret = "[[grant.http]]\norigin = \"http://a\"\nsecrets = [{ env = \"NOWHERE\", header = \"a\" }]";
    assert!(error(secret).contains("NOWHERE"));
}

#[test]
fn a_value_is_shown_as_it_was_written_and_not_as_what_it_stands_for() {
    for (source, shown) in [
        ("[[grant.http]]\norigin = 'ftp://${VECTOR_TOKEN}@a'", r#""ftp://${VECTOR_TOKEN}@a""#),
        ("[[grant.http]]\norigin = 'http://a'\npath = '${VECTOR_TOKEN}'", r#""${VECTOR_TOKEN}""#),
        ("timeout = '${VECTOR_TOKEN}'", r#""${VECTOR_TOKEN}""#),
        ("sha256 = '${VECTOR_TOKEN}'", r#""${VECTOR_TOKEN}""#),
        ("config.x = ['${VECTOR_TOKEN}']", "an array"),
    ] {
        let error = error(source);
        assert!(error.contains(shown) && !error.contains("hush"), "{error}");
    }
}

#[test]
fn a_secret_never_appears_in_words() {
    let manifest = parse(FULL).unwrap();
    assert!(!format!("{manifest:?}").contains("hush"));
    let broken = "[[grant.http]]\norigin = \"http://a\"\nsecrets = [{ env = \"BROKEN\", header = \"a\" }]";
    assert!(!error(broken).contains("lines"));
}

/// A manifest with an unknown key in this section, and nothing else but what the section requires.
fn with_unknown_key(section: &str) -> String {
    let required = match section {
        "" => "",
        "[[grant.http]]" => "[[grant.http]]\norigin = \"http://a\"\n",
        "[[grant.http.secrets]]" => {
            "[[grant.http]]\norigin = \"http://a\"\n[[grant.http.secrets]]\nenv = \"A\"\nheader = \"a\"\n"
        }
        section => &format!("{section}\n"),
    };
    format!("{required}zzz = 1")
}

#[test]
fn the_reference_lists_every_key_and_no_other() {
    let reference = include_str!("../../../../../docs/manifest.md");
    let sections: Vec<_> = reference.split("\n## ").skip(1).collect();
    assert_eq!(sections.len(), 9);
    for text in sections {
        let title = text.lines().next().unwrap();
        let section = title.trim_matches('`');
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        let documented: BTreeSet<_> = rows.map(|(key, _)| key.to_owned()).collect();
        let error = error(&with_unknown_key(if section == "The file" { "" } else { section }));
        let known = error.rsplit_once(": ").unwrap().1.trim_end_matches(')').split(", ").map(str::to_owned).collect();
        assert_eq!(documented, known, "{title}: {error}");
    }
}

proptest::proptest! {
    #[test]
    fn no_manifest_makes_the_reader_panic_or_tells_a_secret(
        noise in "\\PC{0,80}",
        at in proptest::prelude::any::<proptest::sample::Index>(),
    ) {
        let mut source = FULL.to_owned();
        source.insert_str(source.floor_char_boundary(at.index(FULL.len())), &noise);
        for source in [&source, &noise] {
            if let Err(err) = parse(source) {
                proptest::prop_assert!(!err.to_string().contains("hush"));
            }
        }
    }
}
