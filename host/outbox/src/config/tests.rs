//! Tests of all settings together.

use std::path::{Path, PathBuf};
use std::time::Duration;

use outbox_core::RetryPolicy;
use outbox_core::saga::SagaDefinition;

use crate::config::catalog::{SETTINGS, Setting};
use crate::config::settings::RETAIN_SIGNALS;
use crate::config::sources::{FileText, Sources};
use crate::config::{Config, ConfigError, Database, Secret};

fn sources(flags: &[(&'static str, &str)], environment: &[(&str, &str)], file: Option<&str>) -> Sources {
    Sources {
        flags: flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
        environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        file: file.map(|text| FileText { path: "outbox.toml".into(), text: text.to_owned() }),
    }
}

fn parse(environment: &[(&str, &str)], file: Option<&str>) -> Result<Config, ConfigError> {
    Config::parse(&sources(&[], environment, file))
}

#[test]
fn defaults_are_those_of_the_playbook() {
    let config = parse(&[], None).unwrap();
    assert!(!config.is_enabled);
    assert!(!config.is_strict);
    assert_eq!(config.database, Database::Sqlite("/var/run/outbox.sqlite".into()));
    assert_eq!(config.lease, Duration::from_mins(1));
    assert_eq!(config.retry, RetryPolicy::default());
    assert_eq!(config.listen.to_string(), "127.0.0.1:7070");
    assert_eq!(config.retain_done, None);
    assert_eq!(config.retain_dlq, None);
    assert_eq!(config.retain_audit, None);
    assert_eq!(config.retain_signals, Some(RETAIN_SIGNALS));
    assert_eq!(config.sagas, [SagaDefinition::write_memory()]);
}

#[test]
fn flags_win_over_the_environment_which_wins_over_the_file() {
    let file = Some("db = \"file\"\nrole = \"file\"\nmax_retries = 3\nenabled = true");
    let environment = [("OUTBOX_DB", "environment"), ("OUTBOX_ROLE", "environment")];
    let config = Config::parse(&sources(&[("OUTBOX_DB", "flag")], &environment, file)).unwrap();
    assert_eq!(config.database, Database::Sqlite("flag".into()));
    assert_eq!(config.role.as_deref(), Some("environment"));
    assert_eq!(config.retry.max_retries, 3);
    assert!(config.is_enabled);
}

#[test]
fn an_empty_value_counts_as_not_given() {
    let config = parse(&[("OUTBOX_TOKEN", ""), ("OUTBOX_ROLE", " ")], Some("role = \"vector\"")).unwrap();
    assert_eq!(config.token, None);
    assert_eq!(config.role.as_deref(), Some("vector"));
}

#[test]
fn a_bad_value_is_named_with_its_origin_and_what_is_accepted() {
    let check = |variable: &'static str, value: &str, accepted: &str| {
        let err = parse(&[(variable, value)], None).unwrap_err().to_string();
        assert!(err.starts_with(&format!("{variable} is {value:?}: use ")), "{err}");
        assert!(err.contains(accepted), "{err}");
    };
    check("OUTBOX_ENABLED", "maybe", "true or false");
    check("OUTBOX_BACKEND", "postgres", "together with OUTBOX_DB=postgres://");
    check("OUTBOX_BACKEND", "mysql", "sqlite or postgres");
    check("OUTBOX_DB", "mysql://db/outbox", "the path of a SQLite file, or a URL");
    check("OUTBOX_DB_LISTEN", "postgres://db/app", "only together with OUTBOX_DB=postgres://");
    check("OUTBOX_DB_PASSWORD_FILE", "/none", "a file that can be read");
    check("OUTBOX_MIGRATE", "always", "auto or never");
    check("OUTBOX_VISIBILITY_SEC", "0", "a whole number from 1 to 86400");
    check("OUTBOX_MAX_RETRIES", "-1", "a whole number from 0");
    check("OUTBOX_MAX_CRASHES", "4", "a whole number from 5");
    check("OUTBOX_BACKOFF_BASE_MS", "1s", "a whole number");
    check("OUTBOX_ROLE", "../vector", "the name of a folder");
    check("OUTBOX_PLUGINS", "oci://registry.example/p", "a tag or a digest");
    check("OUTBOX_PLUGINS", "oci://registry.example/p:1,a,b", "one folder at most");
    check("OUTBOX_REGISTRY_POLL", "999ms", "a duration from 1s");
    check("OUTBOX_REGISTRY_HTTP", "http://registry.internal", "loopback, never, or names");
    check("OUTBOX_CONCURRENCY", "0", "a whole number from 1");
    check("OUTBOX_LISTEN", "7070", "an IP address and a port");
    check("OUTBOX_HOSTS", "https://a", "host names");
    check("OUTBOX_HOSTS", "*", "set OUTBOX_TOKEN instead");
    check("OUTBOX_ENVIRONMENT", "a name that does not fit into a header", "1 to 32 characters");
    check("OUTBOX_ENVIRONMENT_COLOUR", "pink", "blue, green, amber, red, violet or grey");
    check("OUTBOX_MAX_PENDING", "0", "a whole number from 1");
    check("OUTBOX_METRICS_STORE", "all", "true or false");
    check("OUTBOX_REDACT", "card..number", "paths of members");
    check("OUTBOX_RETAIN_DLQ", "week", "a duration such as 12h or 7d");
    check("OUTBOX_RETAIN_HISTORY", "day", "a duration such as 12h or 7d");
    check("OUTBOX_RETAIN_DONE", "7", "a duration such as 12h or 7d");
    check("OUTBOX_LOG", "xml", "text or json");
    check("GOVERNOR_STRICT_MODE", "2", "true or false");

    let err = parse(&[], Some("visibility_sec = 0")).unwrap_err().to_string();
    assert!(err.starts_with("visibility_sec in outbox.toml is \"0\""), "{err}");
    let err = Config::parse(&sources(&[("OUTBOX_LISTEN", "x")], &[], None)).unwrap_err().to_string();
    assert!(err.starts_with("--listen is \"x\""), "{err}");
}

#[test]
fn the_backend_follows_from_the_database_and_a_backend_that_does_not_fit_is_an_error() {
    let url = "postgres://ada@db/app";
    let postgres = |password: Option<&str>| Database::Postgres {
        url: Secret::new(&password.map_or(url.to_owned(), |password| format!("{url}?password={password}"))),
        root_certificates: None,
    };
    assert_eq!(parse(&[("OUTBOX_DB", url)], None).unwrap().database, postgres(None));
    let both = parse(&[("OUTBOX_DB", url), ("OUTBOX_BACKEND", "postgres")], None);
    assert_eq!(both.unwrap().database, postgres(None));
    let err = parse(&[("OUTBOX_DB", url), ("OUTBOX_BACKEND", "sqlite")], None).unwrap_err().to_string();
    assert!(err.contains("OUTBOX_DB is \"postgres://db/app\"") && err.contains("OUTBOX_BACKEND=postgres"), "{err}");
    let err = parse(&[("OUTBOX_DB", "a.sqlite"), ("OUTBOX_BACKEND", "postgres")], None).unwrap_err().to_string();
    assert!(err.contains("a.sqlite") && err.contains("a URL such as postgres://"), "{err}");
    let password = parse(&[("OUTBOX_DB", url), ("OUTBOX_DB_PASSWORD", "hunter2")], None).unwrap();
    assert_eq!(password.database, postgres(Some("%68%75%6E%74%65%72%32")));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "hunter3\n").unwrap();
    let path = file.path().to_str().unwrap();
    let filed = parse(&[("OUTBOX_DB", url), ("OUTBOX_DB_PASSWORD_FILE", path)], None).unwrap();
    assert_eq!(filed.database, postgres(Some("%68%75%6E%74%65%72%33")));
    let both = [("OUTBOX_DB", url), ("OUTBOX_DB_PASSWORD", "x"), ("OUTBOX_DB_PASSWORD_FILE", path)];
    assert!(parse(&both, None).unwrap_err().to_string().contains("one of it and OUTBOX_DB_PASSWORD, not both"));
}

#[test]
fn the_database_is_listened_to_with_the_password_of_the_database() {
    let listening = |environment: &[(&str, &str)]| {
        let (db, listen) = (("OUTBOX_DB", "postgres://pooler/app"), ("OUTBOX_DB_LISTEN", "postgres://ada@db/app"));
        parse(&[&[db, listen], environment].concat(), None).unwrap().listen_database.unwrap()
    };
    assert_eq!(listening(&[]), Secret::new("postgres://ada@db/app"));
    assert_eq!(listening(&[("OUTBOX_DB_PASSWORD", "h")]), Secret::new("postgres://ada@db/app?password=%68"));
    assert_eq!(parse(&[("OUTBOX_DB", "postgres://db/app")], None).unwrap().listen_database, None);
    let err = parse(&[("OUTBOX_DB", "postgres://db/app"), ("OUTBOX_DB_LISTEN", "a.sqlite")], None).unwrap_err();
    assert!(err.to_string().contains("a URL such as postgres://"), "{err}");
    let err = parse(&[("OUTBOX_DB_LISTEN", "postgres://ada:hunter2@db/app")], None).unwrap_err().to_string();
    assert!(err.contains("postgres://db/app") && !err.contains("hunter2"), "{err}");
}

#[test]
fn a_secret_is_shown_neither_in_errors_nor_when_debugging() {
    let err = parse(&[("OUTBOX_TOKEN", "hunter 2")], None).unwrap_err().to_string();
    assert!(!err.contains("hunter"), "{err}");
    let err = parse(&[], Some("enabled = true\ntoken = \"hunter2\nrole = 1")).unwrap_err().to_string();
    assert!(err.contains("line 2") && !err.contains("hunter"), "{err}");
    let config = parse(&[("OUTBOX_TOKEN", "hunter2"), ("VECTOR_TOKEN", "hunter3")], None).unwrap();
    assert_eq!(config.token.as_ref().map(Secret::expose), Some("hunter2"));
    assert!(!format!("{config:?}").contains("hunter"));
    let url = ("OUTBOX_DB", "postgres://ada:hunter4@db/app?password=hunter5");
    let config = parse(&[url, ("OUTBOX_DB_PASSWORD", "hunter6")], None).unwrap();
    assert!(!format!("{config:?} {}", config.database).contains("hunter"));
    for misspelt in [
        "postgres//ada:hunter@h/app",
        "postgres:/ada:hunter@h/app",
        "postgres:ada:hunter@h",
        "mysql://ada:x?hunter@h/app",
        "postgres://ada:x?hunter@h/app",
        "postgres://ada:x@hunter@h/app",
        "host=h password=hunter",
        "ada:hunter@h",
    ] {
        for variable in ["OUTBOX_DB", "OUTBOX_DB_LISTEN"] {
            let environment = [(variable, misspelt), ("OUTBOX_BACKEND", "sqlite")];
            for environment in [&environment[..], &environment[..1]] {
                let err = parse(environment, None).unwrap_err().to_string();
                assert!(!err.contains("hunter") && err.contains(variable), "{misspelt}: {err}");
            }
        }
    }
    let image = "oci://ada:hunter7@r.example/p:1";
    let others = [("OUTBOX_PLUGINS", image), ("OUTBOX_REGISTRY_HTTP", image)];
    let bare = [("OUTBOX_PLUGINS", &image[6..]), ("OUTBOX_REGISTRY_HTTP", "a:5000,ada:hunter7@r.example")];
    for wrong in [[("OUTBOX_BACKEND", "sqlite"), ("OUTBOX_DB_PASSWORD_FILE", "/none")], others, bare].concat() {
        let err = parse(&[url, ("OUTBOX_DB_PASSWORD", "hunter6"), wrong], None).unwrap_err().to_string();
        assert!(!err.contains("hunter"), "{err}");
    }
}

#[test]
fn every_setting_is_compared_and_only_what_can_change_is_taken_over() {
    let before = parse(&[], None).unwrap();
    for (name, value, is_reloadable) in [
        ("enabled", "true", false),
        ("db", "'other.sqlite'", false),
        ("migrate", "'never'", false),
        ("visibility_sec", "9", false),
        ("max_retries", "9", false),
        ("max_crashes", "9", false),
        ("backoff_base_ms", "9", false),
        ("backoff_cap_ms", "9", false),
        ("role", "'r'", false),
        ("plugins", "'p'", false),
        ("cache_dir", "'c'", false),
        ("plugin_keys", "'k'", false),
        ("concurrency", "9", false),
        ("prefetch", "9", false),
        ("payload_mib", "9", false),
        ("ca_file", "'f'", false),
        ("manifests", "'m'", false),
        ("registry_poll", "'9m'", false),
        ("registry_auth_file", "'f'", false),
        ("registry_http", "'never'", false),
        ("drain_sec", "9", false),
        ("listen", "'127.0.0.1:9'", false),
        ("token", "'t'", true),
        ("session_key", "'00112233445566778899aabbccddeeff'", true),
        ("trust_proxies", "'10.0.0.1'", true),
        (
            "tokens",
            "[{name='a',role='read',sha256='ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'}]",
            true,
        ),
        ("hosts", "'h'", true),
        ("environment", "'e'", true),
        ("environment_colour", "'red'", true),
        ("max_pending", "9", true),
        ("metrics_store", "true", true),
        ("redact", "'card.number'", true),
        ("retain_done", "'9d'", true),
        ("retain_dlq", "'9d'", true),
        ("retain_signals", "'9d'", true),
        ("retain_audit", "'9d'", true),
        ("retain_history", "'9d'", true),
        ("alerts", "'a'", false),
        ("alert_period", "'9m'", false),
        ("log", "'json'", false),
        ("governor_strict_mode", "true", true),
        ("sagas.S", "{ steps = ['a'] }", true),
    ] {
        let read = parse(&[], Some(&format!("{name} = {value}"))).unwrap();
        let changed = before.changed_settings(&read);
        let [setting] = changed[..] else { panic!("{name}: {changed:?}") };
        assert!(setting.to_ascii_lowercase().ends_with(name.trim_end_matches(".S")), "{name}: {setting}");
        let left = before.with_reloadable(&read).changed_settings(&read);
        assert_eq!(left.is_empty(), is_reloadable, "{name}: {left:?}");
    }
}

#[test]
fn an_unknown_key_of_the_file_is_an_error_that_names_the_nearest() {
    let err = parse(&[], Some("visiblity_sec = 30")).unwrap_err().to_string();
    assert!(err.contains("\"visiblity_sec\": did you mean \"visibility_sec\"?"), "{err}");
    let err = parse(&[], Some("OUTBOX_DB = \"x\"")).unwrap_err().to_string();
    assert!(err.contains("did you mean \"db\"?"), "{err}");
    assert!(parse(&[], Some("= 1")).is_err());
}

#[test]
fn an_unknown_variable_is_a_warning_that_names_the_nearest() {
    let config = parse(&[("OUTBOX_VISIBILITY_SECS", "3"), ("OUTBOX_CONFIG", "x"), ("PATH", "/bin")], None).unwrap();
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    assert!(warning.contains("OUTBOX_VISIBILITY_SECS") && warning.contains("did you mean OUTBOX_VISIBILITY_SEC?"));
}

#[test]
fn a_proxy_in_the_environment_is_a_warning_that_does_not_show_it() {
    let config = parse(&[("HTTPS_PROXY", "http://ada:hunter2@proxy:3128"), ("no_proxy", "localhost")], None).unwrap();
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    assert!(warning.contains("HTTPS_PROXY is ignored") && !warning.contains("hunter2"), "{warning}");
}

#[test]
fn both_files_of_authorities_count() {
    let config = parse(&[("OUTBOX_CA_FILE", "ours.pem"), ("SSL_CERT_FILE", "system.pem")], None).unwrap();
    assert_eq!(config.ca_files, [Path::new("ours.pem"), Path::new("system.pem")]);
    assert!(parse(&[], None).unwrap().ca_files.is_empty());
}

#[test]
fn sagas_are_declared_in_the_file_and_checked() {
    let config = parse(&[], Some("[sagas.Checkout]\nsteps = [\"charge\", \"mail\"]")).unwrap();
    assert_eq!(config.sagas[0], SagaDefinition::write_memory());
    assert_eq!(
        config.sagas[1],
        SagaDefinition { name: "Checkout".into(), steps: vec!["charge".into(), "mail".into()] }
    );
    let check = |text: &str, problem: &str| {
        let err = parse(&[], Some(text)).unwrap_err().to_string();
        assert!(err.contains(problem), "{err}");
    };
    check("[sagas.Checkout]\nsteps = []", "steps is empty");
    check("[sagas.Checkout]\nsteps = [\"Charge\"]", "\"Charge\"");
    check("[sagas.Checkout]\nsteps = [\"a\", \"a\"]", "twice");
    check("[sagas.WriteMemorySaga]\nsteps = [\"a\"]", "built in");
    check("[sagas.Checkout]\nstep = [\"a\"]", "step");
}

#[test]
fn a_listener_that_others_can_reach_needs_a_token() {
    let open = parse(&[("OUTBOX_LISTEN", "0.0.0.0:7070")], None).unwrap();
    assert!(open.require_authentication().unwrap_err().to_string().contains("OUTBOX_TOKEN"));
    let token = parse(&[("OUTBOX_LISTEN", "0.0.0.0:7070"), ("OUTBOX_TOKEN", "t")], None).unwrap();
    assert_eq!(token.require_authentication(), Ok(()));
    let named = parse(&[("OUTBOX_LISTEN", "0.0.0.0:7070")], Some(TOKEN)).unwrap();
    assert_eq!(named.require_authentication(), Ok(()));
    assert_eq!(parse(&[], None).unwrap().require_authentication(), Ok(()));
}

/// A token in `outbox.toml`, whose text is `abc`.
const TOKEN: &str = "[[tokens]]\nname = 'ada'\nrole = 'read'\n\
                     sha256 = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'";

#[test]
fn tokens_come_from_both_files_and_the_old_token_is_one_of_them_with_all_rights() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), TOKEN.replace("ba78", "ca78").replace("ada", "bob")).unwrap();
    let path = file.path().to_str().unwrap();
    let config = parse(&[("OUTBOX_TOKENS_FILE", path), ("OUTBOX_TOKEN", "t")], Some(TOKEN)).unwrap();
    let named: Vec<_> = config.all_tokens().iter().map(|token| format!("{} {}", token.name, token.role)).collect();
    assert_eq!(named, ["ada read", "bob read", "admin admin"]);
    assert!(config.changed_settings(&parse(&[("OUTBOX_TOKEN", "t")], Some(TOKEN)).unwrap()).contains(&"tokens"));
    let twice = parse(&[("OUTBOX_TOKEN", "abc")], Some(TOKEN)).unwrap_err().to_string();
    assert!(twice.contains("outbox.toml") && twice.contains("twice"), "{twice}");
}

#[test]
fn a_proxy_is_trusted_by_its_address_only() {
    let user = ("OUTBOX_TRUST_PROXY_USER", "X-Forwarded-User");
    let alone = parse(&[user], None).unwrap_err().to_string();
    assert!(alone.contains("OUTBOX_TRUST_PROXIES"), "{alone}");
    let proxies = ("OUTBOX_TRUST_PROXIES", "10.0.0.0/8, ::1");
    let config = parse(&[user, proxies, ("OUTBOX_LISTEN", "0.0.0.0:7070")], None).unwrap();
    assert_eq!((config.trusted_proxies.len(), config.proxy_users.as_ref().unwrap().role.as_str()), (2, "read"));
    assert_eq!(config.require_authentication(), Ok(()));
    assert!(parse(&[user, proxies, ("OUTBOX_TRUST_PROXY_ROLE", "root")], None).is_err());
    for of_clients in ["Cookie", "authorization", "Host"] {
        let refused = parse(&[proxies, ("OUTBOX_TRUST_PROXY_USER", of_clients)], None).unwrap_err().to_string();
        assert!(refused.contains("only the proxy sets"), "{refused}");
    }
    assert!(parse(&[("OUTBOX_TRUST_PROXIES", "proxy.internal")], None).is_err());
    let short = parse(&[("OUTBOX_SESSION_KEY", "hunter2")], None).unwrap_err().to_string();
    assert!(short.contains("32 characters") && !short.contains("hunter"), "{short}");
}

#[test]
fn the_cache_is_the_users_own_wherever_the_user_has_one() {
    let cache = |environment: &[(&str, &str)]| parse(environment, None).unwrap().cache_dir;
    assert_eq!(cache(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]), PathBuf::from("/x/outbox"));
    assert!(cache(&[("HOME", "/h")]).starts_with("/h"));
    assert_eq!(cache(&[]), PathBuf::from("/var/cache/outbox"));
}

#[test]
fn every_secret_may_be_in_a_file_which_the_direct_setting_excludes_and_a_flag_overrides() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (token, url, password) =
        (file("token", "hunter2\n"), file("url", "postgres://ada@db/app\r\n"), file("password", "h"));
    let filed = [("OUTBOX_TOKEN_FILE", &*token), ("OUTBOX_DB_FILE", &url), ("OUTBOX_DB_PASSWORD_FILE", &password)];
    let config = parse(&filed, None).unwrap();
    assert_eq!(config.token, Some(Secret::new("hunter2")));
    let with_password =
        Database::Postgres { url: Secret::new("postgres://ada@db/app?password=%68"), root_certificates: None };
    assert_eq!(config.database, with_password);
    assert_eq!(parse(&filed[..1], Some("db = 'a'")).unwrap().token, Some(Secret::new("hunter2")));

    let both = parse(&[filed[0], ("OUTBOX_TOKEN", "hunter3")], None).unwrap_err().to_string();
    assert!(both.contains("OUTBOX_TOKEN_FILE is") && both.contains("not both") && !both.contains("hunter"), "{both}");
    let empty = parse(&[("OUTBOX_TOKEN_FILE", &file("empty", "\n"))], None).unwrap_err().to_string();
    assert!(empty.contains("a file that can be read and is not empty"), "{empty}");
    let bad = parse(&[("OUTBOX_TOKEN_FILE", &file("bad", "hunter 4"))], None).unwrap_err().to_string();
    assert!(bad.contains("OUTBOX_TOKEN_FILE") && !bad.contains("hunter"), "{bad}");
    let flagged = Config::parse(&sources(&[("OUTBOX_DB", "flag")], &filed[1..2], None)).unwrap();
    assert_eq!(flagged.database, Database::Sqlite("flag".into()));
}

#[test]
fn a_manifest_reads_a_variable_or_the_file_that_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, "sk_1\n").unwrap();
    let config = parse(&[("STRIPE_FILE", &path.display().to_string()), ("MAIL", "m"), ("MAIL_FILE", "/none")], None);
    let environment = config.unwrap().environment;
    assert_eq!(environment.value_or_file("STRIPE").as_deref(), Some("sk_1"));
    assert_eq!(environment.value_or_file("MAIL").as_deref(), Some("m"));
    assert_eq!(environment.value_or_file("OTHER"), None);
}

#[test]
fn the_example_has_every_key_with_its_default() {
    let example = Config::example();
    let keys = |text: &str| -> Vec<String> {
        let is_key = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
        text.lines().filter(is_key).map(|line| line[1..].to_owned()).collect()
    };
    let (settings, declarations) = example.split_at(example.find("# The types of a saga").unwrap());
    let defaults = keys(settings);
    let all = parse(&[], Some(&defaults.join("\n"))).unwrap();
    assert_eq!(parse(&[], None).unwrap().changed_settings(&all), Vec::<&str>::new());
    assert_eq!(defaults.len(), SETTINGS.len());
    let declared = parse(
        &[],
        Some(&keys(declarations).join("\n").replace("(64 digits, which outbox token new prints)", &"a7".repeat(32))),
    )
    .unwrap();
    assert_eq!((declared.sagas.len(), declared.tokens.len()), (2, 1));
    assert!(parse(&[], Some(&example)).is_ok());
}

#[test]
fn every_setting_is_in_the_table_of_the_readme() {
    let readme = include_str!("../../../../README.md");
    for Setting { variable, .. } in SETTINGS {
        let short = variable.trim_start_matches("OUTBOX");
        let is_named = [variable, short].iter().any(|name| readme.contains(&format!("`{name}`")));
        assert!(is_named, "{variable} is not in the README");
    }
}

#[test]
fn settings_are_shown_with_their_origin_and_without_their_secrets() {
    let environment =
        [("OUTBOX_TOKEN", "hunter2"), ("OUTBOX_DB", "postgres://ada:hunter3@db/app"), ("OUTBOX_ROLE", "r")];
    let environment = [&environment[..], &[("OUTBOX_PLUGINS", "oci://ada:hunter4@r/p:1")]].concat();
    let given = sources(&[("OUTBOX_ROLE", "vector")], &environment, Some("max_retries = 3"));
    let shown = super::resolve(&given).unwrap().0.shown();
    let of = |key: &str| shown.iter().find(|row| row.key == key).map(|row| (&*row.value, &*row.origin)).unwrap();
    assert_eq!(of("token"), ("(not shown)", "OUTBOX_TOKEN"));
    assert_eq!(of("db"), ("postgres://db/app", "OUTBOX_DB"));
    assert_eq!(of("plugins"), ("oci://…@r/p:1", "OUTBOX_PLUGINS"));
    assert_eq!(of("role"), ("vector", "--role"));
    assert_eq!(of("max_retries"), ("3", "max_retries in outbox.toml"));
    assert_eq!(of("visibility_sec"), ("60", "default"));
}
