//! The permissions of plugins, the ways in which attempts end, and the replacement of plugins; the components are WAT.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;

use outbox::core::{
    Attempt, AttemptReport, DeliveryMode, Failure, FailureClass, Handler as _, Outcome, PluginLimits, PluginRuns,
    PluginState, Span, SpanSink, TraceContext, TracedAttempt,
};
use outbox::runtime::{Plugins, compile, inspect};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::plugins::{PluginHost, Wat, attempt};

const LOOP: &str = "(loop $again (br $again)) unreachable";

fn failure(report: AttemptReport) -> Failure {
    match report.outcome {
        Outcome::Failed(failure) => failure,
        other => panic!("a failure is expected, not {other:?}"),
    }
}

async fn host_with(wat: Wat<'_>, manifest: &str) -> PluginHost {
    PluginHost::start(None, |dir| {
        fs::write(dir.join("p.wasm"), wat.bytes()).unwrap();
        fs::write(dir.join("p.toml"), manifest).unwrap();
    })
    .await
}

#[tokio::test]
async fn a_bare_component_handles_the_types_that_it_describes() {
    let host = PluginHost::start(None, |dir| {
        let wat = Wat { types: &["a", "bc.d"], ..Wat::default() };
        fs::write(dir.join("p.wasm"), wat.bytes()).unwrap();
    })
    .await;
    assert_eq!(host.types(), ["a", "bc.d"]);
    let report = host.handle("bc.d").await;
    assert!(matches!(report.outcome, Outcome::Done { result: None, .. }), "{report:?}");
    assert_eq!(report.digest.map(String::from), host.status("p").digest);
    assert_eq!(host.status("p").version.as_deref(), Some("1.2.3"));
    assert_eq!(host.handle("other").await, AttemptReport::without_component(Outcome::NoHandler));
}

#[tokio::test]
async fn starting_returns_at_once_and_tells_when_the_folder_has_been_scanned() {
    let host = host_with(Wat::default(), "").await;
    // This runtime has one thread, so the scan cannot run before the test awaits.
    let plugins = Plugins::start(host.settings(), &CancellationToken::new()).unwrap();
    assert!(!plugins.is_scanned() && plugins.served_types().is_empty());
    plugins.scanned().await;
    assert!(plugins.is_scanned());
    assert_eq!(plugins.served_types()[0].item_type, "t");
}

#[tokio::test]
async fn a_failure_of_the_guest_keeps_its_class_and_words() {
    let host = host_with(Wat { handle: "(i32.const 2048)", ..Wat::default() }, "").await;
    assert_eq!(failure(host.handle("t").await), Failure::new(FailureClass::Permanent, "told", "no"));
}

#[tokio::test]
async fn an_endless_loop_ends_when_its_cpu_time_is_spent_and_others_go_on_meanwhile() {
    let host = host_with(Wat { handle: LOOP, ..Wat::default() }, "limits.cpu = '200ms'").await;
    host.put("q.wasm", Wat { types: &["q"], ..Wat::default() }.bytes());
    host.until("the second plugin", |host| host.types() == ["q", "t"]).await;
    let mut looping = std::pin::pin!(host.handle("t"));
    // One thread runs both attempts, so the second can end first only if the host interrupts the loop.
    let quick = tokio::select! {
        biased;
        report = &mut looping => panic!("nothing went on beside the loop: {report:?}"),
        report = host.handle("q") => report,
    };
    assert!(matches!(quick.outcome, Outcome::Done { .. }));
    let failure = failure(looping.await);
    assert_eq!(failure.class, FailureClass::Cpu);
    assert!(failure.message.contains("`limits.cpu`, which is 200ms"), "{}", failure.message);
}

#[tokio::test]
async fn an_attempt_ends_at_its_deadline_and_soon_after_a_stop() {
    let host = host_with(Wat { handle: LOOP, ..Wat::default() }, "timeout = '9s'\nlimits.cpu = '60s'").await;
    let begun = Instant::now();
    let report = host.plugins.handle(attempt("t", Duration::from_millis(100))).await;
    let late = failure(report);
    assert_eq!(late.class, FailureClass::Timeout);
    assert!(late.message.contains("`timeout` is 9s"), "{}", late.message);
    let stopped = attempt("t", Duration::from_mins(1));
    stopped.stop.cancel();
    assert_eq!(host.plugins.handle(stopped).await.outcome, Outcome::Interrupted);
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn an_attempt_that_finds_no_free_slot_is_given_back() {
    let host = host_with(Wat { handle: LOOP, ..Wat::default() }, "limits.cpu = '60s'").await;
    let busy = (0..4).map(|_| host.plugins.handle(attempt("t", Duration::from_secs(1))));
    let waiting = async {
        let late = host.plugins.handle(attempt("t", Duration::from_millis(100))).await;
        let stopped = attempt("t", Duration::from_mins(1));
        stopped.stop.cancel();
        (failure(late), host.plugins.handle(stopped).await.outcome)
    };
    let (busy, (late, stopped)) = tokio::join!(futures_util::future::join_all(busy), waiting);
    assert!(busy.into_iter().all(|report| failure(report).class == FailureClass::Timeout));
    assert!(late.class.is_uncounted() && late.message.contains("OUTBOX_CONCURRENCY"), "{late:?}");
    assert_eq!(stopped, Outcome::Interrupted);
}

#[tokio::test]
async fn what_is_handled_inline_has_neither_state_nor_followups() {
    let handle = format!("{EMIT} (i32.const 1024)");
    let host = host_with(emitter(&handle), "grant.emit = ['mail']").await;
    let inline = Attempt { mode: DeliveryMode::Inline, ..attempt("t", Duration::from_secs(30)) };
    let Outcome::Done { writes, .. } = host.plugins.handle(inline).await.outcome else { panic!("it should be done") };
    assert!(writes.followups.is_empty() && writes.state.is_empty());
}

#[tokio::test]
async fn a_memory_bomb_ends_with_the_name_of_the_limit_and_what_fits_runs() {
    let grow = "(drop (memory.grow (i32.const 32))) (i32.const 1024)";
    let bomb = || Wat { handle: grow, ..Wat::default() };
    let host = host_with(bomb(), "limits.memory = '1MiB'").await;
    let failure = failure(host.handle("t").await);
    assert_eq!(failure.class, FailureClass::Memory);
    assert!(failure.message.contains("`limits.memory` is 1MiB"), "{}", failure.message);
    let host = host_with(bomb(), "limits.memory = '4MiB'").await;
    assert!(matches!(host.handle("t").await.outcome, Outcome::Done { .. }));
}

#[tokio::test]
async fn a_trap_is_the_failure_of_one_attempt_and_the_next_starts_afresh() {
    // A second call of the same instance would trap, so each attempt must have a fresh instance.
    let once = "(if (i32.load8_u (i32.const 4000)) (then unreachable)) (i32.store8 (i32.const 4000) (i32.const 1)) (i32.const 1024)";
    let host = host_with(Wat { handle: once, ..Wat::default() }, "").await;
    for _ in 0..3 {
        assert!(matches!(host.handle("t").await.outcome, Outcome::Done { .. }));
    }
    host.put("q.wasm", Wat { types: &["q"], handle: "unreachable", ..Wat::default() }.bytes());
    host.until("the second plugin", |host| host.types() == ["q", "t"]).await;
    let failure = failure(host.handle("q").await);
    assert_eq!(failure.class, FailureClass::Trap);
    assert!(failure.message.contains("unreachable"), "{}", failure.message);
    assert!(matches!(host.handle("t").await.outcome, Outcome::Done { .. }));
}

/// Imports `followups` and emits `{type: "mail"}` before it runs `handle`.
fn emitter(handle: &str) -> Wat<'_> {
    Wat {
        imports: r#"
          (import "outbox:handler/followups@0.1.0" (instance $followups
            (type $new' (record (field "type" string) (field "payload" (list u8)) (field "content-type" string)
              (field "ordering-key" (option string)) (field "delay-ms" u64) (field "name" (option string))))
            (export "new-item" (type $new (eq $new')))
            (type $error' (variant (case "denied" string) (case "too-large") (case "too-many") (case "other" string)))
            (export "error" (type $error (eq $error')))
            (export "emit" (func (param "item" $new) (result (result (error $error)))))))
          (core module $memory (memory (export "memory") 1)
            (global $free (mut i32) (i32.const 1024))
            (func (export "realloc") (param i32 i32 i32 i32) (result i32)
              (global.get $free) (global.set $free (i32.add (global.get $free) (local.get 3))))
            (data (i32.const 0) "mail") (data (i32.const 16) "a/b"))
          (core instance $memory (instantiate $memory))
          (alias export $followups "emit" (func $emit))
          (core func $emit (canon lower (func $emit) (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))"#,
        core: r#"(import "host" "emit" (func $emit
          (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i32)))"#,
        with: r#"(with "host" (instance (export "emit" (func $emit))))"#,
        handle,
        ..Wat::default()
    }
}

const EMIT: &str = "(call $emit (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 16) (i32.const 3)
  (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 512))";

#[tokio::test]
async fn what_an_attempt_emits_is_in_its_report() {
    let handle = format!("{EMIT} (i32.const 1024)");
    let host = host_with(emitter(&handle), "grant.emit = ['mail']").await;
    let Outcome::Done { writes, .. } = host.handle("t").await.outcome else { panic!("it should be done") };
    assert_eq!(writes.plugin, "p");
    let keys: Vec<_> = writes.followups.iter().map(|item| (item.item_type.as_str(), item.idem_key.as_str())).collect();
    assert_eq!(keys, [("mail", "key/mail/1")]);
}

/// Records every trace and keeps no span.
#[derive(Debug)]
struct RecordsAll;

impl SpanSink for RecordsAll {
    fn is_recorded(&self, _: &str, _: Option<&TraceContext>) -> bool {
        true
    }

    fn record(&self, _: Span) {}
}

#[tokio::test]
async fn what_a_recorded_attempt_emits_names_it_as_its_caller() {
    let handle = format!("{EMIT} (i32.const 1024)");
    let host = host_with(emitter(&handle), "grant.emit = ['mail']").await;
    let attempt = attempt("t", Duration::from_mins(1));
    let trace = TracedAttempt::new(Arc::new(RecordsAll), Arc::clone(&attempt.item), Instant::now());
    let attempt = Attempt { trace: Some(Arc::clone(&trace)), ..attempt };
    let Outcome::Done { writes, .. } = host.plugins.handle(attempt).await.outcome else { panic!("it should be done") };
    assert_eq!(writes.followups[0].headers.get("traceparent"), trace.traceparent().as_ref());
}

#[tokio::test]
async fn an_attempt_that_fails_after_a_denial_is_denied_with_the_lines_that_would_allow_it() {
    let handle = format!("{EMIT} (i32.const 2048)");
    let host = host_with(emitter(&handle), "grant.emit = ['other']").await;
    let failure = failure(host.handle("t").await);
    assert_eq!(failure.class, FailureClass::Denied);
    assert!(
        failure.message.contains("p.toml would allow it:\n[grant]\nemit = [\"other\", \"mail\"]"),
        "{}",
        failure.message
    );
    assert!(failure.message.ends_with("the component then failed: no"), "{}", failure.message);
}

#[tokio::test]
async fn an_import_that_is_not_granted_refuses_the_load_with_the_lines_that_grant_it() {
    let host = PluginHost::start(None, |dir| {
        let http = Wat { imports: r#"(import "wasi:http/outgoing-handler@0.2.3" (instance))"#, ..Wat::default() };
        fs::write(dir.join("http.wasm"), http.bytes()).unwrap();
        fs::write(dir.join("http.toml"), "").unwrap();
        fs::write(dir.join("emit.wasm"), emitter("(i32.const 1024)").bytes()).unwrap();
    })
    .await;
    assert!(host.types().is_empty());
    let missing = format!("has none: there is no file {}; a file with these lines", host.path("emit.toml").display());
    for (name, words, lines) in [
        ("http", "http.toml does not grant; these lines in http.toml grant it:", "[[grant.http]]\norigin ="),
        ("emit", &format!("{missing} grants it:"), "[grant]\nemit = [\"TYPE\"]"),
    ] {
        let error = host.status(name).error.unwrap();
        assert!(error.contains(&format!("{words}\n{lines}")), "{error}");
    }
    host.put("http.toml", "[[grant.http]]\norigin = 'http://127.0.0.1:1'");
    host.until("the granted plugin", |host| host.types() == ["t"]).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_loaded_is_refused_in_words_and_leaves_the_good_one_live() {
    let host = host_with(Wat::default(), "").await;
    let good = host.status("p");
    let whole = Wat::default().bytes();
    let code = wasmtime::Engine::default().precompile_component(&whole).unwrap();
    let strange = r#"(component (import "acme:db/sql" (instance)))"#;
    for (bytes, words) in [
        (wat::parse_str("(module)").unwrap(), "core module"),
        (whole[..whole.len() / 2].to_vec(), "damaged, incomplete"),
        (code, "precompiled code"),
        (b"#!/bin/sh".to_vec(), "not WebAssembly"),
        (wat::parse_str("(component)").unwrap(), "exports nothing; a handler exports outbox:handler/handler@0.1.0"),
        (Wat { version: "0.2.0", ..Wat::default() }.bytes(), "another version of the contract"),
        (wat::parse_str(strange).unwrap(), "exports nothing"),
        (
            Wat { imports: r#"(import "acme:db/sql" (instance))"#, ..Wat::default() }.bytes(),
            "imports acme:db/sql, which this host does not offer",
        ),
        (Wat { types: &["Bad Type"], ..Wat::default() }.bytes(), "Bad Type"),
        (Wat { types: &[], ..Wat::default() }.bytes(), "no type"),
    ] {
        host.put("p.wasm", bytes);
        host.until(words, |host| host.status("p").error.is_some_and(|error| error.contains(words))).await;
        let status = host.status("p");
        assert_eq!(
            (status.state, status.digest, status.generation),
            (PluginState::Active, good.digest.clone(), good.generation)
        );
        assert_eq!(host.types(), ["t"]);
    }
    host.put("p.wasm", &whole);
    host.until("the good one again", |host| host.status("p").error.is_none()).await;
}

#[tokio::test]
async fn a_bad_manifest_is_an_error_that_names_the_key_and_the_old_terms_stay() {
    let host = host_with(Wat::default(), "timeout = '7s'").await;
    host.put("p.toml", "timout = '8s'");
    host.until("the misspelt key", |host| host.status("p").error.is_some_and(|error| error.contains("`timeout`")))
        .await;
    assert_eq!(host.plugins.served_types()[0].timeout, Some(Duration::from_secs(7)));
    host.put("p.toml", "timeout = '8s'");
    host.until("the new terms", |host| host.plugins.served_types()[0].timeout == Some(Duration::from_secs(8))).await;
    assert_eq!(host.status("p").error, None);
    host.put("p.toml", format!("sha256 = '{}'", "0".repeat(64)));
    host.until("the pin", |host| host.status("p").error.is_some_and(|error| error.contains("pins 000"))).await;
}

#[tokio::test]
async fn a_manifest_that_vanishes_counts_only_when_it_stays_away() {
    let host = host_with(Wat::default(), "timeout = '7s'").await;
    fs::remove_file(host.path("p.toml")).unwrap();
    host.put("p.wasm", Wat { types: &["t", "u"], ..Wat::default() }.bytes());
    host.put("q.wasm", Wat { types: &["q"], ..Wat::default() }.bytes());
    host.until("the other plugin", |host| host.types().contains(&"q".to_owned())).await;
    assert_eq!(host.types(), ["q", "t"], "half of a plugin was published");
    host.until("the absence to count", |host| host.types() == ["q", "t", "u"]).await;
    assert!(host.plugins.served_types().iter().all(|served_type| served_type.timeout.is_none()));
}

#[tokio::test]
async fn a_swapped_symbolic_link_replaces_what_it_points_to() {
    let host = host_with(Wat { types: &["q"], ..Wat::default() }, "").await;
    for (version, types) in [("..v1", &["u"]), ("..v2", &["v"])] {
        fs::create_dir(host.path(version)).unwrap();
        fs::write(host.path(version).join("m.wasm"), Wat { types, ..Wat::default() }.bytes()).unwrap();
        symlink(version, host.path("..next")).unwrap();
        fs::rename(host.path("..next"), host.path("..data")).unwrap();
        if version == "..v1" {
            symlink("..data/m.wasm", host.path("m.wasm")).unwrap();
        }
        host.until("the link's new target", |host| host.types() == ["q", types[0]]).await;
    }
}

#[tokio::test]
async fn inspecting_tells_what_is_missing_without_loading_anything() {
    let host = PluginHost::start(None, |_| ()).await;
    host.put("e.wasm", emitter("(i32.const 1024)").bytes());
    let inspection = inspect(&host.path("e.wasm"), host.settings()).await.unwrap();
    assert_eq!(inspection.types, ["t"]);
    assert_eq!(inspection.missing_grants.as_deref(), Some("[grant]\nemit = [\"TYPE\"]"));
    assert!(inspection.errors.len() == 1 && inspection.errors[0].contains("there is no file"), "{inspection:?}");
    host.put("e.toml", "grant.emit = ['mail']\ntimeout = 3");
    let broken = inspect(&host.path("e.wasm"), host.settings()).await.unwrap();
    assert!(broken.errors.len() == 1 && broken.errors[0].contains("timeout"), "{:?}", broken.errors);
    assert_eq!(broken.missing_grants, None, "what it grants is not known");
    host.put("e.toml", "grant.emit = ['mail']\ntimeout = '3s'");
    let granted = inspect(&host.path("e.wasm"), host.settings()).await.unwrap();
    assert_eq!((granted.errors.len(), granted.attempt_time), (0, Duration::from_secs(3)));
    let shown = serde_json::to_value(&granted).unwrap();
    assert_eq!((&shown["attempt_time_ms"], &shown["limits"]["cpu_ms"]), (&json!(3_000), &json!(2_000)));
    assert!(shown["compile_time_ms"].is_u64(), "{shown}");
    host.put("e.wasm", wat::parse_str("(module)").unwrap());
    let module = inspect(&host.path("e.wasm"), host.settings()).await.unwrap();
    assert!(module.errors[0].contains("core module"), "{:?}", module.errors);
}

fn cached_code(host: &PluginHost) -> Vec<String> {
    let files = fs::read_dir(host.settings().cache_dir).unwrap().map(|file| file.unwrap().path());
    let code = files.filter(|file| file.extension().is_some_and(|extension| extension == "code"));
    code.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn compiling_fills_the_cache_that_a_host_takes_the_code_from_and_needs_no_manifest() {
    let host = PluginHost::start(None, |_| ()).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let (file, module) = (elsewhere.path().join("p.wasm"), elsewhere.path().join("module.wasm"));
    fs::write(&file, Wat::default().bytes()).unwrap();
    fs::write(file.with_extension("toml"), "[grant]\nenv = ['A_VARIABLE_THAT_ONLY_THE_POD_HAS']").unwrap();
    fs::write(&module, wat::parse_str("(module)").unwrap()).unwrap();
    let compiled = compile(&[file, module], host.settings()).await.unwrap();
    assert_eq!(compiled[0].error, None);
    assert!(compiled[1].error.as_ref().unwrap().contains("core module"), "{compiled:?}");
    let code = cached_code(&host);
    assert!(matches!(&code[..], [name] if name.starts_with(&compiled[0].digest)), "{code:?}");

    host.put("p.wasm", Wat::default().bytes());
    host.until("the plugin", |host| host.types() == ["t"]).await;
    assert_eq!(cached_code(&host), code, "the host compiled it again");
}

#[tokio::test]
async fn the_status_says_what_a_plugin_may_do_and_what_its_attempts_came_to() {
    let manifest = "limits = { cpu = '20ms', concurrency = 3 }
        [grant]
        state = true
        emit = ['b']
        [[grant.http]]
        origin = 'https://mail.example'
        methods = ['POST']
        path = '/a-secret-path'";
    let host = host_with(Wat { handle: LOOP, ..Wat::default() }, manifest).await;
    let status = host.status("p");
    assert_eq!(status.grants, ["POST https://mail.example, some paths", "state", "emit b"]);
    let limits = PluginLimits { concurrency: Some(3), cpu_ms: 20, memory: 64 << 20, ..PluginLimits::default() };
    assert_eq!((status.limits, status.runs), (Some(limits), PluginRuns::default()));
    host.handle("t").await;
    let runs = host.status("p").runs;
    assert!((runs.attempts, runs.faults) == (1, 1) && runs.cpu_ms >= 20, "{runs:?}");
}

#[tokio::test]
async fn a_removed_component_is_no_longer_served() {
    let host = host_with(Wat::default(), "").await;
    fs::remove_file(host.path("p.wasm")).unwrap();
    host.until("the removal", |host| host.types().is_empty()).await;
    assert!(host.plugins.status().is_empty());
}

#[tokio::test]
async fn a_component_that_is_slow_to_load_keeps_no_other_waiting() {
    let host = PluginHost::start(None, |_| ()).await;
    // It computes until its limit, a second of CPU time. Its file is read first, and is the smaller one.
    let slow = Wat { describe: LOOP, ..Wat::default() }.bytes();
    let quick_type = "quick-and-of-a-long-name";
    let quick = Wat { types: &[quick_type], ..Wat::default() }.bytes();
    assert!(slow.len() < quick.len());
    host.put("a.wasm", slow);
    host.put("b.wasm", quick);
    host.until("the quick one", |host| host.types() == [quick_type]).await;
    assert_eq!(host.status("a").state, PluginState::Loading);
    host.until("the refusal of the slow one", |host| host.status("a").state == PluginState::Failed).await;
    assert!(host.status("a").error.is_some());
}

#[tokio::test]
async fn a_slow_copy_is_loaded_once_it_is_whole() {
    let host = host_with(Wat::default(), "").await;
    let bytes = Wat { types: &["u"], ..Wat::default() }.bytes();
    let mut file = fs::File::create(host.path("p.wasm")).unwrap();
    for piece in bytes.chunks(bytes.len() / 8) {
        file.write_all(piece).unwrap();
        file.flush().unwrap();
        assert_ne!(host.types(), [""; 0], "the good one must stay while the copy goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    host.until("the copy", |host| host.types() == ["u"]).await;
}

#[tokio::test]
async fn an_attempt_finishes_on_the_version_that_it_began_with() {
    let host = host_with(Wat { handle: LOOP, ..Wat::default() }, "limits.cpu = '60s'").await;
    let old = host.status("p").digest;
    let running = attempt("t", Duration::from_mins(1));
    let stop = running.stop.clone();
    let plugins = std::sync::Arc::clone(&host.plugins);
    let running = tokio::spawn(async move { plugins.handle(running).await });
    host.put("p.wasm", Wat::default().bytes());
    host.until("the new version", |host| host.status("p").digest != old).await;
    assert!(matches!(host.handle("t").await.outcome, Outcome::Done { .. }));
    let draining = |host: &PluginHost| host.plugins.status().iter().any(|status| status.state == PluginState::Draining);
    assert!(draining(&host));
    stop.cancel();
    assert_eq!(running.await.unwrap().digest.map(String::from), old);
    assert!(!draining(&host));
}

#[tokio::test]
async fn a_type_belongs_to_the_role_before_the_root_and_then_to_the_first_file() {
    let host = PluginHost::start(Some("vector"), |dir| {
        fs::create_dir(dir.join("vector")).unwrap();
        fs::create_dir(dir.join("belief")).unwrap();
        fs::write(dir.join("a.wasm"), Wat { types: &["t", "u"], ..Wat::default() }.bytes()).unwrap();
        fs::write(dir.join("b.wasm"), Wat { types: &["u"], ..Wat::default() }.bytes()).unwrap();
        fs::write(dir.join("vector/z.wasm"), Wat::default().bytes()).unwrap();
        fs::write(dir.join("belief/x.wasm"), Wat { types: &["x"], ..Wat::default() }.bytes()).unwrap();
    })
    .await;
    assert_eq!(host.types(), ["t", "u"]);
    assert_eq!(host.status("z").types, ["t"]);
    assert_eq!(host.status("z").role.as_deref(), Some("vector"));
    assert_eq!(host.status("a").types, ["u"]);
    assert_eq!(host.status("a").refused[0].r#type, "t");
    assert!(host.status("a").refused[0].reason.contains("z.wasm"));
    assert_eq!(host.status("b").state, PluginState::Failed);
    fs::remove_file(host.path("a.wasm")).unwrap();
    host.until("the next owner", |host| host.status("b").types == ["u"]).await;
}
